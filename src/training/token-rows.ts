/** Rows of token ids with labels, made into one padded batch. */
import type { HostTensors } from "../engine/index.js";
import { int64Tensor, type HostTensor } from "../host-tensor.js";
import { ignoreIndex } from "../objectives/cross-entropy.js";

export interface TokenRow {
  readonly ids: readonly number[];
  /** As long as `ids`; `ignoreIndex` where nothing is learnt. */
  readonly labels: readonly number[];
}

/** ids, mask, labels: int64 [B, T], padded on the right to the longest row. */
export function paddedBatch(rows: readonly TokenRow[], padId: number): HostTensors {
  return {
    ...paddedIds(
      rows.map(({ ids }) => ids),
      padId,
    ),
    labels: paddedRows(
      rows.map(({ labels }) => labels),
      ignoreIndex,
    ),
  };
}

/** ids, mask: the same without labels. */
export function paddedIds(
  rows: readonly (readonly number[])[],
  padId: number,
): { readonly ids: HostTensor; readonly mask: HostTensor } {
  return {
    ids: paddedRows(rows, padId),
    mask: paddedRows(
      rows.map((row) => row.map(() => 1)),
      0,
    ),
  };
}

/** Rows of numbers, filled on the right to the longest. -> int64 [B, T]. */
export function paddedRows(rows: readonly (readonly number[])[], fill: number): HostTensor {
  const length = Math.max(...rows.map((row) => row.length));
  const data = new BigInt64Array(rows.length * length).fill(BigInt(fill));
  rows.forEach((row, r) => row.forEach((value, place) => (data[r * length + place] = BigInt(value))));
  return int64Tensor(data, [rows.length, length]);
}
