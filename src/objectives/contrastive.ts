/**
 * Image-text contrastive learning (paper section 3.2): a picture and a text are as similar as the text
 * and the most similar of the picture's query outputs.
 *
 * Shapes: B local pairs, N pairs gathered over all processes, Q queries, E width of the shared space.
 */
import { ops, type Tensor } from "../engine/index.js";
import { crossEntropy, softTargetCrossEntropy } from "./cross-entropy.js";

/** What both sides of a batch are compared with. */
export interface Gathered {
  /** Unit rows [N, Q, E]. */
  readonly images: Tensor;
  /** Unit rows [N, E]. */
  readonly texts: Tensor;
}

export interface Similarities {
  /** Local images against gathered texts, divided by the temperature [B, N]. */
  readonly imageToText: Tensor;
  /** Local texts against gathered images, divided by the temperature [B, N]. */
  readonly textToImage: Tensor;
}

/** images: unit rows [B, Q, E], texts: unit rows [B, E], temperature: scalar. */
export function similarities(
  images: Tensor,
  texts: Tensor,
  gathered: Gathered,
  temperature: Tensor,
): Similarities {
  return {
    imageToText: ops.div(ops.transpose(maxOverQueries(gathered.texts, images), [1, 0]), temperature),
    textToImage: ops.div(maxOverQueries(texts, gathered.images), temperature),
  };
}

/** texts: [M, E], images: [K, Q, E] -> [M, K], the best of each image's queries per text. */
export function maxOverQueries(texts: Tensor, images: Tensor): Tensor {
  const [k, q, e] = images.shape;
  const rows = ops.reshape(images, [ops.multiplyDims(k!, q!), e!]);
  return ops.maxLast(ops.reshape(ops.gemm(texts, rows, { transB: true }), [texts.shape[0]!, k!, q!]));
}

/** Label smoothing of the contrastive loss in the reference. */
const contrastiveSmoothing = 0.1;

/** Cross-entropy both ways against the pairs' own places. labels: int64 [B], columns of the own pairs. */
export function contrastiveLoss({ imageToText, textToImage }: Similarities, labels: Tensor): Tensor {
  const sum = ops.add(
    crossEntropy(imageToText, labels, contrastiveSmoothing),
    crossEntropy(textToImage, labels, contrastiveSmoothing),
  );
  return ops.mul(sum, 0.5);
}

/**
 * The form for several texts per picture: all pairs of one picture share the target evenly.
 * samePicture: bool [B, N].
 */
export function contrastiveLossWithIds(
  { imageToText, textToImage }: Similarities,
  samePicture: Tensor,
): Tensor {
  const positive = ops.cast(samePicture, "float32");
  const even = ops.div(positive, ops.reduceSum(positive, [-1], { keepDims: true }));
  const columns = ops.reduceSum(ops.add(ops.mul(positive, 0), 1), [-1], { keepDims: true });
  const targets = ops.add(ops.mul(even, 1 - contrastiveSmoothing), ops.div(contrastiveSmoothing, columns));
  const sum = ops.add(
    softTargetCrossEntropy(imageToText, targets),
    softTargetCrossEntropy(textToImage, targets),
  );
  return ops.mul(sum, 0.5);
}
