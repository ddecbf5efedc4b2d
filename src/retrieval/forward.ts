/** One pass on tensors that callers bring, checked before anything is computed. Shapes as in `calls.ts`. */
import { UserError } from "../errors.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../host-tensor.js";
import { checkIds, checkMask, floats, integers, requireDims, withoutImageTokens } from "../raw-tensors.js";
import type { RetrieverForwardInputs, RetrieverForwardOutputs } from "./calls.js";
import type { RetrievalRunner } from "./retrieval-runner.js";
import { bestCosine } from "./similarity.js";

/** Throws a `UserError` that names the tensor which does not fit. */
export async function forwardPass(
  runner: RetrievalRunner,
  inputs: RetrieverForwardInputs,
): Promise<RetrieverForwardOutputs> {
  const { config } = runner;
  const { signal, useImageTextMatchingHead: isMatching = false } = inputs;
  const { vision_config: vision, num_query_tokens: queries } = config;
  const pixels = floats("pixelValues", inputs.pixelValues);
  const [batch = 0] = pixels.dims;
  requireDims("pixelValues", pixels, [batch, 3, vision.image_size, vision.image_size]);
  if (batch === 0) throw new UserError("forward: pixelValues hold no picture; at least one is required");
  const given = integers("inputIds", inputs.inputIds);
  const [count = 0, columns = 0] = given.dims;
  requireDims("inputIds", given, [isMatching ? batch : count, columns]);
  const ones = int64Tensor(new BigInt64Array(given.data.length).fill(1n), given.dims);
  const givenMask =
    inputs.attentionMask === undefined ? ones : integers("attentionMask", inputs.attentionMask);
  requireDims("attentionMask", givenMask, given.dims);
  const imageToken = config.image_token_index ?? undefined;
  const ids = imageToken === undefined ? given : withoutImageTokens(given, imageToken, queries);
  const mask = imageToken === undefined ? givenMask : withoutColumns(givenMask, queries);
  const [, length = 0] = ids.dims;
  const { vocab_size: rows, max_position_embeddings: positions } = config.qformer_config;
  if (ids.data.length === 0)
    throw new UserError("forward: inputIds hold no text; a row with one token at least is required");
  if (length > positions) {
    throw new UserError(
      `forward: inputIds hold texts of ${length} tokens, the model has ${positions} positions; shorten them`,
    );
  }
  checkIds("inputIds", ids, rows);
  checkMask("attentionMask", givenMask);
  checkMask("the text's part of attentionMask", mask);
  const { hidden, visionFeatures } = await runner.look(pixels, { signal, normalised: true });
  if (isMatching) {
    const picture = int64Tensor(range(batch), [batch]);
    const logits = await runner.matchingLogits(hidden, picture, ids, mask, signal);
    return { logitsPerImage: logits, logitsPerText: transposed(logits), visionFeatures: visionFeatures! };
  }
  const imageEmbeds = await runner.imageEmbeds(hidden, signal);
  const textEmbeds = await runner.textEmbeds(ids, mask, signal);
  const width = config.image_text_hidden_size;
  const rowsOf = (tensor: HostTensor, i: number, rows: number): Float32Array =>
    (tensor.data as Float32Array).subarray(i * rows * width, (i + 1) * rows * width);
  const cosines = range(batch).flatMap((b) =>
    range(count).map((t) => bestCosine(rowsOf(imageEmbeds, b, queries), rowsOf(textEmbeds, t, 1))),
  );
  const logitsPerImage = float32Tensor(cosines, [batch, count]);
  const logitsPerText = transposed(logitsPerImage);
  return { logitsPerImage, logitsPerText, imageEmbeds, textEmbeds, visionFeatures: visionFeatures! };
}

function transposed({ data, dims }: HostTensor): HostTensor {
  const [rows, columns] = dims as readonly [number, number];
  return float32Tensor(
    Float32Array.from(data as Float32Array, (_, i) =>
      Number(data[(i % rows) * columns + Math.floor(i / rows)]),
    ),
    [columns, rows],
  );
}

/** int64 [N, count + T] -> [N, T]. */
function withoutColumns(tensor: HostTensor, count: number): HostTensor {
  const [rows, columns] = tensor.dims as readonly [number, number];
  const data = (tensor.data as BigInt64Array).filter((_, i) => i % columns >= count);
  return int64Tensor(data, [rows, columns - count]);
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
