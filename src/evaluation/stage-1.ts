/** Retrieval and matching of a folder that stage 1 wrote. */
import { join } from "node:path";
import { z } from "zod";
import { readModelFolder } from "../checkpoints/model-folder.js";
import { firstOf } from "../data/dataset.js";
import { openData } from "../data/open-data.js";
import { openDevice } from "../engine/node.js";
import { UserError } from "../errors.js";
import { checkJson } from "../json.js";
import { openFrozenVision } from "../loading/frozen-vision.js";
import { FirstStage } from "../models/blip-2-bridge.js";
import { qFormerConfigSchema } from "../models/q-former.js";
import { bridgeNormEpsilon } from "../models/vision/vision-encoder.js";
import { Parameters } from "../nn/parameters.js";
import { loadTokenizer } from "../text/tokenizer.js";
import { frozenEncoder } from "../training/frozen-encoder.js";
import { openFeatures } from "../training/image-features.js";
import { putWeights } from "./load-weights.js";
import type { EvaluationOptions } from "./options.js";
import { stage1Measure } from "./stage-1-measure.js";

const configSchema = z.looseObject({
  model_type: z.literal("blip-2"),
  qformer_config: qFormerConfigSchema,
  num_query_tokens: z.int().positive().default(32),
  image_text_hidden_size: z.int().positive().default(256),
});

/** Texts are cut at so many tokens, as the reference does wherever it compares texts with pictures. */
const maxTextLength = 32;

export interface Stage1Evaluation extends EvaluationOptions {
  readonly split: string;
  /** Where image features are kept. Default: `features` in the folder of the data. */
  readonly features?: string | undefined;
}

/** The measures that training takes, on up to 1,000 pairs. Image features are kept on disk, also for the next time. */
export async function evaluateStage1(options: Stage1Evaluation): Promise<Record<string, number>> {
  const { model, data, split, limit, threads } = options;
  const folder = await readModelFolder(model);
  const vision = openFrozenVision(folder);
  const { weights } = folder;
  const where = `${join(model, "config.json")} is none that stage 1 wrote`;
  const config = checkJson(folder.config, configSchema, where);
  const classes = weights.tensors.get("itm_head.weight")?.dims[0];
  if (classes === undefined)
    throw new UserError(`${model}: has no itm_head.weight; a folder that stage 1 wrote is required`);
  const pictures = firstOf(await openData(data, split).captions(), limit);
  const tokenizer = await loadTokenizer(model);
  const parameters = new Parameters(() => true);
  const stage = new FirstStage(
    {
      qformer: config.qformer_config,
      visionNormEpsilon: bridgeNormEpsilon(vision.config),
      queryCount: config.num_query_tokens,
      sharedSize: config.image_text_hidden_size,
      matchingClasses: classes === 1 ? 1 : 2,
    },
    parameters.scope(),
  );

  await using device = openDevice({ threads });
  const names = [...weights.tensors.keys()].filter((name) => parameters.shapes.has(name));
  await putWeights(device, parameters, await weights.readAll(names), model);
  const stores = { ...options, folder: options.features ?? join(data, "features"), brokenPictures: 0 };
  const features = await openFeatures(frozenEncoder(vision, device), pictures, stores);
  try {
    const setup = { device, model: stage, parameters, tokenizer, split, features, maxTextLength };
    const measure = await stage1Measure({ ...setup, pictures: features.pictures });
    return { pairs: Math.min(pictures.length, 1000), ...(await measure(options)) };
  } finally {
    await features.close();
  }
}
