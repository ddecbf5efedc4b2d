/**
 * Features of the frozen image encoder, computed once per picture and kept on disk as float16: both stages
 * of BLIP-2 train on them, pass after pass. The cache lies beside the data, under a name that holds a hash
 * of the encoder's weights and of the list of pictures.
 */
import { createHash } from "node:crypto";
import { open, readFile, stat, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { halfToFloat32, float32ToHalf } from "../float16.js";
import { readModelFolder, type ModelFolder } from "../checkpoints/model-folder.js";
import { openSafetensors, writeSafetensors } from "../checkpoints/safetensors.js";
import type { CaptionedPicture } from "../data/caption-set.js";
import { input, type Device, type Weights } from "../engine/index.js";
import { InterruptedError, UserError } from "../errors.js";
import { float32Tensor, type HostTensor } from "../host-tensor.js";
import { loadImage } from "../images/load-image.js";
import { preprocess, preprocessConfig } from "../images/preprocess.js";
import { Parameters } from "../nn/parameters.js";
import { parseVisionConfig, visionEncoder, type VisionConfig } from "../models/vision/vision-encoder.js";
import type { TrainingHooks } from "./trainer.js";

/** A frozen encoder as read from its folder. */
export interface FrozenVision {
  readonly folder: ModelFolder;
  readonly config: VisionConfig;
  /** All of the folder's vision weights, under `vision_model.`. */
  readonly weights: Weights;
  readonly hash: string;
}

/** Reads a folder that holds a vision model, alone or inside a BLIP-2 model. */
export async function readFrozenVision(path: string): Promise<FrozenVision> {
  const folder = await readModelFolder(path);
  const config = parseVisionConfig(
    folder.config["vision_config"] ?? folder.config,
    join(path, "config.json"),
  );
  const names = [...folder.weights.tensors.keys()];
  // `Blip2VisionModel` saved alone has no prefix.
  const prefix = names.some((name) => name.startsWith("vision_model.")) ? "" : "vision_model.";
  const wanted = names.filter((name) => prefix !== "" || name.startsWith("vision_model."));
  const tensors = await folder.weights.readAll(wanted);
  const weights = new Map([...tensors].map(([name, value]) => [prefix + name, value]));
  const hash = createHash("sha256").update(JSON.stringify(config));
  for (const [name, value] of [...weights].sort(([a], [b]) => (a < b ? -1 : 1))) {
    // Features are taken before the last norm, which the bridge trains: both stages share one cache.
    if (name.startsWith("vision_model.post_layernorm.")) continue;
    hash.update(name).update(new Uint8Array(value.data.buffer, value.data.byteOffset, value.data.byteLength));
  }
  return { folder, config, weights, hash: hash.digest("hex").slice(0, 16) };
}

export class ImageFeatures {
  private constructor(
    private readonly file: FileHandle,
    private readonly offset: number,
    /** [N, P, D_img] */
    readonly dims: readonly [number, number, number],
  ) {}

  /** Opens the cache of `pictures`, or makes it. */
  static async of(
    vision: FrozenVision,
    data: string,
    pictures: readonly CaptionedPicture[],
    device: Device,
    hooks: TrainingHooks = {},
  ): Promise<ImageFeatures> {
    const list = createHash("sha256").update(pictures.map(({ file }) => file.slice(data.length)).join("\n"));
    for (const { file } of [pictures[0]!, pictures.at(-1)!]) list.update(await readFile(file));
    const path = join(data, "features", `${vision.hash}-${list.digest("hex").slice(0, 16)}.safetensors`);
    const isThere = await stat(path).then(
      () => true,
      () => false,
    );
    if (!isThere) await computeFeatures(path, vision, pictures, device, hooks);
    const entry = (await openSafetensors(path)).tensors.get("features");
    if (entry === undefined || entry.dims.length !== 3)
      throw new UserError(`${path} is not a feature cache: delete it`);
    return new ImageFeatures(
      await open(path),
      entry.offset,
      entry.dims as unknown as readonly [number, number, number],
    );
  }

  /** Features of pictures by place: float32 [B, P, D_img]. */
  async rows(places: readonly number[]): Promise<HostTensor> {
    const [, positions, width] = this.dims;
    const size = positions * width;
    const halves = new Uint16Array(places.length * size);
    for (const [row, place] of places.entries()) {
      const target = new Uint8Array(halves.buffer, row * size * 2, size * 2);
      await this.file.read(target, 0, target.length, this.offset + place * size * 2);
    }
    return float32Tensor(halfToFloat32(halves), [places.length, positions, width]);
  }

  async close(): Promise<void> {
    await this.file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function computeFeatures(
  path: string,
  vision: FrozenVision,
  pictures: readonly CaptionedPicture[],
  device: Device,
  hooks: TrainingHooks,
): Promise<void> {
  const parameters = new Parameters(() => false);
  const encoder = visionEncoder(vision.config, parameters);
  const side = vision.config.image_size;
  const program = await device.compile(
    { features: encoder.features(input("pixel_values", "float32", ["B", 3, side, side])) },
    { weights: vision.weights },
  );
  const preprocessing = preprocessConfig(
    vision.folder.preprocessor ?? {},
    join(vision.folder.path, "preprocessor_config.json"),
  );
  const size = encoder.positions * vision.config.hidden_size;
  const all = new Uint16Array(pictures.length * size);
  for (let from = 0; from < pictures.length; from += 64) {
    if (hooks.signal?.aborted) throw new InterruptedError("stopped while image features were computed");
    const part = pictures.slice(from, from + 64);
    const images = await Promise.all(part.map(({ file }) => loadImage(file, { signal: hooks.signal })));
    const { features } = await program.run({ pixel_values: preprocess(images, preprocessing) });
    const { halves, overflow } = float32ToHalf(features!.data as Float32Array);
    if (overflow >= 0)
      throw new UserError(
        `the image encoder gives values beyond float16 for ${part[Math.floor(overflow / size)]!.file}`,
      );
    all.set(halves, from * size);
    hooks.onProgress?.({ step: from + part.length, total: pictures.length, detail: "image features" });
  }
  await program.release();
  await writeSafetensors(path, {
    features: {
      dtype: "float16",
      dims: [pictures.length, encoder.positions, vision.config.hidden_size],
      data: all,
    },
  });
}
