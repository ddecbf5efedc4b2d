/** BLIP-2 as callers use it: pictures and prompts in, texts out. */
import { readModelFolder, type ModelFolder } from "../checkpoints/model-folder.js";
import { Device, input, type Program } from "../engine/index.js";
import { InterruptedError, UserError } from "../errors.js";
import { int64Tensor, type HostTensor } from "../host-tensor.js";
import { loadImage, type ImageSource } from "../images/load-image.js";
import { preprocess, preprocessConfig, type PreprocessConfig } from "../images/preprocess.js";
import { blip2Config, type Blip2Config } from "../models/blip-2.js";
import { nextTokenLoss } from "../objectives/cross-entropy.js";
import { loadTokenizer, type TextTokenizer } from "../text/tokenizer.js";
import { Blip2Runner } from "./blip-2-runner.js";
import { generateTokens, generationSteps } from "./generate.js";
import {
  checkOptions,
  generationDefaults,
  searchSettings,
  type GenerateSettings,
  type GenerationDefaults,
} from "./options.js";
import {
  floats,
  integers,
  requireDims,
  withLeading,
  withoutImageTokens,
  type RawTensor,
} from "./raw-tensors.js";
import type { GeneratedSequence, SearchSettings } from "./search.js";
import type { Prompt } from "./stepper.js";

export interface LoadOptions {
  /** How weights are held and multiplied; "fp32" for now. */
  readonly precision?: "fp32";
  /** Default: the CPUs that this process may use. */
  readonly threads?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface GenerateOptions extends GenerateSettings {
  readonly image: ImageSource;
  /** Stands before the answer, such as "Question: what is this? Answer:". Not part of the text. Default: none. */
  readonly prompt?: string | undefined;
}

export interface GenerateBatchOptions extends GenerateSettings {
  readonly images: readonly ImageSource[];
  /** One prompt for all pictures ... */
  readonly prompt?: string | undefined;
  /** ... or one for each. */
  readonly prompts?: readonly (string | undefined)[] | undefined;
}

/** Streams come from greedy search: beam search knows no text before its end. */
export type StreamOptions = Omit<GenerateOptions, "numBeams"> & { readonly numBeams?: 1 | undefined };

export interface Generated {
  /** Without the prompt, special tokens and white space at its ends. */
  readonly text: string;
  /** New ids, the end token included if there is one. */
  readonly tokenIds: readonly number[];
  /** The natural logarithm of the probability that the model gives to `tokenIds`. */
  readonly logProbability: number;
}

/** Q queries, T text positions, V vocabulary, P image positions, D widths. */
export interface ForwardInputs {
  /** [B, 3, S, S] */
  readonly pixelValues: RawTensor;
  /** [B, Q + T]: Q times the image token, then the text; the text alone where the config names no image token. */
  readonly inputIds: RawTensor;
  /** Of the shape of `inputIds`; ones if absent. */
  readonly attentionMask?: RawTensor | undefined;
  /** Of the shape of `inputIds`; -100 takes no part in the loss. */
  readonly labels?: RawTensor | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** As `Blip2ForConditionalGeneration` of transformers; all float32. */
export interface ForwardOutputs {
  /** [B, Q + T, V] */
  readonly logits: HostTensor;
  /** Scalar: mean cross-entropy of the next token. Only with labels. */
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
   * Loads a model folder as published on the Hugging Face hub for `Blip2ForConditionalGeneration` with OPT.
   * Throws `UserError` naming the file and what does not fit.
   */
  static async load(folder: string, options: LoadOptions = {}): Promise<Blip2> {
    checkOptions("load", options);
    const { threads, signal } = options;
    const opened = await openFolder(folder);
    const where = (file: string): string => `${opened.path}/${file}`;
    const config = blip2Config(opened.config, where("config.json"));
    const pictures = pictureConfig(opened, config, where("preprocessor_config.json"));
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
    if (signal?.aborted) throw new InterruptedError("stopped on request");
    const device = Device.open(threads === undefined ? {} : { threads });
    try {
      const runner = await Blip2Runner.load(device, config, opened.weights, signal);
      return new Blip2(device, runner, tokenizer, pictures, defaults);
    } catch (error) {
      await device.close();
      throw error;
    }
  }

  /** The checked config.json. */
  get config(): Blip2Config {
    return this.runner.config;
  }

  /** Describes a picture, or goes on from a prompt about it. */
  async generate(options: GenerateOptions): Promise<Generated> {
    checkOptions("generate", options);
    const { image, prompt, ...settings } = options;
    const search = searchSettings("generate", settings, this.defaults);
    const [generated] = await this.search([image], [prompt], search, settings.signal);
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
    const search = searchSettings("generateBatch", settings, this.defaults);
    if (images.length === 0) return [];
    return this.search(images, prompts ?? images.map(() => prompt), search, settings.signal);
  }

  /** The text of a greedy search, piece by piece as it comes into being. Leaving the loop ends the work. */
  async *stream(options: StreamOptions): AsyncGenerator<string, void, undefined> {
    checkOptions("stream", options);
    const { image, prompt, ...settings } = options;
    const search = searchSettings("stream", { ...settings, numBeams: 1 }, this.defaults);
    const { signal } = settings;
    const ready = await this.prompt([image], [prompt], search, signal);
    let [text, shown] = ["", ""];
    for await (const [running] of generationSteps(this.runner.decoder.begin(), ready, search, signal)) {
      text = this.text(running!.results[0]!);
      // Half a character waits for its other half. White space at the end is not in `text` yet.
      if (text.length > shown.length && !text.endsWith("\ufffd")) {
        yield text.slice(shown.length);
        shown = text;
      }
    }
    if (text.length > shown.length) yield text.slice(shown.length);
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
    const labels = inputs.labels && likeIds("labels", inputs.labels);
    const imageToken = this.config.image_token_index ?? undefined;
    const text = imageToken === undefined ? ids : withoutImageTokens(ids, imageToken, queries);
    const outputs = await this.runner.imageOutputs(pixels, signal);
    const prompt: Prompt = {
      embeddings: outputs["languageProjection"]!,
      ids: text,
      mask: imageToken === undefined ? withLeading(mask, queries, 1n) : mask,
    };
    const logits = await this.runner.decoder.forward(prompt, signal);
    const { visionFeatures, queryOutput, languageProjection } = outputs as Record<string, HostTensor>;
    const result = {
      logits,
      visionFeatures: visionFeatures!,
      queryOutput: queryOutput!,
      languageProjection: languageProjection!,
    };
    if (labels === undefined) return result;
    const aligned = imageToken === undefined ? withLeading(labels, queries, -100n) : labels;
    return { ...result, loss: await this.loss(logits, aligned, signal) };
  }

  /** Frees the model. Work under way is finished first; closing twice is harmless. */
  close(): Promise<void> {
    return this.device.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private async search(
    images: readonly ImageSource[],
    prompts: readonly (string | undefined)[],
    settings: SearchSettings,
    signal: AbortSignal | undefined,
  ): Promise<Generated[]> {
    const prompt = await this.prompt(images, prompts, settings, signal);
    const found = await generateTokens(this.runner.decoder.begin(), prompt, settings, signal);
    return found.map(([best]) => {
      const { tokenIds, logProbability } = best!;
      return { text: this.text(best!), tokenIds, logProbability };
    });
  }

  /** Soft visual prompts, then the prompts' ids, padded on the left between the two as transformers does. */
  private async prompt(
    images: readonly ImageSource[],
    prompts: readonly (string | undefined)[],
    settings: SearchSettings,
    signal: AbortSignal | undefined,
  ): Promise<Prompt> {
    if (signal?.aborted) throw new InterruptedError("stopped on request");
    const rows = prompts.map((prompt) =>
      prompt === undefined ? [this.defaults.startId] : this.tokenizer.encode(prompt),
    );
    const queries = this.config.num_query_tokens;
    const length = Math.max(...rows.map((row) => row.length));
    const most = this.runner.decoder.maximumLength - queries - length;
    if (settings.maxNewTokens > most) {
      throw new UserError(
        `generate: the prompt of ${length} tokens leaves room for ${Math.max(0, most)} new ones in the model's ` +
          `${this.runner.decoder.maximumLength} positions, maxNewTokens is ${settings.maxNewTokens}`,
      );
    }
    const ids = new BigInt64Array(rows.length * length).fill(BigInt(this.defaults.padId));
    const mask = new BigInt64Array(rows.length * (queries + length));
    for (const [b, row] of rows.entries()) {
      const start = length - row.length;
      for (const [t, id] of row.entries()) ids[b * length + start + t] = BigInt(id);
      mask.fill(1n, b * (queries + length), b * (queries + length) + queries);
      mask.fill(1n, b * (queries + length) + queries + start, (b + 1) * (queries + length));
    }
    const pixels = preprocess(await Promise.all(images.map(loadImage)), this.pictures);
    return {
      embeddings: await this.runner.softPrompts(pixels, signal),
      ids: int64Tensor(ids, [rows.length, length]),
      mask: int64Tensor(mask, [rows.length, queries + length]),
      softId: this.config.image_token_index ?? undefined,
    };
  }

  private text({ tokenIds }: GeneratedSequence): string {
    const { endIds } = this.defaults;
    const words = tokenIds.filter((id, t) => t < tokenIds.length - 1 || !endIds.includes(id));
    return this.tokenizer.decode(words).trim();
  }

  private async loss(
    logits: HostTensor,
    labels: HostTensor,
    signal: AbortSignal | undefined,
  ): Promise<HostTensor> {
    this.lossProgram ??= this.device.compile({
      loss: nextTokenLoss(
        input("logits", "float32", ["B", "T", this.config.text_config.vocab_size]),
        input("labels", "int64", ["B", "T"]),
      ),
    });
    const { loss } = await (await this.lossProgram).run({ logits, labels }, { signal });
    return loss!;
  }
}

async function openFolder(folder: string): Promise<ModelFolder> {
  try {
    return await readModelFolder(folder);
  } catch (error) {
    const cause = (error as { cause?: { code?: unknown } } | undefined)?.cause;
    const isHubId = /^[\w.-]+\/[\w.-]+$/.test(folder);
    if (!(error instanceof UserError) || cause?.code !== "ENOENT" || !isHubId) throw error;
    throw new UserError(
      `${folder}: this folder does not exist; a model of this name on the Hugging Face hub must be downloaded first, ` +
        "then give the folder",
      { cause: error },
    );
  }
}

/** Pictures must have the size that the position table is for. */
function pictureConfig(folder: ModelFolder, config: Blip2Config, where: string): PreprocessConfig {
  const { image_size: side } = config.vision_config;
  if (folder.preprocessor === undefined) return preprocessConfig({ size: side });
  const pictures = preprocessConfig(folder.preprocessor, where);
  const { size } = pictures;
  if (size === undefined)
    throw new UserError(`${where}: do_resize is false: true is required, to ${side} x ${side}`);
  if (size.width !== side || size.height !== side) {
    throw new UserError(
      `${where}: size is ${size.width} x ${size.height}: ${side} x ${side} is required, image_size in config.json`,
    );
  }
  return pictures;
}
