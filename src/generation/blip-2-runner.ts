/**
 * The three parts of BLIP-2 as programs of one device: image encoder, Q-Former with its projection, language
 * model. Each holds its own weights; what passes between them stays in the worker.
 *
 * Shapes: B pictures, S image side, P image positions, D_img image width, Q queries, D width, L language width.
 */
import type { TensorFile } from "../checkpoints/safetensors.js";
import { checkTensors } from "../checkpoints/model-folder.js";
import { input, type Device, type HostTensors, type Program } from "../engine/index.js";
import { InterruptedError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import { buildBlip2, unreadTensors, type Blip2Config } from "../models/blip-2.js";
import { T5 } from "../models/t5.js";
import { Parameters } from "../nn/parameters.js";
import { Decoder } from "./decoder.js";
import { EncoderDecoder } from "./encoder-decoder.js";

/** Pictures under way at once do not share slots. */
let pictures = 0;

export class Blip2Runner {
  private constructor(
    readonly device: Device,
    readonly config: Blip2Config,
    private readonly vision: Program,
    private readonly bridge: Program,
    readonly decoder: Decoder | EncoderDecoder,
  ) {}

  /**
   * Checks that the file holds exactly the weights of `config`, and loads them part by part.
   * Throws a `UserError` that names every missing, unexpected and misshapen tensor.
   */
  static async load(
    device: Device,
    config: Blip2Config,
    file: TensorFile,
    signal?: AbortSignal,
  ): Promise<Blip2Runner> {
    const parameters = new Parameters(() => false);
    const { vision, bridge, languageModel } = buildBlip2(config, parameters, file.tensors);
    const { image_size: side, hidden_size: width } = config.vision_config;
    const pixels = input("pixel_values", "float32", ["B", 3, side, side]);
    const hidden = vision.features(pixels);
    const features = input("features", "float32", ["B", vision.positions, width]);
    const visionOutputs = { hidden, visionFeatures: vision.normalise(hidden) };
    const { queryOutput, softPrompt } = bridge.forward(features);

    checkTensors(parameters.shapes, file.tensors, file.path, { ignored: unreadTensors(config) });
    const weights = (wanted: (name: string) => boolean): Promise<Map<string, HostTensor>> => {
      if (signal?.aborted) throw new InterruptedError("stopped on request");
      return file.readAll([...parameters.shapes.keys()].filter(wanted));
    };
    const isLanguage = (name: string): boolean => name.startsWith("language_model.");
    const isNorm = (name: string): boolean => name.startsWith("vision_model.post_layernorm.");
    const isVision = (name: string): boolean => name.startsWith("vision_model.");
    return new Blip2Runner(
      device,
      config,
      await device.compile(visionOutputs, { weights: await weights(isVision) }),
      await device.compile(
        { queryOutput, languageProjection: softPrompt },
        { weights: await weights((name) => isNorm(name) || !(isVision(name) || isLanguage(name))) },
      ),
      languageModel instanceof T5
        ? await EncoderDecoder.compile(device, languageModel, await weights(isLanguage))
        : await Decoder.compile(device, languageModel, await weights(isLanguage)),
    );
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

  /** Fetches the named outputs; the others never cross the thread border. */
  private async look(
    pixels: HostTensor,
    wanted: readonly string[],
    signal: AbortSignal | undefined,
  ): Promise<HostTensors> {
    const scope = `pictures.${pictures++}`;
    const slot = (name: string): string => `${scope}.${name}`;
    const kept = new Set<string>();
    const keep = (names: readonly string[]): Record<string, string> => {
      const unwanted = names.filter((name) => !wanted.includes(name));
      for (const name of unwanted) kept.add(slot(name));
      return Object.fromEntries(unwanted.map((name) => [name, slot(name)]));
    };
    try {
      const seen = await this.vision.run(
        { pixel_values: pixels },
        { signal, residentOutputs: keep(["hidden", "visionFeatures"]) },
      );
      const bridged = await this.bridge.run(
        {},
        {
          signal,
          residentInputs: { features: slot("hidden") },
          residentOutputs: keep(["queryOutput", "languageProjection"]),
        },
      );
      return { ...seen, ...bridged };
    } finally {
      // A device that has ended has freed them already.
      await this.device.drop([...kept]).catch(() => undefined);
    }
  }
}
