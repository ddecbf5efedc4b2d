/**
 * What a generation_config.json may hold. Published files hold much that transformers passes over or that a search here does not have:
 * what has a meaning here is taken, the rest is named in a notice, and only values that no search could follow are refused.
 */
import { z } from "zod";
import { UserError } from "../errors.js";
import { checkJson } from "../json.js";
import { listedNames } from "../listed.js";
import { quoted } from "../quoted.js";

const id = z.int().nonnegative();
/** Negative ids stand for none in some files. */
const idOrNone = z.int();

/** The keys that are read. */
const schema = z.looseObject({
  bos_token_id: idOrNone.nullish(),
  eos_token_id: z.union([idOrNone, z.array(idOrNone)]).nullish(),
  pad_token_id: idOrNone.nullish(),
  decoder_start_token_id: idOrNone.nullish(),
  max_new_tokens: z.int().min(1).nullish(),
  min_new_tokens: z.int().min(0).nullish(),
  /** Count what stands before the text too; `max_new_tokens` and `min_new_tokens` go before them. */
  max_length: z.int().min(1).nullish(),
  min_length: z.int().min(0).nullish(),
  num_beams: z.int().min(1).max(1000).nullish(),
  num_return_sequences: z.int().min(1).max(1000).nullish(),
  length_penalty: z.number().nullish(),
  early_stopping: z.union([z.boolean(), z.literal("never")]).nullish(),
  repetition_penalty: z.number().positive().nullish(),
  no_repeat_ngram_size: z.int().min(0).nullish(),
  bad_words_ids: z.array(z.array(id).min(1)).nullish(),
  /** Do not occur at all; do not begin a text. */
  suppress_tokens: z.array(idOrNone).nullish(),
  begin_suppress_tokens: z.array(idOrNone).nullish(),
  /** What an encoder-decoder's text begins with, and what a text of the greatest length ends with. */
  forced_bos_token_id: idOrNone.nullish(),
  forced_eos_token_id: z.union([idOrNone, z.array(idOrNone)]).nullish(),
  do_sample: z.boolean().nullish(),
  /** These three are held against what sampling can do where it is asked for. */
  temperature: z.number().nullish(),
  top_k: z.int().min(0).nullish(),
  top_p: z.number().nullish(),
  penalty_alpha: z.number().min(0).max(1).nullish(),
  stop_strings: z.union([z.string().min(1), z.array(z.string().min(1))]).nullish(),
  /** Of this package, `questionFormat` and `answerAfter` in its options; others pass over them. */
  question_format: z.string().nullish(),
  answer_after: z.string().min(1).nullish(),
});

export type GenerationConfig = z.infer<typeof schema>;

/** Keys that do not change which text comes out: where ids come from, how it is computed, what else is returned. */
const harmless: ReadonlySet<string> = new Set([
  "use_cache",
  "cache_implementation",
  "cache_config",
  "max_cache_len",
  "prefill_chunk_size",
  "compile_config",
  "disable_compile",
  "continuous_batching_config",
  "low_memory",
  "output_attentions",
  "output_hidden_states",
  "output_scores",
  "output_logits",
  "return_dict_in_generate",
  "return_legacy_cache",
  "is_assistant",
  "num_assistant_tokens",
  "num_assistant_tokens_schedule",
  "assistant_confidence_threshold",
  "assistant_early_exit",
  "assistant_ensemble_weight",
  "speculation_type",
  "use_mtp",
  "prompt_lookup_num_tokens",
  "max_matching_ngram_size",
  "assistant_lookbehind",
  "target_lookbehind",
  "transformers_version",
]);

/** Values of keys that are not read, besides null, which leave a text as it is. */
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  encoder_no_repeat_ngram_size: [0],
  encoder_repetition_penalty: [1],
  typical_p: [1],
  min_p: [0],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  top_h: [0],
  diversity_penalty: [0],
  num_beam_groups: [1],
  guidance_scale: [1],
  remove_invalid_values: [false],
  renormalize_logits: [false],
  token_healing: [false],
  dola_layers: ["none"],
};

/**
 * Reads the content of a generation_config.json. Throws one `UserError` naming `where` and every value of the wrong kind. What is not
 * done here is named to `onNotice`, once.
 */
export function parseGenerationConfig(
  json: unknown,
  where: string,
  onNotice?: (notice: string) => void,
): GenerationConfig {
  const config = checkJson(json, schema, where);
  const temperature = config.temperature ?? 1;
  const topP = config.top_p ?? 1;
  const isPossible = { temperature: temperature > 0, topP: topP > 0 && topP <= 1 };
  if (config.do_sample === true) {
    const problems = [
      ...(isPossible.temperature ? [] : [`temperature is ${temperature}: above 0 is required`]),
      ...(isPossible.topP ? [] : [`top_p is ${topP}: above 0 and at most 1 is required`]),
    ];
    if (problems.length > 0) throw new UserError(`${where}: do_sample is true and ${problems.join("; ")}`);
  }
  const passed = Object.entries(config).flatMap(([key, value]) => {
    const isKnown = Object.hasOwn(schema.shape, key) || harmless.has(key) || key.startsWith("_");
    const isNothing = value === null || value === undefined || (Array.isArray(value) && value.length === 0);
    const isNeutral = Object.hasOwn(neutral, key) && neutral[key]!.includes(value);
    if (isKnown || isNothing || isNeutral) return [];
    return [`${key} ${typeof value === "number" ? value : quoted(value)}`];
  });
  if (passed.length > 0) onNotice?.(`${where}: passed over, as nothing here does it: ${listedNames(passed)}`);
  return {
    ...config,
    // Without draws they mean nothing, whatever they are.
    temperature: isPossible.temperature ? temperature : undefined,
    top_p: isPossible.topP ? topP : undefined,
  };
}
