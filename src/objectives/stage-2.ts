/**
 * Stage 2, vision-to-language generative learning, with a decoder-only language model (paper section
 * 3.3): the soft visual prompt stands before the text's embeddings and the frozen model's next-token
 * loss trains the bridge. Shapes: B pairs, Q queries, T text positions.
 */
import { integer, ops, type Tensor } from "../engine/index.js";
import type { SecondStage } from "../models/blip-2-bridge.js";
import type { Opt } from "../models/opt.js";
import { withQueries } from "../nn/attention-masks.js";
import type { Dropout } from "../nn/dropout.js";
import { ignoreIndex, nextTokenLoss } from "./cross-entropy.js";

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

/** -> scalar. */
export function softPromptLoss(
  bridge: SecondStage,
  languageModel: Opt,
  batch: Stage2Batch,
  dropout?: Dropout,
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
  return nextTokenLoss(languageModel.logits(hidden), ops.concat([none, batch.labels], 1));
}

/** The loss of a language model on text alone. */
export function languageModelLoss(
  languageModel: Opt,
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
