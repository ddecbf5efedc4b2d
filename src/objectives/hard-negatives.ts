/**
 * Hard negatives for image-text matching (paper section 3.2): drawn in proportion to the softmax of the
 * contrastive similarities, never the own pair while there is another. Shapes: B local pairs, N gathered.
 */
import { ops, type Tensor } from "../engine/index.js";

/** What an own pair's similarity is replaced by before the softmax, as in the reference. */
const ownPair = -10000;

/** Chances of being drawn. similarity: [B, N] divided by the temperature, own: bool [B, N] -> [B, N]. */
export function negativeChances(similarity: Tensor, own: Tensor): Tensor {
  return ops.softmax(ops.where(own, ownPair, ops.stopGradient(similarity)));
}

/**
 * One column per row, drawn with those chances: the place of the largest of log chance + Gumbel noise.
 * seed: uint64 scalar. -> int64 [B].
 */
export function drawNegatives(similarity: Tensor, own: Tensor, seed: Tensor, stream: number): Tensor {
  const logits = ops.where(own, ownPair, ops.stopGradient(similarity));
  const noise = ops.neg(
    ops.log(ops.neg(ops.log(ops.maximum(ops.uniform(seed, stream, logits.shape), 1e-20)))),
  );
  return ops.argmax(ops.add(logits, noise));
}
