/**
 * The symmetric contrastive loss of CLIP (Radford et al. 2021, figure 3), with further texts that match no
 * picture. Shapes: B pairs, N further texts, E width of the shared space.
 */
import { ops, type Tensor } from "../engine/index.js";
import { crossEntropy } from "./cross-entropy.js";

/** The largest factor on similarities, as in CLIP. */
const largestScale = 100;

/** images: unit rows [B, E], texts: unit rows [B + N, E], own ones first; logScale: scalar. B is fixed. */
export function clipLoss(
  images: Tensor,
  texts: Tensor,
  logScale: Tensor,
): { readonly loss: Tensor; readonly accuracy: Tensor } {
  const size = images.shape[0]!;
  const scale = ops.exp(ops.minimum(logScale, Math.log(largestScale)));
  const logits = ops.mul(ops.gemm(images, texts, { transB: true }), scale);
  const own = ops.range(size);
  const byText = ops.transpose(ops.slice(logits, 1, 0, size), [1, 0]);
  const loss = ops.mul(ops.add(crossEntropy(logits, own), crossEntropy(byText, own)), 0.5);
  const accuracy = ops.reduceMean(ops.where(ops.equal(ops.argmax(logits), own), 1, 0));
  return { loss, accuracy };
}
