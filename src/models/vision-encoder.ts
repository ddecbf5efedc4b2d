/** The frozen image encoder of BLIP-2, whichever architecture its folder's config names. */
import { z } from "zod";
import type { Tensor } from "../engine/index.js";
import { UserError } from "../errors.js";
import type { Parameters } from "../nn/parameters.js";
import { Blip2VisionModel, blip2VisionConfigSchema, type Blip2VisionConfig } from "./blip-2-vision.js";
import { ClipVisionModel, clipVisionConfigSchema, type ClipVisionConfig } from "./clip-vision.js";

export type VisionConfig = Blip2VisionConfig | ClipVisionConfig;

export interface VisionEncoder {
  readonly config: VisionConfig;
  /** 1 + patches. */
  readonly positions: number;
  /** pixelValues: [B, 3, S, S] -> features before the last norm, [B, P, D_img]. */
  features(pixelValues: Tensor): Tensor;
}

/** Checks the config of a vision model. `where` names it in errors. */
export function parseVisionConfig(json: unknown, where: string): VisionConfig {
  const { model_type: type } = z
    .looseObject({ model_type: z.string().default("blip_2_vision_model") })
    .parse(json);
  const schema =
    type === "clip_vision_model"
      ? clipVisionConfigSchema
      : type === "blip_2_vision_model"
        ? blip2VisionConfigSchema
        : undefined;
  if (schema === undefined)
    throw new UserError(
      `${where}: model_type "${type}" is no image encoder that is supported (blip_2_vision_model, clip_vision_model)`,
    );
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    throw new UserError(
      `${where}: ${parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`).join("; ")}`,
    );
  }
  const {
    image_size: image,
    patch_size: patch,
    hidden_size: width,
    num_attention_heads: heads,
  } = parsed.data;
  if (image % patch !== 0)
    throw new UserError(`${where}: image_size ${image} is not a multiple of patch_size ${patch}`);
  if (width % heads !== 0)
    throw new UserError(`${where}: hidden_size ${width} is not a multiple of num_attention_heads ${heads}`);
  return parsed.data;
}

/**
 * Declares the encoder under `vision_model`. A CLIP model gives the output of its last but one block, as in
 * the paper; a BLIP-2 vision model was cut there already.
 */
export function visionEncoder(config: VisionConfig, parameters: Parameters): VisionEncoder {
  const scope = parameters.scope("vision_model");
  const positions = 1 + (config.image_size / config.patch_size) ** 2;
  if (config.model_type === "clip_vision_model") {
    const model = new ClipVisionModel({ ...config, num_hidden_layers: config.num_hidden_layers - 1 }, scope);
    return { config, positions, features: (pixels) => model.forward(pixels).hiddenStates.at(-1)! };
  }
  const model = new Blip2VisionModel(config, scope);
  return { config, positions, features: (pixels) => model.features(pixels).at(-1)! };
}
