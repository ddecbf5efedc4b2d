/**
 * The loss of an encoder-decoder: its decoder gives the labels, each given what the encoder reads and the labels
 * before it. Shapes: B pairs, S encoder positions, T labels, D width.
 */
import { integer, ops, type Tensor } from "../engine/index.js";
import type { EncoderDecoder } from "../models/language/language-model.js";
import type { Dropout } from "../nn/dropout.js";
import { ignoreIndex, labelLoss } from "./cross-entropy.js";

export interface EncoderDecoderBatch {
  /** What the encoder reads [B, S, D]. */
  readonly inputsEmbeds: Tensor;
  /** int64 [B, S]: 1 for real positions. */
  readonly encoderMask: Tensor;
  /** int64 [B, T]: what the decoder shall say, the end token last, padded with -100. */
  readonly labels: Tensor;
  /** int64 [B, T]: what the decoder reads, one place later, where that is more than its labels. */
  readonly said?: Tensor;
}

/** The ids that a decoder reads besides its labels. */
export interface DecoderIds {
  /** Before the first label. */
  readonly start: number;
  /** In place of labels that take no part in the loss. */
  readonly pad: number;
}

/** The mean over labels of -log p[label] -> scalar. */
export function textToTextLoss(
  model: EncoderDecoder,
  batch: EncoderDecoderBatch,
  ids: DecoderIds,
  dropout?: Dropout,
): Tensor {
  return labelLoss(textToTextLogits(model, batch, ids, dropout), batch.labels);
}

/** Logits of every label's place [B, T, V], each from the labels before it. */
export function textToTextLogits(
  model: EncoderDecoder,
  { inputsEmbeds, encoderMask, labels, said = labels }: EncoderDecoderBatch,
  ids: DecoderIds,
  dropout?: Dropout,
): Tensor {
  const encoded = model.encode({
    inputsEmbeds,
    attentionMask: encoderMask,
    ...(dropout && { dropout }),
  });
  const { lastHiddenState } = model.decode({
    inputsEmbeds: model.embed(shiftedRight(said, ids)),
    // Padding is behind everything that is learnt, where no label's row looks.
    attentionMask: ops.expand(integer(1), labels.shape),
    encoder: model.encoderKeyValues(encoded),
    encoderMask,
    ...(dropout && { dropout }),
  });
  return model.logits(lastHiddenState);
}

/** Labels one place later, behind the start token. int64 [B, T] -> [B, T]. */
function shiftedRight(labels: Tensor, { start, pad }: DecoderIds): Tensor {
  const [b, t] = labels.shape;
  const before = ops.slice(labels, 1, 0, ops.addDims(t!, -1));
  const isReal = ops.not(ops.equal(before, integer(ignoreIndex)));
  return ops.concat([ops.expand(integer(start), [b!, 1]), ops.where(isReal, before, integer(pad))], 1);
}
