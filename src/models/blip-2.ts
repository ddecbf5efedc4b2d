/**
 * The whole of BLIP-2 with a language model, under the names of Hugging Face's
 * `Blip2ForConditionalGeneration`: its config.json, and its three parts.
 */
import { checkJson } from "../json.js";
import { z } from "zod";
import { UserError } from "../errors.js";
import { quoted } from "../quoted.js";
import type { Parameters } from "../nn/parameters.js";
import { SecondStage } from "./blip-2-bridge.js";
import { familyNames, familyOf, languageConfigSchema, type ConfigRule } from "./language/families.js";
import type { LanguageModel } from "./language/language-model.js";
import { qFormerConfigSchema } from "./q-former.js";
import {
  bridgeNormEpsilon,
  isUnusedVisionTensor,
  visionConfigSchema,
  visionEncoder,
  type VisionEncoder,
} from "./vision/vision-encoder.js";

const schema = z.looseObject({
  model_type: z.literal("blip-2"),
  num_query_tokens: z.int().positive().default(32),
  /** The id that stands for each query in transformers' `input_ids`; older files have none. */
  image_token_index: z.int().nonnegative().nullish(),
  vision_config: visionConfigSchema.prefault({}),
  qformer_config: qFormerConfigSchema.prefault({}),
  text_config: languageConfigSchema.prefault({ model_type: "opt" }),
});

/** A checked config.json. Files hold only what differs from the defaults; here everything is present. */
export type Blip2Config = z.infer<typeof schema>;

/** What else a config may say that would change the numbers, and why it is refused. */
function refusals(config: Blip2Config): string[] {
  const { vision_config: vision, qformer_config: qformer, text_config: text } = config;
  const family = familyOf(text);
  const isDecoderOnly = family.kind === "decoder-only";
  const rules: readonly ConfigRule[] = [
    [
      "quantization_config",
      config["quantization_config"],
      (config["quantization_config"] ?? null) === null,
      "weights that are not quantised",
    ],
    [
      "use_decoder_only_language_model",
      config["use_decoder_only_language_model"],
      (config["use_decoder_only_language_model"] ?? isDecoderOnly) === isDecoderOnly,
      `${isDecoderOnly}, for ${text.model_type}`,
    ],
    ["vision_config.num_channels", vision["num_channels"], (vision["num_channels"] ?? 3) === 3, "3"],
    [
      "vision_config.image_size",
      vision.image_size,
      vision.image_size % vision.patch_size === 0,
      `a multiple of the patch size ${vision.patch_size}`,
    ],
    [
      "vision_config.num_attention_heads",
      vision.num_attention_heads,
      vision.hidden_size % vision.num_attention_heads === 0,
      `a divisor of hidden_size ${vision.hidden_size}`,
    ],
    [
      "qformer_config.position_embedding_type",
      qformer["position_embedding_type"],
      (qformer["position_embedding_type"] ?? "absolute") === "absolute",
      '"absolute"',
    ],
    [
      "qformer_config.use_qformer_text_input",
      qformer.use_qformer_text_input,
      !qformer.use_qformer_text_input,
      "false: with a language model the Q-Former reads no text",
    ],
    [
      "qformer_config.num_attention_heads",
      qformer.num_attention_heads,
      qformer.hidden_size % qformer.num_attention_heads === 0,
      `a divisor of hidden_size ${qformer.hidden_size}`,
    ],
    ...family.rules(text).map(([key, ...rest]): ConfigRule => [`text_config.${key}`, ...rest]),
  ];
  return rules.flatMap(([key, value, fits, required]) =>
    fits ? [] : [`${key} is ${quoted(value)}: ${required} is required`],
  );
}

const remedies: Readonly<Record<string, string>> = {
  model_type: '"blip-2" is required',
  "text_config.model_type": `${familyNames.map((name) => JSON.stringify(name)).join(" or ")} is required`,
};

/**
 * Checks the content of a config.json. Keys that do not matter to the numbers pass unread.
 * Throws one `UserError` naming `where` and every key whose value is not supported.
 */
export function blip2Config(json: unknown, where = "config.json"): Blip2Config {
  const parsed = checkJson(json, schema, where, (key) => remedies[key]);
  const { vision_config: vision, qformer_config: qformer } = parsed;
  // The Q-Former looks at this image encoder whatever its own key says; transformers does the same.
  const config = { ...parsed, qformer_config: { ...qformer, encoder_hidden_size: vision.hidden_size } };
  const problems = refusals(config);
  if (problems.length > 0) throw new UserError(`${where}: ${problems.join("; ")}`);
  return config;
}

export interface Blip2Parts {
  readonly vision: VisionEncoder;
  readonly bridge: SecondStage;
  readonly languageModel: LanguageModel;
}

/**
 * Says of tensors that published files hold which say nothing: buffers, CLIP's last block, tied copies of the
 * word table.
 */
export function unreadTensors({
  text_config: text,
  vision_config: vision,
}: Blip2Config): (name: string) => boolean {
  const prefix = "language_model.";
  const family = familyOf(text);
  return (name) =>
    name.endsWith(".position_ids") ||
    isUnusedVisionTensor(vision, name) ||
    (name.startsWith(prefix) && family.isUnread(name.slice(prefix.length)));
}

/**
 * Declares all weights of the checkpoint in `parameters`.
 * @param stored says which tensors the checkpoint has: see `LanguageFamily.build`.
 */
export function buildBlip2(
  config: Blip2Config,
  parameters: Parameters,
  stored?: { has(name: string): boolean },
): Blip2Parts {
  const root = parameters.scope();
  const { text_config: text } = config;
  const vision = visionEncoder(config.vision_config, parameters);
  const languageModel = familyOf(text).build(text, root.at("language_model"), stored);
  const bridge = new SecondStage(
    {
      qformer: config.qformer_config,
      visionNormEpsilon: bridgeNormEpsilon(config.vision_config),
      queryCount: config.num_query_tokens,
      languageSize: languageModel.embeddingSize,
    },
    root,
  );
  return { vision, bridge, languageModel };
}
