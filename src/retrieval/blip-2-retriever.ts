/**
 * Comparing pictures with texts, as callers use it (paper section 4.4). Two measures: the contrastive similarity of
 * two embeddings, cheap and made for indexes, and the matching head, which looks at picture and text together.
 */
import { show } from "../check-options.js";
import { UserError } from "../errors.js";
import { int64Tensor, type HostTensor } from "../host-tensor.js";
import type { ImageSource } from "../images/load-image.js";
import type { PictureEncoder } from "../loading/picture-encoder.js";
import type { ImageAttention, MatchingAttention } from "../models/attention-maps.js";
import type { RetrievalConfig } from "../models/blip-2-retrieval.js";
import { imageAttention } from "../models/cross-attention.js";
import { OpenCalls } from "../open-calls.js";
import type {
  ImageTextPair,
  ImageTextScore,
  RankedText,
  RetrieverForwardInputs,
  RetrieverForwardOutputs,
} from "./calls.js";
import type { EncodedImage } from "./encoded-image.js";
import { forwardPass } from "./forward.js";
import type { ImageSide } from "./image-side.js";
import { openRetriever, type OpenRetriever } from "./open-retriever.js";
import { checkRetrieverOptions, type RetrieverLoadOptions, type RetrieverRunOptions } from "./options.js";
import { PairScores } from "./pair-scores.js";
import type { RetrievalRunner } from "./retrieval-runner.js";
import { bestCosine, checkFinite, matchOf, type ImageTextMatch } from "./scores.js";
import type { TextSide } from "./text-side.js";

export class Blip2Retriever {
  private readonly calls = new OpenCalls();
  private readonly pairs: PairScores;

  private readonly runner: RetrievalRunner;
  private readonly images: ImageSide;
  private readonly texts: TextSide;

  private constructor(private readonly opened: OpenRetriever) {
    ({ runner: this.runner, images: this.images, texts: this.texts } = opened);
    this.pairs = new PairScores(this.runner, this.images, this.texts);
  }

  /**
   * Loads a model as published on the Hugging Face hub for `Blip2ForImageTextRetrieval`, or as `blip2 train stage1`
   * writes it: a folder, or else the model of this name on the hub, which is fetched into the hub's cache. Throws `UserError` naming the file and what does not fit.
   */
  static async load(name: string, options: RetrieverLoadOptions = {}): Promise<Blip2Retriever> {
    checkRetrieverOptions("load", options);
    return new Blip2Retriever(await openRetriever(name, options));
  }

  /** The checked config.json, with the picture size in use. */
  get config(): RetrievalConfig {
    return this.runner.config;
  }

  /** How well a picture and a text belong together. */
  async score(
    image: ImageSource | EncodedImage,
    text: string,
    options: RetrieverRunOptions = {},
  ): Promise<ImageTextScore> {
    const [score] = await this.scoresOf("score", [{ image, text }], options);
    return score!;
  }

  /** One picture with several texts, in their order. The vision model runs once. */
  async scoreTexts(
    image: ImageSource | EncodedImage,
    texts: readonly string[],
    options: RetrieverRunOptions = {},
  ): Promise<ImageTextScore[]> {
    this.texts.check("scoreTexts", texts);
    const pairs = texts.map((text) => ({ image, text }));
    return this.scoresOf("scoreTexts", pairs, options);
  }

  /**
   * Texts, the nearest to the picture first, by contrastive similarity alone; equals stay in their order. BLIP-2 so
   * chose among captions that a model wrote for its pre-training data (paper section 3.4, there with CLIP).
   */
  async rankTexts(
    image: ImageSource | EncodedImage,
    texts: readonly string[],
    options: RetrieverRunOptions = {},
  ): Promise<RankedText[]> {
    checkRetrieverOptions("rankTexts", options);
    this.texts.check("rankTexts", texts);
    return this.calls.run(async () => {
      const rows = await this.texts.embed("rankTexts", texts, options.signal);
      const [encoded] = await this.images.encode([image], options.signal);
      return texts
        .map((text, index) => ({ text, index, itc: bestCosine(encoded!.embedding, rows[index]!) }))
        .sort((a, b) => b.itc - a.itc);
    });
  }

  /** Pairs, in their order. The vision model runs once for each path and for each object that stands for a picture. */
  async scorePairs(
    pairs: readonly ImageTextPair[],
    options: RetrieverRunOptions = {},
  ): Promise<ImageTextScore[]> {
    return this.scoresOf("scorePairs", pairs, options);
  }

  /** Pictures for repeated use: what the vision model and the queries make of them. */
  async encodeImages(
    images: readonly ImageSource[],
    options: RetrieverRunOptions = {},
  ): Promise<EncodedImage[]> {
    checkRetrieverOptions("encodeImages", options);
    checkList("encodeImages", "images", images);
    return this.calls.run(() => this.images.encode(images, options.signal));
  }

  /** One row of unit length per query: Q x E numbers. The similarity to a text is the best row's. */
  async embedImage(
    image: ImageSource | EncodedImage,
    options: RetrieverRunOptions = {},
  ): Promise<Float32Array> {
    const [embedding] = await this.imageRows("embedImage", [image], options);
    return embedding!;
  }

  /** The same for several pictures, in their order. */
  async embedImages(
    images: readonly (ImageSource | EncodedImage)[],
    options: RetrieverRunOptions = {},
  ): Promise<Float32Array[]> {
    return this.imageRows("embedImages", images, options);
  }

  /** A row of unit length: E numbers. */
  async embedText(text: string, options: RetrieverRunOptions = {}): Promise<Float32Array> {
    const [embedding] = await this.textRows("embedText", [text], options);
    return embedding!;
  }

  /** The same for several texts, in their order. */
  async embedTexts(texts: readonly string[], options: RetrieverRunOptions = {}): Promise<Float32Array[]> {
    return this.textRows("embedTexts", texts, options);
  }

  /**
   * Where the queries look in a picture without a text: the probabilities of the Q-Former's cross-attention. See
   * `attentionMaps` for maps of them, and `drawAttention` for a picture.
   */
  async attention(
    image: ImageSource | EncodedImage,
    options: RetrieverRunOptions = {},
  ): Promise<ImageAttention> {
    checkRetrieverOptions("attention", options);
    return this.calls.run(async () => {
      const features = this.images.stacked(await this.images.encode([image], options.signal));
      const nothing = int64Tensor([0], [1, 1]);
      const run = await this.runner.matchingAttention(features, nothing, nothing, options.signal);
      return imageAttention(this.config, run.probabilities);
    });
  }

  /**
   * Where the queries look when they see the text as well, and how much each place speaks for a match: see
   * `matchingMaps`. At every precision with the Q-Former's weights as published.
   */
  async matchingAttention(
    image: ImageSource | EncodedImage,
    text: string,
    options: RetrieverRunOptions = {},
  ): Promise<MatchingAttention> {
    checkRetrieverOptions("matchingAttention", options);
    this.texts.check("matchingAttention", [text]);
    return this.calls.run(async () => {
      const { inputIds, attentionMask } = await this.texts.tokens(
        "matchingAttention",
        [text],
        options.signal,
      );
      const features = this.images.stacked(await this.images.encode([image], options.signal));
      const { probabilities, gradients, logits } = await this.runner.matchingAttention(
        features,
        inputIds,
        attentionMask,
        options.signal,
      );
      checkFinite("matchingAttention", logits);
      return {
        ...imageAttention(this.config, probabilities),
        text,
        gradients: gradients.data as Float32Array,
        ...matchOf(logits, 0),
      };
    });
  }

  /** One pass on tensors, for those who want the numbers of transformers' class. */
  async forward(inputs: RetrieverForwardInputs): Promise<RetrieverForwardOutputs> {
    checkRetrieverOptions("forward", inputs);
    return this.calls.run(() => forwardPass(this.runner, inputs));
  }

  /** @internal The image encoder alone, at the precision of this retriever, for a store of features. */
  get encoder(): PictureEncoder {
    return this.opened.encoder;
  }

  /** @internal As `embedImages`, from features before the norm, [B, P, D_img]. */
  embedFeatures(features: HostTensor, signal?: AbortSignal): Promise<Float32Array[]> {
    return this.calls.run(() => this.images.embed(features, signal));
  }

  /** @internal The matching head alone on texts, with the picture of each as its place in `features`, [B, P, D_img]; all at once. */
  matchFeatures(
    features: HostTensor,
    pictures: readonly number[],
    texts: readonly string[],
    signal?: AbortSignal,
  ): Promise<ImageTextMatch[]> {
    return this.calls.run(() => this.pairs.matches("matchFeatures", features, pictures, texts, signal));
  }

  /** Frees the model. Calls under way are finished first, and later ones refused; closing twice is harmless. */
  close(): Promise<void> {
    return this.calls.close(() => this.opened.device.close());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private async scoresOf(
    call: "score" | "scoreTexts" | "scorePairs",
    pairs: readonly ImageTextPair[],
    options: RetrieverRunOptions,
  ): Promise<ImageTextScore[]> {
    checkRetrieverOptions(call, options);
    checkList(call, "pairs", pairs);
    this.texts.check(
      call,
      pairs.map((pair) => (pair as ImageTextPair | null)?.text as string),
    );
    return this.calls.run(() => this.pairs.scores(call, pairs, options.signal));
  }

  private async imageRows(
    call: "embedImage" | "embedImages",
    images: readonly (ImageSource | EncodedImage)[],
    options: RetrieverRunOptions,
  ): Promise<Float32Array[]> {
    checkRetrieverOptions(call, options);
    checkList(call, "images", images);
    const encoded = await this.calls.run(() => this.images.encode(images, options.signal));
    return encoded.map(({ embedding }) => embedding.slice());
  }

  private async textRows(
    call: "embedText" | "embedTexts",
    texts: readonly string[],
    options: RetrieverRunOptions,
  ): Promise<Float32Array[]> {
    checkRetrieverOptions(call, options);
    this.texts.check(call, texts);
    return this.calls.run(() => this.texts.embed(call, texts, options.signal));
  }
}

function checkList(call: string, name: string, value: unknown): void {
  if (!Array.isArray(value)) throw new UserError(`${call}: ${name} is ${show(value)}: an array is required`);
}
