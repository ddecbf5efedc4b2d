/** One pass through all parts on tensors that callers bring, checked before anything is computed. Shapes as in `calls.ts`. */
import { UserError } from "../errors.js";
import { int64Tensor, type HostTensor } from "../host-tensor.js";
import { ignoreIndex } from "../objectives/cross-entropy.js";
import {
  checkIds,
  checkMask,
  floats,
  integers,
  requireDims,
  withLeading,
  withoutImageTokens,
  type RawTensor,
} from "../raw-tensors.js";
import type { Blip2Runner } from "./blip-2-runner.js";
import type { ForwardInputs, ForwardOutputs } from "./calls.js";
import { decoderInputs, refuseDecoderInputs } from "./decoder-inputs.js";
import { checkMemory, languageBytes, usualMemory, usualPromptTokens, visionBytes } from "./limits.js";
import type { GenerationDefaults } from "./generation-defaults.js";
import type { Prompt } from "./search/stepper.js";

/** Mean cross-entropy of labels that stand beside logits. */
export type LossOf = (
  logits: HostTensor,
  labels: HostTensor,
  signal: AbortSignal | undefined,
) => Promise<HostTensor>;

/** Throws a `UserError` that names the tensor which does not fit. */
export async function forwardPass(
  runner: Blip2Runner,
  defaults: GenerationDefaults,
  inputs: ForwardInputs,
  lossOf: LossOf,
): Promise<ForwardOutputs> {
  const { signal, maxPromptTokens = usualPromptTokens, maxMemory = usualMemory } = inputs;
  const { config, languageModel } = runner;
  const { vision_config: vision, num_query_tokens: queries } = config;
  const { vocab_size: rows } = config.text_config;
  const pixels = floats("pixelValues", inputs.pixelValues);
  const [batch = 0] = pixels.dims;
  requireDims("pixelValues", pixels, [batch, 3, vision.image_size, vision.image_size]);
  if (batch === 0) throw new UserError("forward: pixelValues hold no picture; at least one is required");
  const ids = integers("inputIds", inputs.inputIds);
  requireDims("inputIds", ids, [batch, ids.dims[1] ?? 0]);
  const likeIds = (name: string, tensor: RawTensor): HostTensor => {
    const converted = integers(name, tensor);
    requireDims(name, converted, ids.dims);
    return converted;
  };
  const ones = int64Tensor(new BigInt64Array(ids.data.length).fill(1n), ids.dims);
  const mask = inputs.attentionMask === undefined ? ones : likeIds("attentionMask", inputs.attentionMask);
  checkMask("attentionMask", mask);
  const isEncoderDecoder = languageModel.kind === "encoder-decoder";
  const target = isEncoderDecoder ? decoderInputs(inputs, batch, defaults) : undefined;
  if (target === undefined) refuseDecoderInputs(inputs);
  const given = inputs.labels;
  const labels =
    target === undefined ? (given === undefined ? given : likeIds("labels", given)) : target.labels;
  // Before the decoder's ids, which may follow from them.
  if (labels !== undefined) checkIds("labels", labels, rows, ignoreIndex);
  if (target !== undefined) {
    checkIds("decoderInputIds", target.ids, rows);
    checkMask("decoderAttentionMask", target.mask);
  }
  const imageToken = config.image_token_index ?? undefined;
  const text = imageToken === undefined ? ids : withoutImageTokens(ids, imageToken, queries);
  checkIds("inputIds", text, rows);
  const length = queries + (text.dims[1] ?? 0);
  const most = Number.isFinite(languageModel.maximumLength)
    ? languageModel.maximumLength
    : queries + maxPromptTokens;
  for (const [name, count] of [
    ["inputIds", length],
    ["decoderInputIds", target?.ids.dims[1] ?? 0],
  ] as const) {
    if (count <= most) continue;
    const remedy = Number.isFinite(languageModel.maximumLength) ? "" : ", or raise maxPromptTokens";
    throw new UserError(
      `forward: ${name} come to ${count} positions, at most ${most} are taken; shorten them${remedy}`,
    );
  }
  const written = target?.ids.dims[1] ?? 0;
  const size = { prompts: batch, read: length, written, sequences: 1 };
  const logitBytes =
    4 * batch * (target === undefined ? length : written) * rows * (labels === undefined ? 2 : 6);
  const bytes = Math.max(languageBytes(languageModel, 0, size) + logitBytes, visionBytes(config, batch));
  const what = `a batch of ${batch} rows of ${length}${target === undefined ? "" : ` and ${written}`} positions`;
  checkMemory("forward", what, bytes, maxMemory, "give fewer or shorter rows");
  const outputs = await runner.imageOutputs(pixels, signal);
  const prompt: Prompt = {
    embeddings: outputs["languageProjection"]!,
    ids: text,
    mask: imageToken === undefined ? withLeading(mask, queries, 1n) : mask,
  };
  const logits =
    languageModel.kind === "encoder-decoder"
      ? await languageModel.forward(prompt, target!, signal)
      : await languageModel.forward(prompt, signal);
  const { visionFeatures, queryOutput, languageProjection } = outputs as Record<string, HostTensor>;
  const result = {
    logits,
    visionFeatures: visionFeatures!,
    queryOutput: queryOutput!,
    languageProjection: languageProjection!,
  };
  if (labels === undefined) return result;
  const isAligned = imageToken !== undefined || target !== undefined;
  const aligned = isAligned ? labels : withLeading(labels, queries, -100n);
  return { ...result, loss: await lossOf(logits, aligned, signal) };
}
