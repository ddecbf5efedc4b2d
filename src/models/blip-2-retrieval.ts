/**
 * The whole of BLIP-2 without a language model, for comparing pictures with texts, under the names of Hugging
 * Face's `Blip2ForImageTextRetrieval`: its config.json, and its two parts. Image encoders may be CLIP's too.
 */
import { checkJson } from "../json.js";
import { z } from "zod";
import { UserError } from "../errors.js";
import type { Parameters } from "../nn/parameters.js";
import { ImageTextModel } from "./blip-2-bridge.js";
import { qFormerConfigSchema } from "./q-former.js";
import {
  bridgeNormEpsilon,
  isUnusedVisionTensor,
  parseVisionConfig,
  visionConfigSchema,
  visionEncoder,
  type VisionEncoder,
} from "./vision/vision-encoder.js";

const schema = z.looseObject({
  model_type: z.literal("blip-2", '"blip-2" is required'),
  num_query_tokens: z.int().positive().default(32),
  /** Width of the space in which pictures and texts are compared. */
  image_text_hidden_size: z.int().positive().default(256),
  /** The id that stands for each query in transformers' `input_ids`; older files have none. */
  image_token_index: z.int().nonnegative().nullish(),
  vision_config: visionConfigSchema.prefault({}),
  qformer_config: qFormerConfigSchema.prefault({}),
});

/** A checked config.json. Files hold only what differs from the defaults; here everything is present. */
export type RetrievalConfig = z.infer<typeof schema>;

/**
 * Checks the content of a config.json. The language model's part is not read: this class has none.
 * Throws one `UserError` naming `where` and every key whose value is not supported.
 */
export function retrievalConfig(json: unknown, where = "config.json"): RetrievalConfig {
  const config = checkJson(json, schema, where);
  const vision = parseVisionConfig(config.vision_config, `${where}: vision_config`);
  const { qformer_config: qformer } = config;
  const problems: string[] = [];
  if ((config["quantization_config"] ?? null) !== null) {
    problems.push("quantization_config is given: weights that are not quantised are required");
  }
  if ((vision["num_channels"] ?? 3) !== 3) problems.push("vision_config.num_channels: 3 is required");
  if (!qformer.use_qformer_text_input) {
    problems.push(
      "qformer_config.use_qformer_text_input is false: true is required, a Q-Former that reads texts; " +
        "folders of Blip2ForImageTextRetrieval have one, such as blip2-itm-vit-g, captioning folders have none",
    );
  }
  if ((qformer["position_embedding_type"] ?? "absolute") !== "absolute") {
    problems.push('qformer_config.position_embedding_type: "absolute" is required');
  }
  if (qformer.hidden_size % qformer.num_attention_heads !== 0) {
    problems.push(
      `qformer_config.num_attention_heads is ${qformer.num_attention_heads}: a divisor of hidden_size ${qformer.hidden_size} is required`,
    );
  }
  if (problems.length > 0) throw new UserError(`${where}: ${problems.join("; ")}`);
  // The Q-Former looks at this image encoder whatever its own key says; transformers does the same.
  return { ...config, qformer_config: { ...qformer, encoder_hidden_size: vision.hidden_size } };
}

export interface RetrievalParts {
  readonly vision: VisionEncoder;
  readonly model: ImageTextModel;
}

/** Declares all weights of the checkpoint in `parameters`. */
export function buildRetrieval(
  config: RetrievalConfig,
  matchingClasses: 1 | 2,
  parameters: Parameters,
): RetrievalParts {
  return {
    vision: visionEncoder(config.vision_config, parameters),
    model: new ImageTextModel(
      {
        qformer: config.qformer_config,
        visionNormEpsilon: bridgeNormEpsilon(config.vision_config),
        queryCount: config.num_query_tokens,
        sharedSize: config.image_text_hidden_size,
        matchingClasses,
      },
      parameters.scope(),
    ),
  };
}

/**
 * Tensors that such folders hold and that comparing does not need: what only stage 1 trains, buffers, CLIP's last
 * block, and the projection to a language model that is not there.
 */
export function isUnusedRetrievalTensor(config: RetrievalConfig, name: string): boolean {
  return (
    name === "temp" ||
    name.startsWith("cls.predictions.") ||
    name.startsWith("language_projection.") ||
    name.endsWith(".position_ids") ||
    isUnusedVisionTensor(config.vision_config, name)
  );
}
