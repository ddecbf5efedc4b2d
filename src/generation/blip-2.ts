/** BLIP-2 as callers use it: pictures and prompts in, texts out. */
import { readModelFolder } from "../checkpoints/model-folder.js";
import { input, type Device, type Program } from "../engine/index.js";
import { openDevice } from "../engine/node.js";
import { stopIf, UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import { findModel } from "../hub/hub.js";
import { loadImage, type ImageSource } from "../images/load-image.js";
import { preprocessInTurns, type PreprocessConfig } from "../images/preprocess.js";
import { sizedVision } from "../loading/picture-size.js";
import type { ImageAttention } from "../models/attention-maps.js";
import { blip2Config, type Blip2Config } from "../models/blip-2.js";
import { labelLoss, nextTokenLoss } from "../objectives/cross-entropy.js";
import { OpenCalls } from "../open-calls.js";
import { loadTokenizer, type TextTokenizer } from "../text/tokenizer.js";
import { blip2Parts, Blip2Runner } from "./blip-2-runner.js";
import type {
  ForwardInputs,
  ForwardOutputs,
  GenerateBatchOptions,
  Generated,
  GenerateOptions,
  GenerateWithoutPictureOptions,
  LoadOptions,
  StreamOptions,
} from "./calls.js";
import { Chat, type ChatOptions } from "./chat.js";
import { forwardPass } from "./forward.js";
import { ImageView, softPromptsOf } from "./image-view.js";
import { generationDefaults, type GenerationDefaults } from "./generation-defaults.js";
import { checkOptions, usualNewTokens } from "./options.js";
import { TextGenerator } from "./text-generator.js";

/** T5's positions are relative; it was trained on so many tokens at once (Raffel et al. 2020, section 3.1.2). */
const t5Context = 512;

export class Blip2 {
  private readonly calls = new OpenCalls();
  private readonly texts: TextGenerator;
  private lossProgram: Promise<Program> | undefined;

  private constructor(
    private readonly device: Device,
    private readonly runner: Blip2Runner,
    tokenizer: TextTokenizer,
    private readonly preprocessing: PreprocessConfig,
    private readonly defaults: GenerationDefaults,
  ) {
    this.texts = new TextGenerator(runner, tokenizer, preprocessing, defaults);
  }

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
    const { vision, preprocessing, weights } = sizedVision(opened, published.vision_config, imageSize);
    const config = { ...published, vision_config: vision };
    const tokenizer = await loadTokenizer(opened.path);
    const { vocab_size: rows } = config.text_config;
    if (tokenizer.vocabularySize > rows) {
      throw new UserError(
        `${where("tokenizer.json")}: has ${tokenizer.vocabularySize} tokens, text_config.vocab_size in config.json is ${rows}; ` +
          "check that tokenizer and config belong together",
      );
    }
    const defaults = generationDefaults(
      opened.generationConfig,
      config.text_config,
      where("generation_config.json"),
      hub.onNotice ?? ((notice) => process.emitWarning(notice)),
    );
    stopIf(signal);
    const device = openDevice({ threads });
    try {
      const parts = attentionOnly ? (["vision"] as const) : blip2Parts;
      const runner = await Blip2Runner.load(device, config, weights, { precision, parts, ...hub });
      return new Blip2(device, runner, tokenizer, preprocessing, defaults);
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
    return this.calls.run(async () => {
      const start = await this.texts.about("generate", [image], [prompt], settings);
      const [generated] = await this.texts.search("generate", start, settings);
      return generated!;
    });
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
    return this.calls.run(async () => {
      const asked = prompts ?? images.map(() => prompt);
      const start = await this.texts.about("generateBatch", images, asked, settings);
      return this.texts.search("generateBatch", start, settings);
    });
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
    return this.calls.run(async () => {
      const start = await this.texts.without(call, prompts, descriptions, settings);
      return this.texts.search(call, start, settings);
    });
  }

  /** A text piece by piece as it comes into being. Leaving the loop ends the work; closing the model does so too. */
  async *stream(options: StreamOptions): AsyncGenerator<string, void, undefined> {
    checkOptions("stream", options);
    this.calls.check();
    const { image, prompt, ...asked } = options;
    const one = { ...asked, numBeams: 1, numReturnSequences: 1 } as const;
    const start = await this.texts.about("stream", [image], [prompt], one);
    yield* this.texts.stream(start, one, prompt !== undefined);
  }

  /** Looks at a picture once, for any number of `generate`, `generateBatch` and `stream` calls. */
  async look(
    image: ImageSource,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<ImageView> {
    checkOptions("look", options);
    return this.calls.run(async () => {
      const softPrompt = await softPromptsOf(this.runner, [image], this.preprocessing, options.signal);
      return new ImageView(this.runner, softPrompt);
    });
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
    return this.calls.run(async () => {
      const pixels = await preprocessInTurns([await loadImage(image, options)], this.preprocessing);
      return this.runner.attention(pixels, options.signal);
    });
  }

  /** Begins a chat about a picture, which is looked at once. */
  async chat(options: ChatOptions): Promise<Chat> {
    checkOptions("chat", options);
    const { image, format = this.questionFormat, signal } = options;
    const { maximumLength } = this.runner.languageModel;
    const { context = this.usualContext() } = options;
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

  private usualContext(): number {
    const { kind, maximumLength } = this.runner.languageModel;
    if (kind === "encoder-decoder") return t5Context;
    return Math.min(maximumLength, this.defaults.maxLength ?? Infinity);
  }

  /**
   * How many tokens a picture, this prompt and so many new tokens are for the language model. What an
   * encoder-decoder writes does not count: it stands apart from what it reads. Infinity for a prompt that has too many
   * characters for the model's positions, or for `maxPromptTokens` tokens.
   */
  contextLength(prompt: string, maxNewTokens?: number, maxPromptTokens?: number): number {
    const { num_query_tokens: queries } = this.config;
    const { kind, maximumLength: positions } = this.runner.languageModel;
    const read = queries + this.texts.promptTokens(prompt, this.texts.mostTokens(maxPromptTokens));
    if (kind === "encoder-decoder" || read === Infinity) return read;
    return read + (maxNewTokens ?? Math.max(1, usualNewTokens(this.defaults, read, { positions, queries })));
  }

  /**
   * Whether the language model has positions for a picture, this prompt, and so many new tokens; of one without positions,
   * whether it takes a prompt of this length unless it is told to.
   */
  hasRoomFor(prompt: string, maxNewTokens?: number): boolean {
    const { maximumLength } = this.runner.languageModel;
    const most = Math.min(maximumLength, this.config.num_query_tokens + this.texts.mostTokens());
    return this.contextLength(prompt, maxNewTokens) <= most;
  }

  /** One pass through all parts, for those who want the numbers. */
  async forward(inputs: ForwardInputs): Promise<ForwardOutputs> {
    checkOptions("forward", inputs);
    return this.calls.run(() =>
      forwardPass(this.runner, this.defaults, inputs, (logits, labels, signal) =>
        this.loss(logits, labels, signal),
      ),
    );
  }

  /** Frees the model. Calls under way are finished first, and later ones refused; closing twice is harmless. */
  close(): Promise<void> {
    return this.calls.close(() => this.device.close());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private async loss(
    logits: HostTensor,
    labels: HostTensor,
    signal: AbortSignal | undefined,
  ): Promise<HostTensor> {
    this.lossProgram ??= this.device.compile({
      loss: (this.runner.languageModel.kind === "encoder-decoder" ? labelLoss : nextTokenLoss)(
        input("logits", "float32", ["B", "T", this.config.text_config.vocab_size]),
        input("labels", "int64", ["B", "T"]),
      ),
    });
    const { loss } = await (await this.lossProgram).run({ logits, labels }, { signal });
    return loss!;
  }
}
