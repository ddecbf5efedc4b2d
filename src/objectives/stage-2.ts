/**
 * Stage 2, vision-to-language generative learning (paper section 3.3): the loss of a frozen language model
 * that reads the soft visual prompt trains the bridge. A decoder-only model goes on behind prompt and text;
 * an encoder-decoder reads prompt and prefix in its encoder, and its decoder gives the rest.
 * Shapes: B pairs, Q queries, S prefix positions, T text positions.
 */
import { integer, ops, type Tensor } from "../engine/index.js";
import type { SecondStage } from "../models/blip-2-bridge.js";
import type { DecoderOnly, EncoderDecoder } from "../models/language/language-model.js";
import { withQueries } from "../nn/attention-masks.js";
import type { Dropout } from "../nn/dropout.js";
import { ignoreIndex, nextTokenLoss } from "./cross-entropy.js";
import { textToTextLoss, type DecoderIds } from "./text-to-text.js";

export interface Stage2Batch {
  /** Frozen image features before the last norm [B, P, D_img]. */
  readonly features: Tensor;
  /** int64 [B, T]: start token, text, end token, padded. */
  readonly ids: Tensor;
  /** int64 [B, T]: 1 for real tokens. */
  readonly mask: Tensor;
  /** int64 [B, T]: the ids, -100 where nothing is to be learnt (padding, a prompt). */
  readonly labels: Tensor;
}

/**
 * How far a soft prompt is above `limit`, the largest root mean square of a position that costs nothing: the mean over
 * positions of max(0, rms / limit - 1) squared. The layers of a frozen language model add to what they read in
 * amounts that fit the spread of words. What is ten times as large drowns them, and only what is read off it
 * directly is left. Not in the paper. softPrompt: [B, Q, L] -> scalar.
 */
export function promptScalePenalty(softPrompt: Tensor, limit: number): Tensor {
  const squared = ops.reduceMean(ops.mul(softPrompt, softPrompt), [-1]);
  const over = ops.relu(ops.sub(ops.div(ops.sqrt(ops.add(squared, 1e-12)), limit), 1));
  return ops.reduceMean(ops.mul(over, over));
}

/** @param promptLimit adds `promptScalePenalty` to the loss. -> scalar. */
export function softPromptLoss(
  bridge: SecondStage,
  languageModel: DecoderOnly,
  batch: Stage2Batch,
  dropout?: Dropout,
  promptLimit?: number,
): Tensor {
  const { softPrompt } = bridge.forward(batch.features, dropout);
  const queries = bridge.config.queryCount;
  const { lastHiddenState } = languageModel.forward({
    inputsEmbeds: ops.concat([softPrompt, languageModel.embed(batch.ids)], 1),
    attentionMask: withQueries(batch.mask, queries),
    ...(dropout && { dropout }),
  });
  // The last visual position predicts the first token; positions before it are not asked.
  const [b, t] = batch.ids.shape;
  const hidden = ops.slice(lastHiddenState, 1, queries - 1, ops.addDims(t!, 1));
  const none = ops.expand(integer(ignoreIndex), [b!, 1]);
  const loss = nextTokenLoss(languageModel.logits(hidden), ops.concat([none, batch.labels], 1));
  return promptLimit === undefined ? loss : ops.add(loss, promptScalePenalty(softPrompt, promptLimit));
}

export interface PrefixBatch {
  /** Frozen image features before the last norm [B, P, D_img]. */
  readonly features: Tensor;
  /** int64 [B, S]: prompt and prefix with the end token, padded; S may be 0. */
  readonly prefixIds: Tensor;
  /** int64 [B, S]: 1 for real tokens. */
  readonly prefixMask: Tensor;
  /** int64 [B, T]: what the decoder shall say, the end token last, padded with -100. */
  readonly labels: Tensor;
  /** int64 [B, T]: what the decoder reads, one place later, where that is more than its labels. */
  readonly said?: Tensor;
}

/**
 * The prefix language-modelling loss: the mean over labels of -log p[label], each given the soft prompt, the
 * prefix and the labels before it.
 *
 * @param promptLimit adds `promptScalePenalty` to the loss. -> scalar.
 */
export function prefixLanguageModelLoss(
  bridge: SecondStage,
  languageModel: EncoderDecoder,
  { features, prefixIds, prefixMask, ...spoken }: PrefixBatch,
  ids: DecoderIds,
  dropout?: Dropout,
  promptLimit?: number,
): Tensor {
  const { softPrompt } = bridge.forward(features, dropout);
  const batch = {
    inputsEmbeds: ops.concat([softPrompt, languageModel.embed(prefixIds)], 1),
    encoderMask: withQueries(prefixMask, bridge.config.queryCount),
    ...spoken,
  };
  const loss = textToTextLoss(languageModel, batch, ids, dropout);
  return promptLimit === undefined ? loss : ops.add(loss, promptScalePenalty(softPrompt, promptLimit));
}

/** The loss of a language model on text alone. */
export function languageModelLoss(
  languageModel: DecoderOnly,
  batch: Omit<Stage2Batch, "features">,
  dropout?: Dropout,
): Tensor {
  const { lastHiddenState } = languageModel.forward({
    inputsEmbeds: languageModel.embed(batch.ids),
    attentionMask: batch.mask,
    ...(dropout && { dropout }),
  });
  return nextTokenLoss(languageModel.logits(lastHiddenState), batch.labels);
}
