/** Retrieval and matching of a folder that stage 1 wrote. */
import { join } from "node:path";
import { z } from "zod";
import { readCaptionSet } from "../data/caption-set.js";
import { openDevice } from "../engine/node.js";
import { UserError } from "../errors.js";
import { qFormerConfigSchema } from "../models/q-former.js";
import { Parameters } from "../nn/parameters.js";
import { loadTokenizer } from "../text/tokenizer.js";
import { ImageFeatures, readFrozenVision } from "../training/image-features.js";
import { firstStageOf, stage1Measure } from "../recipes/stage-1.js";
import { putWeights } from "./load-weights.js";
import type { EvaluationOptions } from "./options.js";

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
}

/** The measures that training takes, on up to 1,000 pairs. Image features are cached beside the data. */
export async function evaluateStage1(options: Stage1Evaluation): Promise<Record<string, number>> {
  const { model, data, split, limit, threads } = options;
  const vision = await readFrozenVision(model);
  const { config: json, weights } = vision.folder;
  const parsed = configSchema.safeParse(json);
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!;
    throw new UserError(
      `${join(model, "config.json")}: ${path.join(".")}: ${message}; a folder that stage 1 wrote is required`,
    );
  }
  const classes = weights.tensors.get("itm_head.weight")?.dims[0];
  if (classes === undefined)
    throw new UserError(`${model}: has no itm_head.weight; a folder that stage 1 wrote is required`);
  const {
    qformer_config: qformer,
    num_query_tokens: queries,
    image_text_hidden_size: sharedSize,
  } = parsed.data;
  const shape = {
    queries,
    sharedSize,
    maxTextLength,
    matching: classes === 1 ? ("one-logit" as const) : ("two-class" as const),
  };
  const pictures = (await readCaptionSet(data, split)).slice(0, limit);
  const tokenizer = await loadTokenizer(model);
  const parameters = new Parameters(() => true);
  const stage = firstStageOf(shape, qformer, vision, parameters);

  await using device = openDevice({ threads });
  const names = [...weights.tensors.keys()].filter((name) => parameters.shapes.has(name));
  await putWeights(device, parameters, await weights.readAll(names), model);
  const features = await ImageFeatures.of(vision, data, pictures, device, options);
  try {
    const [, positions, width] = features.dims;
    const measure = await stage1Measure(device, stage, parameters, tokenizer, shape, [positions, width]);
    return { pairs: Math.min(pictures.length, 1000), ...(await measure({ pictures, features }, options)) };
  } finally {
    await features.close();
  }
}
