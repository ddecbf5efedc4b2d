/** One pass on tensors that callers bring, checked before anything is computed. Shapes as in `calls.ts`. */
import { UserError } from "../errors.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../host-tensor.js";
import { checkIds, checkMask, floats, integers, requireDims, withoutImageTokens } from "../raw-tensors.js";
import type { RetrieverForwardInputs, RetrieverForwardOutputs } from "./calls.js";
import type { RetrievalRunner } from "./retrieval-runner.js";
import { bestCosine, rowOf } from "./scores.js";

/** Throws a `UserError` that names the tensor which does not fit. */
export async function forwardPass(
  runner: RetrievalRunner,
  inputs: RetrieverForwardInputs,
): Promise<RetrieverForwardOutputs> {
  const { signal, useImageTextMatchingHead: isMatching = false } = inputs;
  const { batch, count, pixels, ids, mask } = checked(runner, inputs, isMatching);
  const { hidden, visionFeatures } = await runner.look(pixels, { signal, normalised: true });
  if (isMatching) {
    const picture = int64Tensor(range(batch), [batch]);
    const logits = await runner.matchingLogits(hidden, picture, ids, mask, signal);
    return { logitsPerImage: logits, logitsPerText: transposed(logits), visionFeatures: visionFeatures! };
  }
  const imageEmbeds = await runner.imageEmbeds(hidden, signal);
  const textEmbeds = await runner.textEmbeds(ids, mask, signal);
  const texts = range(count).map((t) => rowOf(textEmbeds, t, count));
  const cosines = range(batch).flatMap((b) => {
    const queries = rowOf(imageEmbeds, b, batch);
    return texts.map((text) => bestCosine(queries, text));
  });
  const logitsPerImage = float32Tensor(cosines, [batch, count]);
  const logitsPerText = transposed(logitsPerImage);
  return { logitsPerImage, logitsPerText, imageEmbeds, textEmbeds, visionFeatures: visionFeatures! };
}

/** The tensors as the programs take them: ids and mask of the text alone, int64 [N, T]. */
function checked({ config }: RetrievalRunner, inputs: RetrieverForwardInputs, isMatching: boolean) {
  const { vision_config: vision, qformer_config: qformer, num_query_tokens: queries } = config;
  const pixels = floats("pixelValues", inputs.pixelValues);
  const [batch = 0] = pixels.dims;
  requireDims("pixelValues", pixels, [batch, 3, vision.image_size, vision.image_size]);
  if (batch === 0) throw new UserError("forward: pixelValues hold no picture; at least one is required");
  const given = integers("inputIds", inputs.inputIds);
  const [count = 0, columns = 0] = given.dims;
  requireDims("inputIds", given, [isMatching ? batch : count, columns]);
  const imageToken = config.image_token_index ?? undefined;
  const lead = imageToken === undefined ? 0 : queries;
  if (count === 0 || columns === lead)
    throw new UserError("forward: inputIds hold no text; at least one token is required");
  const ones = int64Tensor(new BigInt64Array(given.data.length).fill(1n), given.dims);
  const givenMask =
    inputs.attentionMask === undefined ? ones : integers("attentionMask", inputs.attentionMask);
  requireDims("attentionMask", givenMask, given.dims);
  checkMask("attentionMask", givenMask);
  const ids = imageToken === undefined ? given : withoutImageTokens(given, imageToken, queries);
  checkIds("inputIds", ids, qformer.vocab_size);
  const length = columns - lead;
  const { max_position_embeddings: positions } = qformer;
  if (length > positions)
    throw new UserError(
      `forward: inputIds hold texts of ${length} tokens, the model has ${positions} positions; shorten them`,
    );
  // The queries see no mask: of a text, something must be there.
  const mask = withoutColumns(givenMask, lead);
  checkMask("the text's part of attentionMask", mask);
  return { batch, count, pixels, ids, mask };
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
