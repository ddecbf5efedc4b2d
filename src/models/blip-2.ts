/**
 * The whole of BLIP-2 with a language model, under the names of Hugging Face's
 * `Blip2ForConditionalGeneration`: its config.json, and its three parts.
 */
import { z } from "zod";
import { UserError } from "../errors.js";
import type { Parameters } from "../nn/parameters.js";
import { SecondStage } from "./blip-2-bridge.js";
import { Opt, optConfigSchema, type OptConfig } from "./language/opt.js";
import { qFormerConfigSchema } from "./q-former.js";
import { isUnreadT5Tensor, T5, t5ConfigSchema } from "./language/t5.js";
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
  text_config: z.discriminatedUnion("model_type", [optConfigSchema, t5ConfigSchema]).prefault({
    model_type: "opt",
  }),
});

/** A checked config.json. Files hold only what differs from the defaults; here everything is present. */
export type Blip2Config = z.infer<typeof schema>;

type Rule = readonly [key: string, value: unknown, fits: boolean, required: string];

function optRules(text: OptConfig): readonly Rule[] {
  return [
    [
      "text_config.num_attention_heads",
      text.num_attention_heads,
      text.hidden_size % text.num_attention_heads === 0,
      `a divisor of hidden_size ${text.hidden_size}`,
    ],
    [
      "text_config.word_embed_proj_dim",
      text.word_embed_proj_dim,
      // Words are narrower than the language projection; transformers would cut its rows in the wrong places.
      (text.word_embed_proj_dim ?? text.hidden_size) === text.hidden_size,
      `hidden_size ${text.hidden_size}, the width of the soft prompt`,
    ],
    [
      "text_config.tie_word_embeddings",
      text["tie_word_embeddings"],
      text["tie_word_embeddings"] !== false,
      "true: the head is the word table",
    ],
  ];
}

/** What else a config may say that would change the numbers, and why it is refused. */
function refusals(config: Blip2Config): string[] {
  const { vision_config: vision, qformer_config: qformer, text_config: text } = config;
  const isDecoderOnly = text.model_type === "opt";
  const rules: readonly Rule[] = [
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
    ...(isDecoderOnly ? optRules(text) : []),
  ];
  return rules.flatMap(([key, value, fits, required]) =>
    fits ? [] : [`${key} is ${JSON.stringify(value)}: ${required} is required`],
  );
}

const remedies: Readonly<Record<string, string>> = {
  model_type: '"blip-2" is required',
  "text_config.model_type": '"opt" or "t5" is required',
};

/**
 * Checks the content of a config.json. Keys that do not matter to the numbers pass unread.
 * Throws one `UserError` naming `where` and every key whose value is not supported.
 */
export function blip2Config(json: unknown, where = "config.json"): Blip2Config {
  const parsed = schema.safeParse(json);
  if (parsed.success) {
    const { vision_config: vision, qformer_config: qformer } = parsed.data;
    // The Q-Former looks at this image encoder whatever its own key says; transformers does the same.
    const config = {
      ...parsed.data,
      qformer_config: { ...qformer, encoder_hidden_size: vision.hidden_size },
    };
    const problems = refusals(config);
    if (problems.length === 0) return config;
    throw new UserError(`${where}: ${problems.join("; ")}`);
  }
  const problems = parsed.error.issues.map(({ path, message }) => {
    const key = path.join(".");
    const value = path.reduce<unknown>(
      (at, step) => (at as Record<PropertyKey, unknown> | undefined)?.[step],
      json,
    );
    const why = remedies[key] ?? message;
    return key === "" ? why : `${key} is ${value === undefined ? "missing" : JSON.stringify(value)}: ${why}`;
  });
  throw new UserError(`${where}: ${problems.join("; ")}`);
}

export interface Blip2Parts {
  readonly vision: VisionEncoder;
  readonly bridge: SecondStage;
  readonly languageModel: Opt | T5;
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
  const isCopy = text.model_type === "opt" ? (name: string) => name === "lm_head.weight" : isUnreadT5Tensor;
  return (name) =>
    name.endsWith(".position_ids") ||
    isUnusedVisionTensor(vision, name) ||
    (name.startsWith(prefix) && isCopy(name.slice(prefix.length)));
}

/**
 * Declares all weights of the checkpoint in `parameters`.
 * @param stored says which tensors the checkpoint has: see `T5`.
 */
export function buildBlip2(
  config: Blip2Config,
  parameters: Parameters,
  stored?: { has(name: string): boolean },
): Blip2Parts {
  const root = parameters.scope();
  const { text_config: text } = config;
  const language = root.at("language_model");
  return {
    vision: visionEncoder(config.vision_config, parameters),
    bridge: new SecondStage(
      {
        qformer: config.qformer_config,
        visionNormEpsilon: bridgeNormEpsilon(config.vision_config),
        queryCount: config.num_query_tokens,
        languageSize: text.model_type === "opt" ? text.hidden_size : text.d_model,
      },
      root,
    ),
    languageModel: text.model_type === "opt" ? new Opt(text, language) : new T5(text, language, stored),
  };
}
