/** The frozen image encoder of a model folder, with its weights as published, for a store of features. */
import { join } from "node:path";
import type { Device } from "../engine/index.js";
import { preprocessConfig } from "../images/preprocess.js";
import type { FrozenVision } from "../loading/frozen-vision.js";
import type { PictureEncoder } from "../loading/picture-encoder.js";
import { visionEncoder } from "../models/vision/vision-encoder.js";
import { Parameters } from "../nn/parameters.js";
import { encodedPictures } from "./picture-side.js";

export function frozenEncoder(vision: FrozenVision, device: Device): PictureEncoder {
  const encoder = visionEncoder(vision.config, new Parameters(() => false));
  const { path, preprocessor = {} } = vision.folder;
  const preprocessing = preprocessConfig(preprocessor, join(path, "preprocessor_config.json"));
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
