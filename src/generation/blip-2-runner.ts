/**
 * The three parts of BLIP-2 as programs of one device: image encoder, Q-Former with its projection, language
 * model. Each holds its own weights; what passes between them stays in the worker.
 *
 * Shapes: B pictures, S image side, P image positions, D_img image width, Q queries, D width, L language width.
 */
import { warnOnce } from "../notices.js";
import type { TensorFile } from "../checkpoints/safetensors.js";
import { checkTensors, layersMustFit } from "../checkpoints/model-folder.js";
import {
  input,
  type Device,
  type FrozenWeights,
  type HostTensors,
  type Program,
  type Slots,
} from "../engine/index.js";
import { stopIf, UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import type { ImageAttention } from "../models/attention-maps.js";
import { buildBlip2, unreadTensors, type Blip2Config } from "../models/blip-2.js";
import { CrossAttentionRecord, imageAttention } from "../models/cross-attention.js";
import { openFrozenWeights, type LoadingHooks } from "../loading/frozen-weights.js";
import type { Precision } from "../loading/precision.js";
import { Parameters } from "../nn/parameters.js";
import { Decoder } from "./decoder.js";
import { EncoderDecoder } from "./encoder-decoder.js";

export const blip2Parts = ["vision", "bridge", "languageModel"] as const;
export type Blip2Part = (typeof blip2Parts)[number];

export interface RunnerOptions extends LoadingHooks {
  /** Default: fp32. */
  readonly precision?: Precision;
  /** What is loaded; what needs another part is refused. Default: all. */
  readonly parts?: readonly Blip2Part[];
}

interface LoadedParts {
  vision?: Program;
  bridge?: Program;
  languageModel?: Decoder | EncoderDecoder;
}

const bridgeOutputs = ["queryOutput", "languageProjection"];

export class Blip2Runner {
  private attending: Promise<Program> | undefined;

  private constructor(
    readonly device: Device,
    readonly config: Blip2Config,
    private readonly loaded: LoadedParts,
    /** Attention is seldom asked for: its program is made when it is. */
    private readonly compileAttention: () => Promise<Program>,
  ) {}

  private part<K extends Blip2Part>(name: K): NonNullable<LoadedParts[K]> {
    const part = this.loaded[name];
    if (part === undefined) {
      throw new UserError(
        `the part ${name} of this model has not been loaded, and this call needs it; load the model without attentionOnly`,
      );
    }
    return part;
  }

  get languageModel(): Decoder | EncoderDecoder {
    return this.part("languageModel");
  }

  /**
   * Checks that the file holds exactly the weights of `config`, and loads them part by part.
   * Throws a `UserError` that names every missing, unexpected and misshapen tensor.
   */
  static async load(
    device: Device,
    config: Blip2Config,
    file: TensorFile,
    options: RunnerOptions = {},
  ): Promise<Blip2Runner> {
    const { precision = "fp32", parts = blip2Parts, signal, onProgress, onNotice } = options;
    layersMustFit(config, file.tensors, file.path);
    const parameters = new Parameters(() => false);
    const { vision, bridge, languageModel } = buildBlip2(config, parameters, file.tensors);
    const { image_size: side, hidden_size: width } = config.vision_config;
    const pixels = input("pixel_values", "float32", ["B", 3, side, side]);
    const hidden = vision.features(pixels);
    const features = input("features", "float32", ["B", vision.positions, width]);
    const visionOutputs = { hidden, visionFeatures: vision.normalise(hidden) };
    const { queryOutput, softPrompt } = bridge.forward(features);

    const ignored = unreadTensors(config);
    checkTensors(parameters.shapes, file.tensors, file.path, { ignored, extra: onNotice ?? warnOnce });
    const hooks = { signal, onProgress, onNotice };
    const { hasTiedHead: tiedHead } = languageModel;
    const unread = (name: string): boolean => !parameters.shapes.has(name);
    const open = await openFrozenWeights(file, { precision, tiedHead, ignored: unread, ...hooks });
    const weights = (wanted: (name: string) => boolean): Promise<FrozenWeights> => {
      stopIf(signal);
      return open([...parameters.shapes.keys()].filter(wanted));
    };
    const isLanguage = (name: string): boolean => name.startsWith("language_model.");
    const isNorm = (name: string): boolean => name.startsWith("vision_model.post_layernorm.");
    const isVision = (name: string): boolean => name.startsWith("vision_model.");
    const isBridge = (name: string): boolean => isNorm(name) || !(isVision(name) || isLanguage(name));
    const loaders: { readonly [K in Blip2Part]: () => Promise<LoadedParts[K]> } = {
      vision: async () => device.compile(visionOutputs, { weights: await weights(isVision), onNotice }),
      bridge: async () =>
        device.compile(
          { queryOutput, languageProjection: softPrompt },
          { weights: await weights(isBridge), onNotice },
        ),
      languageModel: async () => {
        const own = await weights(isLanguage);
        return languageModel.kind === "encoder-decoder"
          ? EncoderDecoder.compile(device, languageModel, own, onNotice)
          : Decoder.compile(device, languageModel, own, onNotice);
      },
    };
    const loaded: LoadedParts = {};
    const load = async <K extends Blip2Part>(part: K): Promise<void> => {
      loaded[part] = await loaders[part]();
    };
    for (const [step, part] of parts.entries()) {
      onProgress?.({ detail: "load", step, total: parts.length });
      await load(part);
    }
    onProgress?.({ detail: "load", step: parts.length, total: parts.length });
    const compileAttention = async (): Promise<Program> => {
      const record = new CrossAttentionRecord();
      const { branch } = bridge;
      branch.queries(features.shape[0]!, branch.imageKeyValues(features), undefined, record.observe);
      const probabilities = record.probabilities();
      // Not by way of `weights`: the signal was that of loading.
      const own = await open([...parameters.shapes.keys()].filter(isBridge));
      return device.compile({ probabilities }, { weights: own, onNotice });
    };
    return new Blip2Runner(device, config, loaded, compileAttention);
  }

  /** Soft visual prompts. pixels: float32 [B, 3, S, S] -> [B, Q, L]. */
  async softPrompts(pixels: HostTensor, signal?: AbortSignal): Promise<HostTensor> {
    const { languageProjection } = await this.look(pixels, ["languageProjection"], signal);
    return languageProjection!;
  }

  /** Everything on the way from pictures to soft prompts: `visionFeatures`, `queryOutput`, `languageProjection`. */
  imageOutputs(pixels: HostTensor, signal?: AbortSignal): Promise<HostTensors> {
    return this.look(pixels, ["visionFeatures", "queryOutput", "languageProjection"], signal);
  }

  /** What the queries look at in a picture. pixels: float32 [1, 3, S, S]. */
  async attention(pixels: HostTensor, signal?: AbortSignal): Promise<ImageAttention> {
    this.attending ??= this.compileAttention();
    const asking = { program: await this.attending, outputs: ["probabilities"] };
    const { probabilities } = await this.look(pixels, asking.outputs, signal, asking);
    return imageAttention(this.config, probabilities!);
  }

  /** Fetches the named outputs of the image encoder and of what asks it; the others never cross the thread border. */
  private async look(
    pixels: HostTensor,
    wanted: readonly string[],
    signal: AbortSignal | undefined,
    asking = { program: this.part("bridge"), outputs: bridgeOutputs },
  ): Promise<HostTensors> {
    await using slots = this.device.slots();
    const keep = (names: readonly string[]): Slots =>
      slots.bind(names.filter((name) => !wanted.includes(name)));
    const seen = await this.part("vision").run(
      { pixel_values: pixels },
      { signal, residentOutputs: keep(["hidden", "visionFeatures"]) },
    );
    const asked = await asking.program.run(
      {},
      {
        signal,
        residentInputs: { features: slots.slot("hidden") },
        residentOutputs: keep(asking.outputs),
      },
    );
    return { ...seen, ...asked };
  }
}
