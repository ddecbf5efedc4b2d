/** Text retrieval of a vision model with the towers that were trained beside it. */
import { join } from "node:path";
import { z } from "zod";
import { readModelFolder } from "../checkpoints/model-folder.js";
import { firstOf } from "../data/dataset.js";
import { openData } from "../data/open-data.js";
import { PictureCache } from "../data/picture-cache.js";
import { openDevice } from "../engine/node.js";
import { checkJson } from "../json.js";
import { openFrozenVision } from "../loading/frozen-vision.js";
import { ContrastiveTowers } from "../models/contrastive-towers.js";
import { preprocessConfig } from "../images/preprocess.js";
import { blip2VisionConfigSchema } from "../models/vision/blip-2-vision.js";
import { optConfigSchema } from "../models/language/opt.js";
import { Parameters } from "../nn/parameters.js";
import { loadTokenizer } from "../text/tokenizer.js";
import type { EvaluationOptions } from "./options.js";
import { putWeights } from "./load-weights.js";
import { retrievalMeasure, retrievalPool } from "./towers-measure.js";

const towersSchema = z.looseObject({
  vision_config: blip2VisionConfigSchema,
  text_config: optConfigSchema,
  shared_size: z.int().positive(),
});

export interface VisionEvaluation extends EvaluationOptions {
  /** The folder `towers` that training wrote beside `model`. */
  readonly towers: string;
  readonly split: string;
}

/** Recall@1 both ways in pools of 256 pictures, or of all of them if they are fewer. */
export async function evaluateVision(options: VisionEvaluation): Promise<Record<string, number>> {
  const { model, towers, data, split, limit, threads } = options;
  const { folder: vision, file: encoder } = openFrozenVision(await readModelFolder(model));
  const rest = await readModelFolder(towers);
  const where = `${join(towers, "config.json")} is none of the towers of a vision training`;
  const {
    vision_config: config,
    text_config: text,
    shared_size: sharedSize,
  } = checkJson(rest.config, towersSchema, where);
  const preprocessing = preprocessConfig(vision.preprocessor ?? {}, join(model, "preprocessor_config.json"));
  const tokenizer = await loadTokenizer(towers);
  const pictures = firstOf(await openData(data, split).captions(), limit);

  // The model keeps the blocks that BLIP-2 uses; the last one and its norm are with the towers.
  const weights = await encoder.readAll();
  for (const [name, value] of await rest.weights.readAll()) weights.set(name, value);
  const parameters = new Parameters(() => true);
  const declared = new ContrastiveTowers(config, text, sharedSize, parameters);

  await using device = openDevice({ threads });
  const pool = Math.min(retrievalPool, pictures.length);
  const measure = await retrievalMeasure(device, declared, parameters, tokenizer, config, pool);
  await putWeights(device, parameters, weights, `${model} with ${towers}`);
  const measured = await measure(pictures, new PictureCache(config.image_size), preprocessing, options);
  return { images: Math.floor(pictures.length / pool) * pool, pool, ...measured };
}
