/**
 * A frozen image encoder as trainings use it: alone in its folder or inside a BLIP-2 model, mapped from its file. Nothing is
 * read but the header, until a graph is compiled.
 */
import { warnOnce } from "../notices.js";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { checkTensors, layersMustFit, type ModelFolder } from "../checkpoints/model-folder.js";
import type { TensorFile } from "../checkpoints/safetensors.js";
import { renamedTensors } from "../checkpoints/tensor-views.js";
import type { FrozenWeights } from "../engine/index.js";
import {
  isUnusedVisionTensor,
  parseVisionConfig,
  visionEncoder,
  type VisionConfig,
} from "../models/vision/vision-encoder.js";
import { Parameters } from "../nn/parameters.js";
import { openFrozenWeights, type LoadingHooks } from "./frozen-weights.js";

const prefix = "vision_model.";
const norm = "vision_model.post_layernorm.";

export interface FrozenVision {
  readonly folder: ModelFolder;
  readonly config: VisionConfig;
  /** All that the folder holds of the encoder, under `vision_model.`. */
  readonly file: TensorFile;
  /** The values of what `visionEncoder` declares. */
  weights(): Promise<FrozenWeights>;
  /** A digest of config and weights, which reads them all once. */
  hash(): Promise<string>;
}

/** Throws a `UserError` naming what does not fit: the config, missing and misshapen weights. */
export function openFrozenVision(folder: ModelFolder, hooks: LoadingHooks = {}): FrozenVision {
  const where = join(folder.path, "config.json");
  const config = parseVisionConfig(folder.config["vision_config"] ?? folder.config, where);
  const isInside = [...folder.weights.tensors.keys()].some((name) => name.startsWith(prefix));
  // `Blip2VisionModel` saved alone has no prefix.
  const file = renamedTensors(folder.weights, (name) =>
    isInside ? (name.startsWith(prefix) ? name : undefined) : prefix + name,
  );
  layersMustFit(config, folder.weights.tensors, where);
  const declared = new Parameters(() => false);
  visionEncoder(config, declared);
  checkTensors(declared.shapes, file.tensors, folder.path, {
    ignored: (name) => isUnusedVisionTensor(config, name),
    extra: hooks.onNotice ?? warnOnce,
  });
  const ignored = (name: string): boolean => !declared.shapes.has(name);
  let digest: Promise<string> | undefined;
  return {
    folder,
    config,
    file,
    async weights() {
      const open = await openFrozenWeights(file, { precision: "fp32", tiedHead: false, ignored, ...hooks });
      return open(declared.shapes.keys());
    },
    hash: () => (digest ??= hashOf(config, file)),
  };
}

async function hashOf(config: VisionConfig, file: TensorFile): Promise<string> {
  const hash = createHash("sha256").update(JSON.stringify(config));
  for (const name of [...file.tensors.keys()].sort()) {
    // Features are taken before the last norm, which the bridge trains: both stages share one cache.
    if (name.startsWith(norm)) continue;
    const { data } = await file.read(name);
    hash.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest("hex").slice(0, 16);
}
