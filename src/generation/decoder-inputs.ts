/** What the decoder of an encoder-decoder reads in a forward pass, from what callers bring. B batch, U positions. */
import { UserError } from "../errors.js";
import { int64Tensor, type HostTensor } from "../host-tensor.js";
import { ignoreIndex } from "../objectives/cross-entropy.js";
import type { DecoderInputs } from "./encoder-decoder.js";
import { integers, requireDims, type RawTensor } from "../raw-tensors.js";

interface Given {
  readonly labels?: RawTensor | undefined;
  readonly decoderInputIds?: RawTensor | undefined;
  readonly decoderAttentionMask?: RawTensor | undefined;
}

interface Ids {
  readonly decoderStartId?: number;
  readonly padId: number;
}

/**
 * Labels, and what the decoder reads: `decoderInputIds`, or the labels one place later behind the start token.
 * Throws a `UserError` if neither is there, and if shapes differ.
 */
export function decoderInputs(
  { labels, decoderInputIds, decoderAttentionMask }: Given,
  batch: number,
  { decoderStartId = 0, padId }: Ids,
): DecoderInputs & { readonly labels: HostTensor | undefined } {
  const targets = labels === undefined ? undefined : matrix("labels", labels, batch);
  const ids =
    decoderInputIds === undefined
      ? targets && shiftedRight(targets, decoderStartId, padId)
      : matrix("decoderInputIds", decoderInputIds, batch);
  if (ids === undefined) {
    throw new UserError("forward: this model's decoder needs labels or decoderInputIds, neither is given");
  }
  if (ids.data.length === 0)
    throw new UserError("forward: decoderInputIds and labels must have a position at least, they have none");
  if (targets !== undefined) requireDims("labels", targets, ids.dims);
  const ones = int64Tensor(new BigInt64Array(ids.data.length).fill(1n), ids.dims);
  const mask =
    decoderAttentionMask === undefined ? ones : matrix("decoderAttentionMask", decoderAttentionMask, batch);
  requireDims("decoderAttentionMask", mask, ids.dims);
  return { ids, mask, labels: targets };
}

/** For a model that is no encoder-decoder. */
export function refuseDecoderInputs(given: Given): void {
  for (const name of ["decoderInputIds", "decoderAttentionMask"] as const) {
    if (given[name] === undefined) continue;
    throw new UserError(`forward: ${name} is for an encoder-decoder, this model is none; use inputIds`);
  }
}

function matrix(name: string, tensor: RawTensor, batch: number): HostTensor {
  const converted = integers(name, tensor);
  requireDims(name, converted, [batch, converted.dims[1] ?? 0]);
  return converted;
}

/** Each row one place later, behind the start token; labels without part in the loss become padding. */
function shiftedRight({ data, dims }: HostTensor, start: number, pad: number): HostTensor {
  const length = dims[1]!;
  const shifted = Array.from(data as BigInt64Array, (_, i) => {
    const before = i % length === 0 ? start : Number(data[i - 1]);
    return before === ignoreIndex ? pad : before;
  });
  return int64Tensor(shifted, dims);
}
