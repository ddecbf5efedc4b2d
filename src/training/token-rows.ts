/** Rows of token ids with labels, made into one padded batch. */
import type { HostTensors } from "../engine/index.js";
import { int64Tensor } from "../host-tensor.js";
import { ignoreIndex } from "../objectives/cross-entropy.js";

export interface TokenRow {
  readonly ids: readonly number[];
  /** As long as `ids`; `ignoreIndex` where nothing is learnt. */
  readonly labels: readonly number[];
}

/** ids, mask, labels: int64 [B, T], padded on the right to the longest row. */
export function paddedBatch(rows: readonly TokenRow[], padId: number): HostTensors {
  const length = Math.max(...rows.map(({ ids }) => ids.length));
  const dims = [rows.length, length];
  const fill = (value: (row: TokenRow, place: number) => number) => {
    const data = new BigInt64Array(rows.length * length);
    rows.forEach((row, r) => {
      for (let place = 0; place < length; place++) data[r * length + place] = BigInt(value(row, place));
    });
    return int64Tensor(data, dims);
  };
  return {
    ids: fill(({ ids }, place) => ids[place] ?? padId),
    mask: fill(({ ids }, place) => (place < ids.length ? 1 : 0)),
    labels: fill(({ labels }, place) => labels[place] ?? ignoreIndex),
  };
}
