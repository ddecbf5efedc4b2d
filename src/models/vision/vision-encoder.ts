/** The frozen image encoder of BLIP-2, whichever architecture its folder's config names. */
import { checkJson } from "../../json.js";
import { quoted } from "../../quoted.js";
import { z } from "zod";
import { toFloat32 } from "../../float16.js";
import type { DerivedTensor } from "../../checkpoints/derived-tensors.js";
import type { Tensor } from "../../engine/index.js";
import { UserError } from "../../errors.js";
import type { HostTensor } from "../../host-tensor.js";
import { LayerNorm } from "../../nn/layers.js";
import type { Parameters } from "../../nn/parameters.js";
import { Blip2VisionModel, blip2VisionConfigSchema, type Blip2VisionConfig } from "./blip-2-vision.js";
import { ClipVisionModel, clipVisionConfigSchema, type ClipVisionConfig } from "./clip-vision.js";
import { gridSide } from "./patches.js";
import { resizePositions } from "./position-table.js";

export type VisionConfig = Blip2VisionConfig | ClipVisionConfig;

/** `vision_config` of a BLIP-2 folder: EVA-CLIP as published unless `model_type` says CLIP. */
export const visionConfigSchema = z.preprocess(
  (json) =>
    typeof json === "object" && json !== null && !("model_type" in json)
      ? { model_type: "blip_2_vision_model", ...json }
      : json,
  z.discriminatedUnion("model_type", [blip2VisionConfigSchema, clipVisionConfigSchema]),
);

export interface VisionEncoder {
  readonly config: VisionConfig;
  /** 1 + patches. */
  readonly positions: number;
  /** pixelValues: [B, 3, S, S] -> features before the last norm, [B, P, D_img]. */
  features(pixelValues: Tensor): Tensor;
  /** The norm that belongs to the bridge. [B, P, D_img] -> [B, P, D_img]. */
  normalise(features: Tensor): Tensor;
}

/** Checks the config of a vision model. `where` names it in errors. */
export function parseVisionConfig(json: unknown, where: string): VisionConfig {
  const named = z.looseObject({ model_type: z.string().default("blip_2_vision_model") });
  const { model_type: type } = checkJson(json, named, where);
  const schema =
    type === "clip_vision_model"
      ? clipVisionConfigSchema
      : type === "blip_2_vision_model"
        ? blip2VisionConfigSchema
        : undefined;
  if (schema === undefined)
    throw new UserError(
      `${where}: model_type ${quoted(type)} is no image encoder that is supported (blip_2_vision_model, clip_vision_model)`,
    );
  const config: VisionConfig = checkJson(json, schema, where);
  const { image_size: image, patch_size: patch, hidden_size: width, num_attention_heads: heads } = config;
  if (image % patch !== 0)
    throw new UserError(`${where}: image_size ${image} is not a multiple of patch_size ${patch}`);
  if (width % heads !== 0)
    throw new UserError(`${where}: hidden_size ${width} is not a multiple of num_attention_heads ${heads}`);
  return config;
}

/** Epsilon of the norm between encoder and Q-Former: the encoder's own unless the folder names another. */
export function bridgeNormEpsilon(config: VisionConfig): number {
  return config.post_layernorm_eps ?? config.layer_norm_eps;
}

/**
 * Declares the encoder under `vision_model`. A CLIP model gives the output of its last but one block, as in
 * the paper; a BLIP-2 vision model was cut there already.
 */
export function visionEncoder(config: VisionConfig, parameters: Parameters): VisionEncoder {
  const scope = parameters.scope("vision_model");
  const positions = 1 + gridSide(config) ** 2;
  const norm = new LayerNorm(scope.at("post_layernorm"), config.hidden_size, bridgeNormEpsilon(config));
  const shared = { config, positions, normalise: (features: Tensor) => norm.forward(features) };
  if (config.model_type === "clip_vision_model") {
    const model = new ClipVisionModel({ ...config, num_hidden_layers: config.num_hidden_layers - 1 }, scope);
    return { ...shared, features: (pixels) => model.forward(pixels).hiddenStates.at(-1)! };
  }
  const model = new Blip2VisionModel(config, scope);
  return { ...shared, features: (pixels) => model.features(pixels).at(-1)! };
}

/** Whether a tensor of the checkpoint belongs to the encoder but says nothing: CLIP's last block, and buffers. */
export function isUnusedVisionTensor(config: VisionConfig, name: string): boolean {
  if (!name.startsWith("vision_model.")) return false;
  const last = `vision_model.encoder.layers.${config.num_hidden_layers - 1}.`;
  return (
    name.endsWith(".position_ids") || (config.model_type === "clip_vision_model" && name.startsWith(last))
  );
}

/**
 * What `config` needs but the file holds in another form, by name: the position table, for another picture size than the
 * `original` config's.
 */
export function derivedVisionTensors(
  config: VisionConfig,
  original: VisionConfig,
  names: { has(name: string): boolean },
): Map<string, DerivedTensor> {
  const derived = new Map<string, DerivedTensor>();
  const [from, to] = [gridSide(original), gridSide(config)];
  const isClip = config.model_type === "clip_vision_model";
  const table = `vision_model.embeddings.position_embedding${isClip ? ".weight" : ""}`;
  const { hidden_size: width } = config;
  if (from !== to && names.has(table)) {
    derived.set(table, {
      dims: isClip ? [1 + to ** 2, width] : [1, 1 + to ** 2, width],
      from: [table],
      derive: ([stored]) => resizePositions(checkedTable(stored!, from, width), from, to, isClip),
    });
  }
  return derived;
}

function checkedTable(stored: HostTensor, from: number, width: number): HostTensor {
  const [rows, columns] = stored.dims.slice(-2);
  if (rows !== 1 + from ** 2 || columns !== width) {
    throw new UserError(
      `position_embedding: [${stored.dims.join(", ")}] found, ${1 + from ** 2} rows of ${width} are required by config.json; check that config and weights belong together`,
    );
  }
  return toFloat32(stored);
}
