/** Training augmentation: a random part of the picture at full size, mirrored half of the time (paper, appendix; LAVIS `blip2_image_train`). */
import { type RgbImage } from "./load-image.js";
import { resizeBicubic } from "./resize-bicubic.js";

/** Uniform numbers in [0, 1); the caller seeds it. */
export type RandomSource = () => number;

/** How `augment` cuts and mirrors. */
export interface AugmentOptions {
  /** Side of the square result, in pixels. */
  readonly size: number;
  /** Part of the picture's area, least and most. */
  readonly scale?: readonly [number, number];
  /** Width by height of the part, least and most. */
  readonly ratio?: readonly [number, number];
  /** Probability of mirroring left to right. Zero where captions say left and right. */
  readonly flip?: number;
}

/** A part of a picture, in whole pixels. */
export interface Crop {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** Cuts a random part out, resizes it to `size` x `size`, and mirrors it at random. The same random numbers give the same picture. */
export function augment(image: RgbImage, random: RandomSource, options: AugmentOptions): RgbImage {
  const { size, scale = [0.5, 1], ratio = [3 / 4, 4 / 3], flip = 0.5 } = options;
  const part = cut(image, randomCrop(image, random, scale, ratio));
  const resized = resizeBicubic(part, { width: size, height: size });
  return random() < flip ? mirror(resized) : resized;
}

/**
 * A random part: area uniform in `scale`, aspect ratio log-uniform in `ratio`. After ten draws that do not fit into the picture, the
 * largest centred part of an allowed ratio.
 */
export function randomCrop(
  { width: fullWidth, height: fullHeight }: Pick<RgbImage, "width" | "height">,
  random: RandomSource,
  scale: readonly [number, number],
  ratio: readonly [number, number],
): Crop {
  const between = (low: number, high: number) => low + (high - low) * random();
  for (let attempt = 0; attempt < 10; attempt++) {
    const area = fullWidth * fullHeight * between(...scale);
    const aspect = Math.exp(between(Math.log(ratio[0]), Math.log(ratio[1])));
    const width = Math.round(Math.sqrt(area * aspect));
    const height = Math.round(Math.sqrt(area / aspect));
    if (width < 1 || height < 1 || width > fullWidth || height > fullHeight) continue;
    const top = Math.floor(between(0, fullHeight - height + 1));
    const left = Math.floor(between(0, fullWidth - width + 1));
    return { left, top, width, height };
  }
  const full = fullWidth / fullHeight;
  const width = full > ratio[1] ? Math.max(1, Math.round(fullHeight * ratio[1])) : fullWidth;
  const height = full < ratio[0] ? Math.max(1, Math.round(fullWidth / ratio[0])) : fullHeight;
  return { left: (fullWidth - width) >> 1, top: (fullHeight - height) >> 1, width, height };
}

/** The picture with `color` (0 to 1) of its colour left: each pixel between its grey (ITU-R 601 luma) and itself. */
export function fade({ width, height, data }: RgbImage, color: number): RgbImage {
  const result = new Uint8Array(data.length);
  for (let at = 0; at < data.length; at += 3) {
    const grey = 0.299 * data[at]! + 0.587 * data[at + 1]! + 0.114 * data[at + 2]!;
    for (let c = at; c < at + 3; c++) result[c] = Math.round(grey + color * (data[c]! - grey));
  }
  return { width, height, data: result };
}

/** The pixels of one part. */
function cut(image: RgbImage, { left, top, width, height }: Crop): RgbImage {
  const data = new Uint8Array(width * height * 3);
  for (let row = 0; row < height; row++) {
    const start = ((top + row) * image.width + left) * 3;
    data.set(image.data.subarray(start, start + width * 3), row * width * 3);
  }
  return { width, height, data };
}

/** Left and right exchanged. */
function mirror({ width, height, data }: RgbImage): RgbImage {
  const result = new Uint8Array(data.length);
  for (let row = 0; row < height; row++) {
    for (let x = 0; x < width; x++) {
      const from = (row * width + x) * 3;
      result.set(data.subarray(from, from + 3), (row * width + width - 1 - x) * 3);
    }
  }
  return { width, height, data: result };
}
