/** Pictures to the tensor that the vision model takes, as a folder's preprocessor_config.json says. */
import { checkJson } from "../json.js";
import { z } from "zod";
import { InternalError, UserError } from "../errors.js";
import { float32Tensor, type HostTensor } from "../host-tensor.js";
import { type RgbImage } from "./load-image.js";
import { resizeBicubic, resizeBicubicInTurns } from "./resize-bicubic.js";

const perChannel = z.union([z.number(), z.array(z.number()).length(3)]);
const pixels = z.int().positive();

/** The keys that are read; the defaults are those of transformers' BlipImageProcessor. */
const schema = z.object({
  do_resize: z.boolean().default(true),
  size: z.union([pixels, z.object({ height: pixels, width: pixels })]).default(384),
  resample: z.literal(3).default(3),
  do_rescale: z.boolean().default(true),
  rescale_factor: z.number().default(1 / 255),
  do_normalize: z.boolean().default(true),
  image_mean: perChannel.default([0.48145466, 0.4578275, 0.40821073]),
  image_std: perChannel.default([0.26862954, 0.26130258, 0.27577711]),
  do_convert_rgb: z.boolean().default(true),
  do_center_crop: z.literal(false).nullish(),
  do_pad: z.literal(false).nullish(),
});

/** How pictures of a square size are prepared for BLIP-2, in the keys of preprocessor_config.json. */
export function blipPreprocessor(side: number): object {
  return {
    image_processor_type: "BlipImageProcessor",
    do_convert_rgb: true,
    do_resize: true,
    size: { height: side, width: side },
    resample: 3,
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: [0.48145466, 0.4578275, 0.40821073],
    image_std: [0.26862954, 0.26130258, 0.27577711],
  };
}

/** How pictures become tensors. */
export interface PreprocessConfig {
  /** The size that every picture is resized to; undefined: pictures keep theirs, which must be equal in a batch. */
  readonly size: { readonly width: number; readonly height: number } | undefined;
  /** For each channel, the tensor's value of each of the 256 pixel values. */
  readonly values: readonly [Float32Array, Float32Array, Float32Array];
}

const remedies: Readonly<Record<string, string>> = {
  resample: "3 (bicubic) is the only resampling that is supported",
  size: 'a whole number or { "height", "width" } is required',
  do_center_crop: "cropping is not supported, remove the key or set it to false",
  do_pad: "padding is not supported, remove the key or set it to false",
};

/**
 * Checks the content of a preprocessor_config.json. Missing keys take the defaults of BLIP's image processor.
 * Throws `UserError` naming `where` and every key whose value is not supported.
 */
export function preprocessConfig(json: unknown, where = "preprocessor_config.json"): PreprocessConfig {
  const config = checkJson(json, schema, where, (key) => remedies[key]);
  const size = typeof config.size === "number" ? { width: config.size, height: config.size } : config.size;
  const factor = config.do_rescale ? config.rescale_factor : 1;
  const channel = (index: 0 | 1 | 2): Float32Array => {
    const of = (value: number | number[]) => (typeof value === "number" ? value : value[index]!);
    const [mean, std] = config.do_normalize ? [of(config.image_mean), of(config.image_std)] : [0, 1];
    return valueTable(factor, mean, std);
  };
  return { size: config.do_resize ? size : undefined, values: [channel(0), channel(1), channel(2)] };
}

/** The reference multiplies in float64 and does the rest in float32, so each step is rounded here, too. */
function valueTable(factor: number, mean: number, std: number): Float32Array {
  const mean32 = Math.fround(mean);
  const std32 = Math.fround(std);
  return Float32Array.from(
    { length: 256 },
    (_, pixel) => Math.fround(Math.fround(pixel * factor) - mean32) / std32,
  );
}

/**
 * A batch of pictures as float32 [B, 3, H, W].
 * Throws `UserError` if the config does not resize and the pictures differ in size.
 */
export function preprocess(images: readonly RgbImage[], config: PreprocessConfig): HostTensor {
  return normalised(
    images.map((image) => (config.size ? resizeBicubic(image, config.size) : image)),
    config,
  );
}

/** The same, leaving the thread to others while large pictures are resized. */
export async function preprocessInTurns(
  images: readonly RgbImage[],
  config: PreprocessConfig,
): Promise<HostTensor> {
  const resized: RgbImage[] = [];
  for (const image of images) {
    resized.push(config.size ? await resizeBicubicInTurns(image, config.size) : image);
  }
  return normalised(resized, config);
}

function normalised(resized: readonly RgbImage[], config: PreprocessConfig): HostTensor {
  const first = resized[0];
  if (!first) throw new InternalError("preprocess: at least one picture is required");
  const { width, height } = first;
  const area = width * height;
  const batch = new Float32Array(resized.length * 3 * area);
  resized.forEach((image, b) => {
    if (image.width !== width || image.height !== height) {
      throw new UserError(
        `preprocess: without do_resize all pictures of a batch must have one size, got ${width} x ${height} and ${image.width} x ${image.height}`,
      );
    }
    config.values.forEach((table, channel) => {
      const start = (b * 3 + channel) * area;
      for (let i = 0; i < area; i++) batch[start + i] = table[image.data[i * 3 + channel]!]!;
    });
  });
  return float32Tensor(batch, [resized.length, 3, height, width]);
}
