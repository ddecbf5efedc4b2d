/**
 * Comparing pictures with texts, as callers use it (paper section 4.4). Two measures: the contrastive similarity of
 * two embeddings, cheap and made for indexes, and the matching head, which looks at picture and text together.
 */
import { findModel } from "../hub/hub.js";
import { readModelFolder } from "../checkpoints/model-folder.js";
import type { Device } from "../engine/index.js";
import { openDevice } from "../engine/node.js";
import { stopIf, UserError } from "../errors.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../host-tensor.js";
import { loadImage, type ImageSource } from "../images/load-image.js";
import { preprocess, type PreprocessConfig } from "../images/preprocess.js";
import type { ImageAttention, MatchingAttention } from "../models/attention-maps.js";
import { retrievalConfig, type RetrievalConfig } from "../models/blip-2-retrieval.js";
import { imageAttention } from "../models/cross-attention.js";
import { sizedVision } from "../loading/picture-size.js";
import { OpenCalls } from "../open-calls.js";
import { floats, integers, requireDims, withoutImageTokens } from "../raw-tensors.js";
import { loadTokenizer, type EncodedBatch, type TextTokenizer } from "../text/tokenizer.js";
import type {
  ImageTextPair,
  ImageTextScore,
  RankedText,
  RetrieverForwardInputs,
  RetrieverForwardOutputs,
} from "./calls.js";
import { EncodedImage } from "./encoded-image.js";
import { checkRetrieverOptions, type RetrieverLoadOptions, type RetrieverRunOptions } from "./options.js";
import { RetrievalRunner } from "./retrieval-runner.js";

interface EncodedPair {
  readonly image: EncodedImage;
  readonly text: string;
}

type ImageTextMatch = Pick<ImageTextScore, "itmLogit" | "itmProbability">;

/** How much runs at once. */
const picturesAtOnce = 8;
const textsAtOnce = 64;
const pairsAtOnce = 32;

export class Blip2Retriever {
  private readonly calls = new OpenCalls();

  private constructor(
    private readonly device: Device,
    private readonly runner: RetrievalRunner,
    private readonly tokenizer: TextTokenizer,
    private readonly pictures: PreprocessConfig,
    private readonly maxTextLength: number | undefined,
  ) {}

  /**
   * Loads a model as published on the Hugging Face hub for `Blip2ForImageTextRetrieval`, or as `blip2 train stage1`
   * writes it: a folder, or else the model of this name on the hub, which is fetched into the hub's cache. Throws `UserError` naming the file and what does not fit.
   */
  static async load(name: string, options: RetrieverLoadOptions = {}): Promise<Blip2Retriever> {
    checkRetrieverOptions("load", options);
    const { precision = "fp32", threads, imageSize, maxTextLength, ...hub } = options;
    const { signal } = hub;
    const opened = await readModelFolder(await findModel(name, hub));
    const published = retrievalConfig(opened.config, `${opened.path}/config.json`);
    const { max_position_embeddings: positions } = published.qformer_config;
    if (maxTextLength !== undefined && maxTextLength > positions) {
      throw new UserError(
        `load: maxTextLength is ${maxTextLength}: at most ${positions} is required, the model's text positions`,
      );
    }
    const { vision, pictures, weights } = sizedVision(opened, published.vision_config, imageSize);
    const tokenizer = await loadTokenizer(opened.path);
    stopIf(signal);
    const device = openDevice({ threads });
    try {
      const runner = await RetrievalRunner.load(device, { ...published, vision_config: vision }, weights, {
        precision,
        ...hub,
      });
      return new Blip2Retriever(device, runner, tokenizer, pictures, maxTextLength);
    } catch (error) {
      await device.close();
      throw error;
    }
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
    checkRetrieverOptions("score", options);
    const [score] = await this.calls.run(() => this.pairScores([{ image, text }], options.signal));
    return score!;
  }

  /** One picture with several texts, in their order. The vision model runs once. */
  async scoreTexts(
    image: ImageSource | EncodedImage,
    texts: readonly string[],
    options: RetrieverRunOptions = {},
  ): Promise<ImageTextScore[]> {
    checkRetrieverOptions("scoreTexts", options);
    const pairs = texts.map((text) => ({ image, text }));
    return this.calls.run(() => this.pairScores(pairs, options.signal));
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
    return this.calls.run(async () => {
      const rows = await this.textRows(texts, options.signal);
      const [encoded] = await this.encode([image], options.signal);
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
    checkRetrieverOptions("scorePairs", options);
    return this.calls.run(() => this.pairScores(pairs, options.signal));
  }

  /** @internal The matching head alone, for pairs in their order. Pairs of one picture share most work where they are neighbours. */
  async matchEncoded(
    pairs: readonly EncodedPair[],
    { signal }: RetrieverRunOptions = {},
  ): Promise<ImageTextMatch[]> {
    return this.calls.run(async () => {
      const matches: ImageTextMatch[] = [];
      for (const part of chunks(pairs, pairsAtOnce)) matches.push(...(await this.matchPart(part, signal)));
      return matches;
    });
  }

  /** Pictures for repeated use: what the vision model and the queries make of them. */
  async encodeImages(
    images: readonly ImageSource[],
    options: RetrieverRunOptions = {},
  ): Promise<EncodedImage[]> {
    checkRetrieverOptions("encodeImages", options);
    return this.calls.run(() => this.encode(images, options.signal));
  }

  /** One row of unit length per query: Q x E numbers. The similarity to a text is the best row's. */
  async embedImage(
    image: ImageSource | EncodedImage,
    options: RetrieverRunOptions = {},
  ): Promise<Float32Array> {
    const [embedding] = await this.embedImages([image], options);
    return embedding!;
  }

  /** The same for several pictures, in their order. */
  async embedImages(
    images: readonly (ImageSource | EncodedImage)[],
    options: RetrieverRunOptions = {},
  ): Promise<Float32Array[]> {
    checkRetrieverOptions("embedImages", options);
    const encoded = await this.calls.run(() => this.encode(images, options.signal));
    return encoded.map(({ embedding }) => embedding.slice());
  }

  /** A row of unit length: E numbers. */
  async embedText(text: string, options: RetrieverRunOptions = {}): Promise<Float32Array> {
    const [embedding] = await this.embedTexts([text], options);
    return embedding!;
  }

  /** The same for several texts, in their order. */
  async embedTexts(texts: readonly string[], options: RetrieverRunOptions = {}): Promise<Float32Array[]> {
    checkRetrieverOptions("embedTexts", options);
    return this.calls.run(() => this.textRows(texts, options.signal));
  }

  private async textRows(texts: readonly string[], signal: AbortSignal | undefined): Promise<Float32Array[]> {
    const width = this.config.image_text_hidden_size;
    const rows: Float32Array[] = [];
    for (const part of chunks(texts, textsAtOnce)) {
      const { inputIds, attentionMask } = this.tokens(part);
      const { data } = await this.runner.textEmbeds(inputIds, attentionMask, signal);
      part.forEach((_, i) => rows.push((data as Float32Array).slice(i * width, (i + 1) * width)));
    }
    return rows;
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
      const encoded = await this.encode([image], options.signal);
      const nothing = int64Tensor([0], [1, 1]);
      const features = this.stacked(encoded);
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
    const { probabilities, gradients, logits } = await this.calls.run(async () => {
      const { inputIds, attentionMask } = this.tokens([text]);
      const features = this.stacked(await this.encode([image], options.signal));
      return this.runner.matchingAttention(features, inputIds, attentionMask, options.signal);
    });
    return {
      ...imageAttention(this.config, probabilities),
      text,
      gradients: gradients.data as Float32Array,
      ...matchOf(logits, 0),
    };
  }

  /** One pass on tensors, for those who want the numbers of transformers' class. */
  async forward(inputs: RetrieverForwardInputs): Promise<RetrieverForwardOutputs> {
    checkRetrieverOptions("forward", inputs);
    return this.calls.run(() => this.forwardPass(inputs));
  }

  private async forwardPass(inputs: RetrieverForwardInputs): Promise<RetrieverForwardOutputs> {
    const { signal, useImageTextMatchingHead: isMatching = false } = inputs;
    const { vision_config: vision, num_query_tokens: queries } = this.config;
    const pixels = floats("pixelValues", inputs.pixelValues);
    const batch = pixels.dims[0] ?? 0;
    requireDims("pixelValues", pixels, [batch, 3, vision.image_size, vision.image_size]);
    const given = integers("inputIds", inputs.inputIds);
    const count = given.dims[0] ?? 0;
    requireDims("inputIds", given, [isMatching ? batch : count, given.dims[1] ?? 0]);
    const ones = int64Tensor(new BigInt64Array(given.data.length).fill(1n), given.dims);
    const givenMask =
      inputs.attentionMask === undefined ? ones : integers("attentionMask", inputs.attentionMask);
    requireDims("attentionMask", givenMask, given.dims);
    const imageToken = this.config.image_token_index ?? undefined;
    const ids = imageToken === undefined ? given : withoutImageTokens(given, imageToken, queries);
    const mask = imageToken === undefined ? givenMask : withoutColumns(givenMask, queries);
    this.checkIds("inputIds", ids);
    const { hidden, visionFeatures } = await this.runner.look(pixels, { signal, normalised: true });
    if (isMatching) {
      const picture = int64Tensor(range(batch), [batch]);
      const logits = await this.runner.matchingLogits(hidden, picture, ids, mask, signal);
      return { logitsPerImage: logits, logitsPerText: transposed(logits), visionFeatures: visionFeatures! };
    }
    const imageEmbeds = await this.runner.imageEmbeds(hidden, signal);
    const textEmbeds = await this.runner.textEmbeds(ids, mask, signal);
    const width = this.config.image_text_hidden_size;
    const rowsOf = (tensor: HostTensor, i: number, rows: number): Float32Array =>
      (tensor.data as Float32Array).subarray(i * rows * width, (i + 1) * rows * width);
    const cosines = range(batch).flatMap((b) =>
      range(count).map((t) => bestCosine(rowsOf(imageEmbeds, b, queries), rowsOf(textEmbeds, t, 1))),
    );
    const logitsPerImage = float32Tensor(cosines, [batch, count]);
    const logitsPerText = transposed(logitsPerImage);
    return { logitsPerImage, logitsPerText, imageEmbeds, textEmbeds, visionFeatures: visionFeatures! };
  }

  /** Frees the model. Calls under way are finished first, and later ones refused; closing twice is harmless. */
  close(): Promise<void> {
    return this.calls.close(() => this.device.close());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private async pairScores(
    pairs: readonly ImageTextPair[],
    signal: AbortSignal | undefined,
  ): Promise<ImageTextScore[]> {
    // Texts first: what is wrong with them shows before the vision model has worked.
    const texts = [...new Set(pairs.map(({ text }) => text))];
    const textRows = await this.textRows(texts, signal);
    const embeddings = new Map(texts.map((text, i) => [text, textRows[i]!]));
    const scores: ImageTextScore[] = [];
    let known = new Map<ImageSource | EncodedImage, EncodedImage>();
    for (const part of chunks(pairs, pairsAtOnce)) {
      const images = [...new Set(part.map(({ image }) => image))];
      const fresh = images.filter((image) => !known.has(image));
      const encoded = await this.encode(fresh, signal);
      const all = new Map([...known, ...fresh.map((image, i) => [image, encoded[i]!] as const)]);
      // Only this part's pictures are held: a list of pairs may name thousands.
      known = new Map(images.map((image) => [image, all.get(image)!]));
      const seen = part.map(({ image, text }) => ({ image: known.get(image)!, text }));
      const matches = await this.matchPart(seen, signal);
      for (const [i, { image, text }] of seen.entries()) {
        scores.push({ itc: bestCosine(image.embedding, embeddings.get(text)!), ...matches[i]! });
      }
    }
    return scores;
  }

  /** At most `pairsAtOnce` pairs. What the head sees of a picture is computed once. */
  private async matchPart(
    pairs: readonly EncodedPair[],
    signal: AbortSignal | undefined,
  ): Promise<ImageTextMatch[]> {
    const images = [...new Set(pairs.map(({ image }) => image))];
    const { inputIds, attentionMask } = this.tokens(pairs.map(({ text }) => text));
    const logits = await this.runner.matchingLogits(
      this.stacked(images),
      int64Tensor(
        pairs.map(({ image }) => images.indexOf(image)),
        [pairs.length],
      ),
      inputIds,
      attentionMask,
      signal,
    );
    return pairs.map((_, row) => matchOf(logits, row));
  }

  private async encode(
    images: readonly (ImageSource | EncodedImage)[],
    signal: AbortSignal | undefined,
  ): Promise<EncodedImage[]> {
    const encoded: EncodedImage[] = [];
    for (const part of chunks(images, picturesAtOnce)) {
      stopIf(signal);
      const sources = part.filter((image): image is ImageSource => !(image instanceof EncodedImage));
      const seen = sources.length === 0 ? [] : await this.encodeBatch(sources, signal);
      for (const image of part) {
        if (image instanceof EncodedImage) image.featuresOf(this);
        encoded.push(image instanceof EncodedImage ? image : seen.shift()!);
      }
    }
    return encoded;
  }

  private async encodeBatch(
    images: readonly ImageSource[],
    signal: AbortSignal | undefined,
  ): Promise<EncodedImage[]> {
    const pixels = preprocess(
      await Promise.all(images.map((image) => loadImage(image, { signal }))),
      this.pictures,
    );
    const { hidden } = await this.runner.look(pixels, { signal });
    const embeds = await this.runner.imageEmbeds(hidden, signal);
    const row = ({ data }: HostTensor, i: number): Float32Array => {
      const size = data.length / images.length;
      return (data as Float32Array).slice(i * size, (i + 1) * size);
    };
    return images.map((_, i) => new EncodedImage(this, row(embeds, i), row(hidden, i)));
  }

  /** [B, P, D_img] */
  private stacked(images: readonly EncodedImage[]): HostTensor {
    const parts = images.map((image) => image.featuresOf(this));
    const { hidden_size: width } = this.config.vision_config;
    const size = parts[0]!.length;
    const data = new Float32Array(parts.length * size);
    parts.forEach((part, b) => data.set(part, b * size));
    return float32Tensor(data, [parts.length, size / width, width]);
  }

  private tokens(texts: readonly string[]): EncodedBatch {
    const { max_position_embeddings: positions } = this.config.qformer_config;
    const truncate = this.maxTextLength;
    const batch = this.tokenizer.encodeBatch(texts, {
      side: "right",
      ...(truncate !== undefined && { truncate }),
    });
    const length = batch.inputIds.dims[1]!;
    if (length > positions) {
      throw new UserError(
        `text: ${length} tokens, the model has ${positions} positions; shorten the text, or let maxTextLength cut it`,
      );
    }
    this.checkIds("text", batch.inputIds);
    return batch;
  }

  /** The word table has no row for the image token of a published tokenizer. */
  private checkIds(what: string, { data }: HostTensor): void {
    const { vocab_size: rows } = this.config.qformer_config;
    const unknown = (data as BigInt64Array).find((id) => id < 0n || id >= BigInt(rows));
    if (unknown === undefined) return;
    throw new UserError(
      `${what}: token id ${unknown} is not in the model's word table of ${rows} rows; ` +
        "leave out special tokens such as <image>, and check that tokenizer and config belong together",
    );
  }
}

/** The largest dot product of a text's row with a picture's rows. queries: Q x E, text: E. */
function bestCosine(queries: Float32Array, text: Float32Array): number {
  let best = -Infinity;
  for (let start = 0; start < queries.length; start += text.length) {
    let sum = 0;
    for (let e = 0; e < text.length; e++) sum += queries[start + e]! * text[e]!;
    best = Math.max(best, sum);
  }
  return best;
}

/** logits: [N, 2], or [N, 1] of a model that stage 1 trained with one logit. */
function matchOf({ data, dims }: HostTensor, row: number): ImageTextMatch {
  const [, classes] = dims as readonly [number, number];
  const itmLogit = Number(data[row * classes + classes - 1]);
  const against = classes === 2 ? Number(data[row * classes]) : 0;
  return { itmLogit, itmProbability: 1 / (1 + Math.exp(against - itmLogit)) };
}

function transposed({ data, dims }: HostTensor): HostTensor {
  const [rows, columns] = dims as readonly [number, number];
  return float32Tensor(
    Float32Array.from(data as Float32Array, (_, i) =>
      Number(data[(i % rows) * columns + Math.floor(i / rows)]),
    ),
    [columns, rows],
  );
}

/** int64 [N, count + T] -> [N, T]. */
function withoutColumns(tensor: HostTensor, count: number): HostTensor {
  const [rows, columns] = tensor.dims as readonly [number, number];
  const data = (tensor.data as BigInt64Array).filter((_, i) => i % columns >= count);
  return int64Tensor(data, [rows, columns - count]);
}

function chunks<T>(items: readonly T[], size: number): T[][] {
  return range(Math.ceil(items.length / size)).map((i) => items.slice(i * size, (i + 1) * size));
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
