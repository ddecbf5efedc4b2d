/** Pairs of pictures and texts: contrastive similarity, and the matching head, which looks at both together. */
import { int64Tensor, type HostTensor } from "../host-tensor.js";
import type { ImageSource } from "../images/load-image.js";
import type { ImageTextPair, ImageTextScore } from "./calls.js";
import { chunks } from "./chunks.js";
import type { EncodedImage } from "./encoded-image.js";
import type { ImageSide } from "./image-side.js";
import type { RetrievalRunner } from "./retrieval-runner.js";
import { bestCosine, checkFinite, matchOf, type ImageTextMatch } from "./scores.js";
import type { TextSide } from "./text-side.js";

const pairsAtOnce = 32;

export class PairScores {
  constructor(
    private readonly runner: RetrievalRunner,
    private readonly images: ImageSide,
    private readonly texts: TextSide,
  ) {}

  /** In the order of the pairs. The image encoder runs once for each path and for each object that stands for a picture. */
  async scores(
    call: string,
    pairs: readonly ImageTextPair[],
    signal: AbortSignal | undefined,
  ): Promise<ImageTextScore[]> {
    // Texts first: what is wrong with them shows before the vision model has worked.
    const texts = [...new Set(pairs.map(({ text }) => text))];
    const textRows = await this.texts.embed(call, texts, signal);
    const embeddings = new Map(texts.map((text, i) => [text, textRows[i]!]));
    const scores: ImageTextScore[] = [];
    let known = new Map<ImageSource | EncodedImage, EncodedImage>();
    for (const part of chunks(pairs, pairsAtOnce)) {
      const images = [...new Set(part.map(({ image }) => image))];
      const fresh = images.filter((image) => !known.has(image));
      const encoded = await this.images.encode(fresh, signal);
      const all = new Map([...known, ...fresh.map((image, i) => [image, encoded[i]!] as const)]);
      // Only this part's pictures are held: a list of pairs may name thousands.
      known = new Map(images.map((image) => [image, all.get(image)!]));
      const seen = part.map(({ image }) => known.get(image)!);
      // What the head sees of a picture is computed once.
      const distinct = [...new Set(seen)];
      const matches = await this.matches(
        call,
        this.images.stacked(distinct),
        seen.map((image) => distinct.indexOf(image)),
        part.map(({ text }) => text),
        signal,
      );
      for (const [i, { text }] of part.entries())
        scores.push({ itc: bestCosine(seen[i]!.embedding, embeddings.get(text)!), ...matches[i]! });
    }
    return scores;
  }

  /** The matching head on texts, with the picture of each as its place in `features`, [B, P, D_img]; all at once. */
  async matches(
    call: string,
    features: HostTensor,
    pictures: readonly number[],
    texts: readonly string[],
    signal: AbortSignal | undefined,
  ): Promise<ImageTextMatch[]> {
    const { inputIds, attentionMask } = await this.texts.tokens(call, texts, signal);
    const picture = int64Tensor(pictures, [pictures.length]);
    const logits = await this.runner.matchingLogits(features, picture, inputIds, attentionMask, signal);
    checkFinite("matching", logits);
    return texts.map((_, row) => matchOf(logits, row));
  }
}
