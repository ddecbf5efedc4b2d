/** The frozen image encoder of a model folder, with its weights as published, for a store of features. */
import { join } from "node:path";
import type { Device } from "../engine/index.js";
import { UserError } from "../errors.js";
import { preprocessConfig, type PreprocessConfig } from "../images/preprocess.js";
import type { FrozenVision } from "../loading/frozen-vision.js";
import type { PictureEncoder } from "../loading/picture-encoder.js";
import { visionEncoder } from "../models/vision/vision-encoder.js";
import { Parameters } from "../nn/parameters.js";
import { encodedPictures } from "./picture-side.js";

/**
 * How the folder has pictures prepared. Throws a `UserError` that names both sizes if its image encoder does not take pictures of that
 * size.
 */
export function frozenPreprocessing({
  folder: { path, preprocessor = {} },
  config: { image_size: side },
}: Pick<FrozenVision, "folder" | "config">): PreprocessConfig {
  const where = join(path, "preprocessor_config.json");
  const preprocessing = preprocessConfig(preprocessor, where);
  const { size } = preprocessing;
  // Where nothing is resized each picture must have that size itself.
  if (size === undefined || (size.width === side && size.height === side)) return preprocessing;
  throw new UserError(
    `${where}: size is ${size.height} x ${size.width} (height x width), but the image encoder is for pictures of image_size ${side} (config.json), which training requires; make them equal`,
  );
}

export function frozenEncoder(vision: FrozenVision, device: Device): PictureEncoder {
  const encoder = visionEncoder(vision.config, new Parameters(() => false));
  const { path } = vision.folder;
  const preprocessing = frozenPreprocessing(vision);
  return {
    path,
    positions: encoder.positions,
    width: vision.config.hidden_size,
    side: vision.config.image_size,
    preprocessing,
    digest: () => vision.hash(),
    open: async (load) => {
      const side = encodedPictures(encoder, preprocessing, load);
      const program = await device.compile(
        { features: side.features("B") },
        { weights: await vision.weights() },
      );
      return {
        features: async (places, signal) => {
          const { features } = await program.run(await side.feeds(places), { signal });
          return features!;
        },
        release: () => program.release(),
      };
    },
  };
}
