/** BLIP-2 as callers use it: pictures and prompts in, texts out. */
import { findModel, type HubOptions } from "../hub/hub.js";
import { readModelFolder } from "../checkpoints/model-folder.js";
import { type Device, input, type Program } from "../engine/index.js";
import { openDevice } from "../engine/node.js";
import { stopIf, UserError } from "../errors.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../host-tensor.js";
import { loadImage, type ImageSource } from "../images/load-image.js";
import { preprocessInTurns, type PreprocessConfig } from "../images/preprocess.js";
import type { ImageAttention } from "../models/attention-maps.js";
import { blip2Config, type Blip2Config } from "../models/blip-2.js";
import type { LoadingHooks } from "../loading/frozen-weights.js";
import type { Precision } from "../loading/precision.js";
import { sizedVision } from "../loading/picture-size.js";
import { labelLoss, nextTokenLoss } from "../objectives/cross-entropy.js";
import { loadTokenizer, type TextTokenizer } from "../text/tokenizer.js";
import { blip2Parts, Blip2Runner } from "./blip-2-runner.js";
import { Chat, type ChatOptions } from "./chat.js";
import { EncoderDecoder } from "./encoder-decoder.js";
import { decoderInputs, refuseDecoderInputs } from "./decoder-inputs.js";
import { generateTokens, generationSteps } from "./search/generate.js";
import { ImageView, softPromptsOf } from "./image-view.js";
import {
  checkOptions,
  generationDefaults,
  searchSettings,
  type GenerateSettings,
  type GenerationDefaults,
} from "./options.js";
import { paddedPrompt } from "./padded-prompt.js";
import {
  floats,
  integers,
  requireDims,
  withLeading,
  withoutImageTokens,
  type RawTensor,
} from "../raw-tensors.js";
import type { SearchSettings } from "./search/search.js";
import type { Prompt, Stepper } from "./search/stepper.js";
import { TextWriter } from "./text-writer.js";

export interface LoadOptions extends HubOptions, LoadingHooks {
  /**
   * How linear layers are held and multiplied. "int8" and "int4" make a quantised copy of the weights beside the
   * model, once; `models/precision.ts` says what is in how many bits. Default: "fp32".
   */
  readonly precision?: Precision | undefined;
  /** Default: the CPUs that this process may use. */
  readonly threads?: number | undefined;
  /**
   * Side in pixels to which pictures are resized. Default: preprocessor_config.json's. Learned positions are
   * interpolated where the model has them for another size.
   */
  readonly imageSize?: number | undefined;
  /** True: nothing is loaded but what `attention` needs, so no language model. Default: false. */
  readonly attentionOnly?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface GenerateOptions extends GenerateSettings {
  /** A picture, or one that this model has looked at. */
  readonly image: ImageSource | ImageView;
  /** Stands before the answer, such as "Question: what is this? Answer:". Not part of the text. Default: none. */
  readonly prompt?: string | undefined;
}

export interface GenerateBatchOptions extends GenerateSettings {
  readonly images: readonly (ImageSource | ImageView)[];
  /** One prompt for all pictures ... */
  readonly prompt?: string | undefined;
  /** ... or one for each. */
  readonly prompts?: readonly (string | undefined)[] | undefined;
}

export interface GenerateWithoutPictureOptions extends GenerateSettings {
  /** What each text goes on from. */
  readonly prompts: readonly string[];
  /** One for each prompt: what stands in the place of a picture. Default: nothing stands there. */
  readonly descriptions?: readonly string[] | undefined;
}

/** Streams are one text, and come from any search but that with beams, which knows no text before its end. */
export type StreamOptions = Omit<GenerateOptions, "numBeams" | "numReturnSequences"> & {
  readonly numBeams?: 1 | undefined;
  readonly numReturnSequences?: 1 | undefined;
};

/** T5's positions are relative; it was trained on so many tokens at once (Raffel et al. 2020, section 3.1.2). */
const t5Context = 512;

export interface GeneratedText {
  /** Without the prompt, special tokens, stop strings and white space at its ends. */
  readonly text: string;
  /** New ids, the end token or those that spell a stop string included if there are such. */
  readonly tokenIds: readonly number[];
  /** The natural logarithm of the probability that the model gives to `tokenIds`, whatever the search made of it. */
  readonly logProbability: number;
  /** The same for each of `tokenIds`. */
  readonly tokenLogProbabilities: readonly number[];
  /** What texts are ranked by: in beam search by length and penalties too, otherwise `logProbability`. */
  readonly score: number;
}

/** The best text. */
export interface Generated extends GeneratedText {
  /** With `numReturnSequences` above 1: all of them, best first. */
  readonly sequences?: readonly GeneratedText[];
}

/** Q queries, T text positions, U positions of an encoder-decoder's output, V vocabulary, P image positions, D widths. */
export interface ForwardInputs {
  /** [B, 3, S, S] */
  readonly pixelValues: RawTensor;
  /** [B, Q + T]: Q times the image token, then the text; the text alone where the config names no image token. */
  readonly inputIds: RawTensor;
  /** Of the shape of `inputIds`; ones if absent. */
  readonly attentionMask?: RawTensor | undefined;
  /** Of the shape of `inputIds`, or [B, U] with an encoder-decoder; -100 takes no part in the loss. */
  readonly labels?: RawTensor | undefined;
  /** [B, U], for an encoder-decoder. Default: the labels behind a start token. */
  readonly decoderInputIds?: RawTensor | undefined;
  /** Of the shape of `decoderInputIds`; ones if absent. */
  readonly decoderAttentionMask?: RawTensor | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** As `Blip2ForConditionalGeneration` of transformers; all float32. */
export interface ForwardOutputs {
  /** [B, Q + T, V], or [B, U, V] */
  readonly logits: HostTensor;
  /** Scalar: mean cross-entropy of the labels. Only with labels. */
  readonly loss?: HostTensor;
  /** [B, P, D_img], after the last norm. */
  readonly visionFeatures: HostTensor;
  /** [B, Q, D] */
  readonly queryOutput: HostTensor;
  /** The soft visual prompt, [B, Q, L]. */
  readonly languageProjection: HostTensor;
}

export class Blip2 {
  private lossProgram: Promise<Program> | undefined;

  private constructor(
    private readonly device: Device,
    private readonly runner: Blip2Runner,
    private readonly tokenizer: TextTokenizer,
    private readonly pictures: PreprocessConfig,
    private readonly defaults: GenerationDefaults,
  ) {}

  /**
   * Loads a model as published on the Hugging Face hub for `Blip2ForConditionalGeneration` with OPT or T5; its image
   * encoder may be CLIP's too. `name` is a folder, or else the model of this name on the hub, such as "Salesforce/blip2-opt-2.7b",
   * which is fetched into the hub's cache.
   * Throws `UserError` naming the file and what does not fit.
   */
  static async load(name: string, options: LoadOptions = {}): Promise<Blip2> {
    checkOptions("load", options);
    const { precision = "fp32", threads, imageSize, attentionOnly = false, ...hub } = options;
    const { signal } = hub;
    const opened = await readModelFolder(await findModel(name, hub));
    const where = (file: string): string => `${opened.path}/${file}`;
    const published = blip2Config(opened.config, where("config.json"));
    const { vision, pictures, weights } = sizedVision(opened, published.vision_config, imageSize);
    const config = { ...published, vision_config: vision };
    const defaults = generationDefaults(
      opened.generationConfig,
      config.text_config,
      where("generation_config.json"),
    );
    const tokenizer = await loadTokenizer(opened.path);
    const { vocab_size: rows } = config.text_config;
    if (tokenizer.vocabularySize > rows) {
      throw new UserError(
        `${where("tokenizer.json")}: has ${tokenizer.vocabularySize} tokens, text_config.vocab_size in config.json is ${rows}; ` +
          "check that tokenizer and config belong together",
      );
    }
    stopIf(signal);
    const device = openDevice({ threads });
    try {
      const parts = attentionOnly ? (["vision"] as const) : blip2Parts;
      const runner = await Blip2Runner.load(device, config, weights, { precision, parts, ...hub });
      return new Blip2(device, runner, tokenizer, pictures, defaults);
    } catch (error) {
      await device.close();
      throw error;
    }
  }

  /** The checked config.json, with the picture size in use. */
  get config(): Blip2Config {
    return this.runner.config;
  }

  /** How questions are put, with `{}` where they go: generation_config.json's `question_format`, or the paper's. */
  get questionFormat(): string {
    return this.defaults.questionFormat;
  }

  /** See `GenerateSettings`. */
  get answerAfter(): string | undefined {
    return this.defaults.answerAfter;
  }

  /** Describes a picture, or goes on from a prompt about it. */
  async generate(options: GenerateOptions): Promise<Generated> {
    checkOptions("generate", options);
    const { image, prompt, ...settings } = options;
    const [generated] = await this.searchFor("generate", [image], [prompt], settings);
    return generated!;
  }

  /** The same for several pictures in one go. The answers are those of `generate`, in order. */
  async generateBatch(options: GenerateBatchOptions): Promise<Generated[]> {
    checkOptions("generateBatch", options);
    const { images, prompt, prompts, ...settings } = options;
    if (prompt !== undefined && prompts !== undefined) {
      throw new UserError("generateBatch: prompt and prompts are both given; one of them is allowed");
    }
    if (prompts !== undefined && prompts.length !== images.length) {
      throw new UserError(
        `generateBatch: ${images.length} images need as many prompts, got ${prompts.length}`,
      );
    }
    return this.searchFor("generateBatch", images, prompts ?? images.map(() => prompt), settings);
  }

  /**
   * What the language model writes that sees no picture: behind its start token and the prompt alone, or with
   * a written description in the place where the soft visual prompt would stand. That is before the start token; with T5,
   * whose texts have none, both are one text for the encoder.
   */
  async generateWithoutPicture(options: GenerateWithoutPictureOptions): Promise<Generated[]> {
    const call = "generateWithoutPicture";
    checkOptions(call, options);
    const { prompts, descriptions, ...settings } = options;
    if (descriptions !== undefined && descriptions.length !== prompts.length) {
      throw new UserError(
        `${call}: ${prompts.length} prompts need as many descriptions, got ${descriptions.length}`,
      );
    }
    const rows = prompts.map((prompt, i) => this.textIds(prompt, descriptions?.[i]));
    const width = this.runner.decoder.embeddingSize;
    const nothing = float32Tensor([], [rows.length, 0, width]);
    return this.search(call, rows, 0, () => Promise.resolve(nothing), settings);
  }

  /** A text piece by piece as it comes into being. Leaving the loop ends the work. */
  async *stream(options: StreamOptions): AsyncGenerator<string, void, undefined> {
    checkOptions("stream", options);
    const { image, prompt, ...asked } = options;
    const { signal } = asked;
    const one = { ...asked, numBeams: 1, numReturnSequences: 1 } as const;
    const [settings, writer] = this.settings("stream", one, prompt !== undefined);
    const ready = await this.prompt(
      [this.promptIds(prompt)],
      ...this.looking([image], signal),
      settings,
      signal,
    );
    let [ids, shown]: [readonly number[], string] = [[], ""];
    for await (const [running] of generationSteps(this.begin(settings), ready, settings, signal)) {
      ids = running!.results[0]!.tokenIds;
      const text = writer.settledText(ids);
      if (text.length <= shown.length) continue;
      yield text.slice(shown.length);
      shown = text;
    }
    const text = writer.text(ids);
    if (text.length > shown.length) yield text.slice(shown.length);
  }

  /** Looks at a picture once, for any number of `generate`, `generateBatch` and `stream` calls. */
  async look(
    image: ImageSource,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<ImageView> {
    checkOptions("look", options);
    const softPrompt = await softPromptsOf(this.runner, [image], this.pictures, options.signal);
    return new ImageView(this.runner, softPrompt);
  }

  /**
   * Where the queries look in a picture: the probabilities of the Q-Former's cross-attention. See `attentionMaps` for
   * maps of them, and `drawAttention` for a picture.
   */
  async attention(
    image: ImageSource,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<ImageAttention> {
    checkOptions("attention", options);
    const pixels = await preprocessInTurns([await loadImage(image, options)], this.pictures);
    return this.runner.attention(pixels, options.signal);
  }

  /** Begins a chat about a picture, which is looked at once. */
  async chat(options: ChatOptions): Promise<Chat> {
    checkOptions("chat", options);
    const { image, format = this.questionFormat, signal } = options;
    const { maximumLength } = this.runner.decoder;
    const { context = Number.isFinite(maximumLength) ? maximumLength : t5Context } = options;
    if (context > maximumLength) {
      throw new UserError(
        `chat: context is ${context}, the model has ${maximumLength} positions; give at most these`,
      );
    }
    const view =
      image instanceof ImageView
        ? new ImageView(this.runner, image.softPromptFor(this.runner))
        : await this.look(image, { signal });
    return new Chat(this, view, format, context);
  }

  /**
   * How many tokens a picture, this prompt and so many new tokens are for the language model. What an
   * encoder-decoder writes does not count: it stands apart from what it reads.
   */
  contextLength(prompt: string, maxNewTokens = this.defaults.settings.maxNewTokens): number {
    const read = this.config.num_query_tokens + this.promptIds(prompt).length;
    return this.runner.decoder instanceof EncoderDecoder ? read : read + maxNewTokens;
  }

  /** Whether the language model has positions for a picture, this prompt, and so many new tokens. */
  hasRoomFor(prompt: string, maxNewTokens?: number): boolean {
    return this.contextLength(prompt, maxNewTokens) <= this.runner.decoder.maximumLength;
  }

  /** One pass through all parts, for those who want the numbers. */
  async forward(inputs: ForwardInputs): Promise<ForwardOutputs> {
    checkOptions("forward", inputs);
    const { signal } = inputs;
    const { vision_config: vision, num_query_tokens: queries } = this.config;
    const pixels = floats("pixelValues", inputs.pixelValues);
    const [batch] = pixels.dims;
    requireDims("pixelValues", pixels, [batch ?? 0, 3, vision.image_size, vision.image_size]);
    const ids = integers("inputIds", inputs.inputIds);
    requireDims("inputIds", ids, [batch!, ids.dims[1] ?? 0]);
    const likeIds = (name: string, tensor: RawTensor): HostTensor => {
      const converted = integers(name, tensor);
      requireDims(name, converted, ids.dims);
      return converted;
    };
    const ones = int64Tensor(new BigInt64Array(ids.data.length).fill(1n), ids.dims);
    const mask = inputs.attentionMask === undefined ? ones : likeIds("attentionMask", inputs.attentionMask);
    const { decoder } = this.runner;
    const target =
      decoder instanceof EncoderDecoder ? decoderInputs(inputs, batch!, this.defaults) : undefined;
    if (target === undefined) refuseDecoderInputs(inputs);
    const labels = target === undefined ? inputs.labels && likeIds("labels", inputs.labels) : target.labels;
    const imageToken = this.config.image_token_index ?? undefined;
    const text = imageToken === undefined ? ids : withoutImageTokens(ids, imageToken, queries);
    const outputs = await this.runner.imageOutputs(pixels, signal);
    const prompt: Prompt = {
      embeddings: outputs["languageProjection"]!,
      ids: text,
      mask: imageToken === undefined ? withLeading(mask, queries, 1n) : mask,
    };
    const logits =
      decoder instanceof EncoderDecoder
        ? await decoder.forward(prompt, target!, signal)
        : await decoder.forward(prompt, signal);
    const { visionFeatures, queryOutput, languageProjection } = outputs as Record<string, HostTensor>;
    const result = {
      logits,
      visionFeatures: visionFeatures!,
      queryOutput: queryOutput!,
      languageProjection: languageProjection!,
    };
    if (labels === undefined) return result;
    const isAligned = imageToken !== undefined || target !== undefined;
    const aligned = isAligned ? labels : withLeading(labels, queries, -100n);
    return { ...result, loss: await this.loss(logits, aligned, signal) };
  }

  /** Frees the model. Work under way is finished first; closing twice is harmless. */
  close(): Promise<void> {
    return this.device.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private searchFor(
    call: string,
    images: readonly (ImageSource | ImageView)[],
    prompts: readonly (string | undefined)[],
    asked: GenerateSettings,
  ): Promise<Generated[]> {
    const rows = prompts.map((prompt) => this.promptIds(prompt));
    return this.search(call, rows, ...this.looking(images, asked.signal), asked);
  }

  /** @param rows, queries, softPrompts as in `prompt`. */
  private async search(
    call: string,
    rows: readonly (readonly number[])[],
    queries: number,
    softPrompts: () => Promise<HostTensor>,
    asked: GenerateSettings,
  ): Promise<Generated[]> {
    const [settings, writer] = this.settings(call, asked);
    if (rows.length === 0) return [];
    const { signal } = asked;
    const prompt = await this.prompt(rows, queries, softPrompts, settings, signal);
    const found = await generateTokens(this.begin(settings), prompt, settings, signal);
    return found.map((sequences) => {
      const texts = sequences.map((sequence) => ({ text: writer.text(sequence.tokenIds), ...sequence }));
      return settings.numReturnSequences === 1 ? texts[0]! : { ...texts[0]!, sequences: texts };
    });
  }

  /**
   * What a call asks for, with its words as ids, and what turns ids into its text.
   * @param isAsked a caption without a prompt answers nothing, and a stream of it need not wait for the model's marker.
   */
  private settings(
    call: string,
    asked: GenerateSettings,
    isAsked = true,
  ): [settings: SearchSettings, writer: TextWriter] {
    const settings = searchSettings(call, asked, this.defaults);
    const stops = asked.stop === undefined ? this.defaults.stops : [asked.stop].flat();
    const after = asked.answerAfter ?? (isAsked ? this.answerAfter : undefined);
    const writer = new TextWriter(this.tokenizer, this.defaults.endIds, stops, after);
    // A word within a text has a space before it, and with it another id.
    const spellings = (asked.badWords ?? []).flatMap((word) => [word, ` ${word}`]);
    const words = spellings.map((word) => this.tokenizer.encode(word, { addSpecialTokens: false }));
    const forbidden = [...(settings.forbidden ?? []), ...words];
    return [{ ...settings, forbidden, isStopped: writer.isStopped }, writer];
  }

  private begin({ contrastive }: SearchSettings): Stepper {
    return this.runner.decoder.begin({ states: contrastive !== undefined });
  }

  private promptIds(prompt: string | undefined): readonly number[] {
    return prompt === undefined ? [this.defaults.startId] : this.tokenizer.encode(prompt);
  }

  private textIds(prompt: string, description: string | undefined): readonly number[] {
    if (description === undefined) return this.tokenizer.encode(prompt);
    if (this.runner.decoder instanceof EncoderDecoder)
      return this.tokenizer.encode(`${description} ${prompt}`);
    const before = this.tokenizer.encode(description, { addSpecialTokens: false });
    return [...before, ...this.tokenizer.encode(prompt)];
  }

  /** Of `prompt`: how many soft positions pictures have, and how they come about. */
  private looking(
    images: readonly (ImageSource | ImageView)[],
    signal: AbortSignal | undefined,
  ): [queries: number, softPrompts: () => Promise<HostTensor>] {
    return [this.config.num_query_tokens, () => softPromptsOf(this.runner, images, this.pictures, signal)];
  }

  /**
   * What the language model reads: Q soft positions, then the ids of each row.
   * @param softPrompts -> float32 [B, Q, L]; asked for once it is clear that all has room.
   */
  private async prompt(
    rows: readonly (readonly number[])[],
    queries: number,
    softPrompts: () => Promise<HostTensor>,
    settings: SearchSettings,
    signal: AbortSignal | undefined,
  ): Promise<Prompt> {
    stopIf(signal);
    const length = Math.max(...rows.map((row) => row.length));
    const { maximumLength } = this.runner.decoder;
    const most = maximumLength - queries - length;
    if (settings.maxNewTokens > most) {
      throw new UserError(
        `generate: the prompt of ${length} tokens leaves room for ${Math.max(0, most)} new ones in the model's ` +
          `${maximumLength} positions, maxNewTokens is ${settings.maxNewTokens}`,
      );
    }
    const softId = this.config.image_token_index ?? undefined;
    return paddedPrompt(await softPrompts(), rows, { ...this.defaults, softId });
  }

  private async loss(
    logits: HostTensor,
    labels: HostTensor,
    signal: AbortSignal | undefined,
  ): Promise<HostTensor> {
    this.lossProgram ??= this.device.compile({
      loss: (this.runner.decoder instanceof EncoderDecoder ? labelLoss : nextTokenLoss)(
        input("logits", "float32", ["B", "T", this.config.text_config.vocab_size]),
        input("labels", "int64", ["B", "T"]),
      ),
    });
    const { loss } = await (await this.lossProgram).run({ logits, labels }, { signal });
    return loss!;
  }
}
