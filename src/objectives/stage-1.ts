/**
 * Stage 1, vision-language representation learning (paper section 3.2): the sum of image-text
 * contrastive learning (ITC), image-text matching (ITM) and image-grounded text generation (ITG), with
 * the shared work done once: the query-only run serves ITC and ITG, whose text reads the queries' cached
 * keys and values, and an image's cross-attention keys and values are computed once though ITM uses the
 * image twice.
 *
 * Shapes: B pairs, P image positions, Q queries, T text positions, V vocabulary.
 */
import { integer, ops, type Tensor } from "../engine/index.js";
import { InternalError } from "../errors.js";
import type { FirstStage } from "../models/blip-2-bridge.js";
import type { ImageKeyValues } from "../models/q-former.js";
import { cachedMultimodalCausalMask } from "../nn/attention-masks.js";
import { noDropout, type Dropout } from "../nn/dropout.js";
import { contrastiveLoss, contrastiveLossWithIds, similarities, type Similarities } from "./contrastive.js";
import { crossEntropy, ignoreIndex, nextTokenLoss } from "./cross-entropy.js";
import { drawNegatives } from "./hard-negatives.js";

export interface Stage1Batch {
  /** Frozen image features before the last norm [B, P, D_img]; B a fixed size. */
  readonly features: Tensor;
  /** int64 [B, T]: [CLS] words [SEP], padded. */
  readonly ids: Tensor;
  /** int64 [B, T]: 1 for real tokens. */
  readonly mask: Tensor;
  /** int64 [B]: which pairs show the same picture; when absent each pair is its own. */
  readonly pictureIds?: Tensor;
}

export interface Negatives {
  /** For each text, the place of an image that it does not describe; int64 [B]. */
  readonly images: Tensor;
  /** For each image, the place of a text that does not describe it; int64 [B]. */
  readonly texts: Tensor;
}

export interface Stage1Options {
  /** The start token of generation, [DEC], which stands in the place of [CLS]. */
  readonly startTokenId: number;
  readonly padTokenId: number;
  /**
   * Whether gradients pass the gathered side of the similarities. The reference detaches it; a single
   * process that learns from both sides is the textbook form.
   */
  readonly gatheredGradient: boolean;
  /**
   * `two-class`: negatives on both sides, softmax over two classes (paper and reference). `one-logit`:
   * hard negative texts only, binary cross-entropy.
   */
  readonly matching: "two-class" | "one-logit";
  /** Which objectives take part; all three when absent. */
  readonly objectives?: readonly ("itc" | "itm" | "itg")[];
  /** Drawn in the graph from this seed (uint64 scalar) when `negatives` are not given. */
  readonly seed?: Tensor;
  readonly negatives?: Negatives;
  readonly dropout?: Dropout;
}

export interface Stage1Losses {
  /** The sum of the objectives that take part. */
  readonly loss: Tensor;
  readonly itc: Tensor;
  readonly itm: Tensor;
  readonly itg: Tensor;
  readonly similarities: Similarities;
  /** Share of matching decisions that are right. */
  readonly itmAccuracy: Tensor;
}

/** Label smoothing of generation in the reference. */
const generationSmoothing = 0.1;

export function stage1Losses(model: FirstStage, batch: Stage1Batch, options: Stage1Options): Stage1Losses {
  const { features, ids, mask } = batch;
  const dropout = options.dropout ?? noDropout;
  const size = features.shape[0]!;
  if (typeof size !== "number") throw new InternalError("stage 1: the batch size must be fixed");
  const objectives = options.objectives ?? ["itc", "itm", "itg"];

  // The query-only run.
  const image = model.branch.imageKeyValues(features);
  const { lastHiddenState: queryOutput, present } = model.branch.queries(size, image, dropout);

  // Image-text contrast.
  const imageEmbeds = model.imageEmbeds(queryOutput);
  const textEmbeds = model.textEmbeds(ids, mask, dropout);
  const pass = options.gatheredGradient ? (x: Tensor): Tensor => x : ops.stopGradient;
  const gathered = { images: pass(imageEmbeds), texts: pass(textEmbeds) };
  const similarity = similarities(imageEmbeds, textEmbeds, gathered, model.temperature);
  const own = ownPairs(size, batch.pictureIds);
  const itc =
    batch.pictureIds === undefined
      ? contrastiveLoss(similarity, ops.range(size))
      : contrastiveLossWithIds(similarity, own);

  // Image-text matching.
  const negatives = options.negatives ?? draw(similarity, own, options.seed);
  const { itm, itmAccuracy } = matchingLoss(model, image, batch, negatives, options.matching, size, dropout);

  // Image-grounded generation.
  const start = ops.expand(integer(options.startTokenId), [size, 1]);
  const length = ids.shape[1]!;
  const decoderIds = ops.concat([start, ops.slice(ids, 1, 1, ops.addDims(length, -1))], 1);
  const { lastHiddenState: textOutput } = model.branch.qformer.forward({
    text: model.embeddings.forward(decoderIds),
    past: present,
    mask: cachedMultimodalCausalMask(mask, model.branch.queryTokens.count),
    dropout,
  });
  const labels = ops.where(
    ops.equal(decoderIds, integer(options.padTokenId)),
    integer(ignoreIndex),
    decoderIds,
  );
  const itg = nextTokenLoss(model.textHead.forward(textOutput), labels, generationSmoothing);

  const parts = { itc, itm, itg };
  const loss = objectives.map((name) => parts[name]).reduce((a, b) => ops.add(a, b));
  return { loss, itc, itm, itg, similarities: similarity, itmAccuracy };
}

/** bool [B, B]: the pairs that belong together. */
function ownPairs(size: number, pictureIds: Tensor | undefined): Tensor {
  const id = pictureIds ?? ops.range(size);
  return ops.equal(ops.reshape(id, [size, 1]), ops.reshape(id, [1, size]));
}

function draw({ imageToText, textToImage }: Similarities, own: Tensor, seed: Tensor | undefined): Negatives {
  if (seed === undefined) throw new InternalError("stage 1: hard negatives need a seed, or must be given");
  // Streams far above those that dropout uses.
  return {
    images: drawNegatives(textToImage, own, seed, 1_000_001),
    texts: drawNegatives(imageToText, own, seed, 1_000_002),
  };
}

function matchingLoss(
  model: FirstStage,
  image: ImageKeyValues,
  { ids, mask }: Stage1Batch,
  negatives: Negatives,
  form: Stage1Options["matching"],
  size: number,
  dropout: Dropout,
): { readonly itm: Tensor; readonly itmAccuracy: Tensor } {
  const negativeText = (x: Tensor): Tensor => ops.gatherRows(x, negatives.texts);
  // Pairs in order: matching; wrong image (two-class form only); wrong text.
  const images = (x: Tensor): Tensor =>
    ops.concat(form === "two-class" ? [x, ops.gatherRows(x, negatives.images), x] : [x, x], 0);
  const texts = (x: Tensor): Tensor =>
    ops.concat(form === "two-class" ? [x, x, negativeText(x)] : [x, negativeText(x)], 0);
  const pairs = form === "two-class" ? 3 * size : 2 * size;
  const pairImage = new Map(
    [...image].map(([layer, { key, value }]) => [layer, { key: images(key), value: images(value) }]),
  );
  const { logits } = model.matching(pairImage, texts(ids), texts(mask), dropout);
  const matches = ops.less(ops.range(pairs), integer(size));
  const right = (decision: Tensor): Tensor =>
    ops.reduceMean(ops.where(ops.equal(decision, ops.cast(matches, "int64")), 1, 0));
  if (form === "two-class") {
    return { itm: crossEntropy(logits, ops.cast(matches, "int64")), itmAccuracy: right(ops.argmax(logits)) };
  }
  const logit = ops.reshape(logits, [pairs]);
  return {
    itm: ops.reduceMean(ops.binaryCrossEntropyWithLogits(logit, ops.cast(matches, "float32"))),
    itmAccuracy: right(ops.cast(ops.less(0, logit), "int64")),
  };
}
