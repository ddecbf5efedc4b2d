/** Rows of token ids behind soft positions, as the batch that a language model reads. */
import { int64Tensor, type HostTensor } from "../host-tensor.js";
import type { Prompt } from "./search/stepper.js";

interface PromptIds {
  readonly padId: number;
  /** Only an encoder-decoder has one. */
  readonly decoderStartId?: number | undefined;
  readonly softId?: number | undefined;
}

/**
 * Padded as transformers does: on the left, between soft positions and text, where the text goes on; on the right for an
 * encoder, which sees how far apart things are.
 *
 * @param embeddings float32 [B, Q, E]; Q may be 0.
 * @param rows B prompts.
 */
export function paddedPrompt(
  embeddings: HostTensor,
  rows: readonly (readonly number[])[],
  { padId, decoderStartId, softId }: PromptIds,
): Prompt {
  const queries = embeddings.dims[1]!;
  const length = Math.max(...rows.map((row) => row.length));
  const ids = new BigInt64Array(rows.length * length).fill(BigInt(padId));
  const mask = new BigInt64Array(rows.length * (queries + length));
  for (const [b, row] of rows.entries()) {
    const start = decoderStartId === undefined ? length - row.length : 0;
    for (const [t, id] of row.entries()) ids[b * length + start + t] = BigInt(id);
    mask.fill(1n, b * (queries + length), b * (queries + length) + queries);
    const first = b * (queries + length) + queries + start;
    mask.fill(1n, first, first + row.length);
  }
  return {
    embeddings,
    ids: int64Tensor(ids, [rows.length, length]),
    mask: int64Tensor(mask, [rows.length, queries + length]),
    softId,
    decoderStartId,
  };
}
