/** The size at which a model folder's vision model looks at pictures, which may differ from that of its position table. */
import { withDerivedTensors } from "../checkpoints/derived-tensors.js";
import type { ModelFolder } from "../checkpoints/model-folder.js";
import type { TensorFile } from "../checkpoints/safetensors.js";
import { UserError } from "../errors.js";
import { preprocessConfig, type PreprocessConfig } from "../images/preprocess.js";
import { derivedVisionTensors, type VisionConfig } from "../models/vision/vision-encoder.js";

export interface SizedVision<Config extends VisionConfig> {
  /** With the `image_size` that is used. */
  readonly vision: Config;
  readonly preprocessing: PreprocessConfig;
  /** The folder's weights; positions fit `vision`. */
  readonly weights: TensorFile;
}

/**
 * Pictures get the size that is asked for, else that of preprocessor_config.json, else the model's own. Where the
 * position table is for another size it is interpolated.
 * Throws a `UserError` naming the file or option and the size that does not fit.
 */
export function sizedVision<Config extends VisionConfig>(
  folder: Pick<ModelFolder, "path" | "preprocessor" | "weights">,
  original: Config,
  imageSize?: number,
): SizedVision<Config> {
  const where = `${folder.path}/preprocessor_config.json`;
  const json = folder.preprocessor ?? { size: original.image_size };
  const preprocessing = preprocessConfig(
    imageSize === undefined ? json : { ...json, size: imageSize },
    where,
  );
  const { size } = preprocessing;
  if (size === undefined) {
    throw new UserError(`${where}: do_resize is false: true is required, to a square size`);
  }
  if (size.width !== size.height) {
    throw new UserError(`${where}: size is ${size.width} x ${size.height}: a square is required`);
  }
  if (size.width < original.patch_size) {
    throw new UserError(
      `${imageSize === undefined ? `${where}: size` : "imageSize"} is ${size.width}: at least one patch of ${original.patch_size} is required`,
    );
  }
  const vision = { ...original, image_size: size.width };
  const derived = derivedVisionTensors(vision, original, folder.weights.tensors);
  return { vision, preprocessing, weights: withDerivedTensors(folder.weights, derived) };
}
