/**
 * The whole of BLIP-2 with a decoder-only language model, under the names of Hugging Face's
 * `Blip2ForConditionalGeneration`: its config.json, and its three parts.
 */
import { z } from "zod";
import { UserError } from "../errors.js";
import type { Parameters } from "../nn/parameters.js";
import { SecondStage } from "./blip-2-bridge.js";
import { Opt, optConfigSchema } from "./opt.js";
import { qFormerConfigSchema } from "./q-former.js";
import {
  bridgeNormEpsilon,
  visionConfigSchema,
  visionEncoder,
  type VisionEncoder,
} from "./vision-encoder.js";

const schema = z.looseObject({
  model_type: z.literal("blip-2"),
  num_query_tokens: z.int().positive().default(32),
  /** The id that stands for each query in transformers' `input_ids`; older files have none. */
  image_token_index: z.int().nonnegative().nullish(),
  vision_config: visionConfigSchema.prefault({}),
  qformer_config: qFormerConfigSchema.prefault({}),
  text_config: optConfigSchema.prefault({}),
});

/** A checked config.json. Files hold only what differs from the defaults; here everything is present. */
export type Blip2Config = z.infer<typeof schema>;

/** What else a config may say that would change the numbers, and why it is refused. */
function refusals(config: Blip2Config): string[] {
  const { vision_config: vision, qformer_config: qformer, text_config: text } = config;
  const rules: readonly (readonly [key: string, value: unknown, fits: boolean, required: string])[] = [
    [
      "quantization_config",
      config["quantization_config"],
      (config["quantization_config"] ?? null) === null,
      "weights that are not quantised",
    ],
    [
      "use_decoder_only_language_model",
      config["use_decoder_only_language_model"],
      config["use_decoder_only_language_model"] !== false,
      "true",
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
    [
      "text_config.num_attention_heads",
      text.num_attention_heads,
      text.hidden_size % text.num_attention_heads === 0,
      `a divisor of hidden_size ${text.hidden_size}`,
    ],
    [
      "text_config.word_embed_proj_dim",
      text.word_embed_proj_dim,
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
  return rules.flatMap(([key, value, fits, required]) =>
    fits ? [] : [`${key} is ${JSON.stringify(value)}: ${required} is required`],
  );
}

const remedies: Readonly<Record<string, string>> = {
  model_type: '"blip-2" is required',
  "text_config.model_type": 'only "opt" is supported so far',
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
  readonly languageModel: Opt;
}

/** Declares all weights of the checkpoint in `parameters`. */
export function buildBlip2(config: Blip2Config, parameters: Parameters): Blip2Parts {
  const root = parameters.scope();
  return {
    vision: visionEncoder(config.vision_config, parameters),
    bridge: new SecondStage(
      {
        qformer: config.qformer_config,
        visionNormEpsilon: bridgeNormEpsilon(config.vision_config),
        queryCount: config.num_query_tokens,
        languageSize: config.text_config.hidden_size,
      },
      root,
    ),
    languageModel: new Opt(config.text_config, root.at("language_model")),
  };
}
