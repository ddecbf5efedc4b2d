/**
 * How pictures reach a graph, in the graph and in the feeds of a batch of it: as features that were computed once, or as pixels through
 * an encoder that is part of the graph. A loss takes the features and does not know which.
 *
 * Shapes: B pictures, S image side, P image positions, D_img image width.
 */
import { input, type HostTensors, type Tensor } from "../engine/index.js";
import type { HostTensor } from "../host-tensor.js";
import type { RgbImage } from "../images/load-image.js";
import { preprocess, type PreprocessConfig } from "../images/preprocess.js";
import type { VisionEncoder } from "../models/vision/vision-encoder.js";

export interface PictureSide {
  /** Features before the encoder's last norm, of a batch of `count` pictures: [count, P, D_img]. */
  features(count: number | string): Tensor;
  /** Values for the inputs that `features` declares, of the pictures at these places of the data set. */
  feeds(places: readonly number[]): Promise<HostTensors>;
}

/** Features that are there already: N pictures, read by rows. */
export interface StoredFeatures {
  /** N, P and D_img. */
  readonly dims: readonly [number, number, number];
  /** float32 [B, P, D_img] */
  rows(places: readonly number[]): Promise<HostTensor>;
}

export function storedPictures(stored: StoredFeatures): PictureSide {
  const [, positions, width] = stored.dims;
  return {
    features: (count) => input("features", "float32", [count, positions, width]),
    feeds: async (places) => ({ features: await stored.rows(places) }),
  };
}

/** @param load gives the decoded picture at a place */
export function encodedPictures(
  encoder: VisionEncoder,
  preprocessing: PreprocessConfig,
  load: (place: number) => Promise<RgbImage>,
): PictureSide {
  const side = encoder.config.image_size;
  return {
    features: (count) => encoder.features(input("pixel_values", "float32", [count, 3, side, side])),
    feeds: async (places) => ({
      pixel_values: preprocess(await Promise.all(places.map(load)), preprocessing),
    }),
  };
}
