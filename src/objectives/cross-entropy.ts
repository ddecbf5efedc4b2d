/** Cross-entropy with the variants that BLIP-2 uses. Shapes: N rows, C classes. */
import { ops, integer, type Tensor } from "../engine/index.js";

/** A label that takes no part in the loss. */
export const ignoreIndex = -100;

/**
 * The mean over rows whose label is not `ignoreIndex` of
 * (1 - smoothing) * -log p[label] + smoothing * mean over classes of -log p, as
 * torch.nn.functional.cross_entropy. logits: [N, C], labels: int64 [N] -> scalar.
 */
export function crossEntropy(logits: Tensor, labels: Tensor, smoothing = 0): Tensor {
  const kept = ops.not(ops.equal(labels, integer(ignoreIndex)));
  const logProbabilities = ops.logSoftmax(logits);
  const chosen = ops.gatherLast(logProbabilities, ops.where(kept, labels, integer(0)));
  let perRow = ops.neg(chosen);
  if (smoothing > 0) {
    const uniform = ops.neg(ops.reduceMean(logProbabilities, [-1]));
    perRow = ops.add(ops.mul(perRow, 1 - smoothing), ops.mul(uniform, smoothing));
  }
  const weight = ops.cast(kept, "float32");
  return ops.div(ops.reduceSum(ops.mul(perRow, weight)), ops.reduceSum(weight));
}

/** The mean over rows of -sum(targets * log p). logits, targets: [N, C]; N a fixed size -> scalar. */
export function softTargetCrossEntropy(logits: Tensor, targets: Tensor): Tensor {
  return ops.neg(ops.reduceMean(ops.reduceSum(ops.mul(targets, ops.logSoftmax(logits)), [-1])));
}

/** The loss where each position predicts its own label. logits: [B, T, V], labels: int64 [B, T] -> scalar. */
export function labelLoss(logits: Tensor, labels: Tensor): Tensor {
  const [b, t, v] = logits.shape;
  const count = ops.multiplyDims(b!, t!);
  return crossEntropy(ops.reshape(logits, [count, v!]), ops.reshape(labels, [count]));
}

/** Loss of predicting each next token. logits: [B, T, V], labels: int64 [B, T], aligned with the inputs. */
export function nextTokenLoss(logits: Tensor, labels: Tensor, smoothing = 0): Tensor {
  const [b, t, v] = logits.shape;
  const length = ops.addDims(t!, -1);
  const count = ops.multiplyDims(b!, length);
  const predicted = ops.reshape(ops.slice(logits, 1, 0, length), [count, v!]);
  return crossEntropy(predicted, ops.reshape(ops.slice(labels, 1, 1, length), [count]), smoothing);
}
