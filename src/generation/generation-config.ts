/**
 * What a generation_config.json may hold. What changes a text is honoured or refused by name; nothing is passed
 * over in silence.
 */
import { z } from "zod";
import { UserError } from "../errors.js";

const id = z.int().nonnegative();

/** The keys that are read. */
const schema = z.looseObject({
  bos_token_id: id.nullish(),
  eos_token_id: z.union([id, z.array(id).min(1)]).nullish(),
  pad_token_id: id.nullish(),
  decoder_start_token_id: id.nullish(),
  max_new_tokens: z.int().min(1).nullish(),
  min_new_tokens: z.int().min(0).nullish(),
  num_beams: z.int().min(1).nullish(),
  num_return_sequences: z.int().min(1).nullish(),
  length_penalty: z.number().nullish(),
  early_stopping: z.union([z.boolean(), z.literal("never")]).nullish(),
  repetition_penalty: z.number().positive().nullish(),
  no_repeat_ngram_size: z.int().min(0).nullish(),
  bad_words_ids: z.array(z.array(id).min(1)).nullish(),
  do_sample: z.boolean().nullish(),
  temperature: z.number().positive().nullish(),
  top_k: z.int().min(0).nullish(),
  top_p: z.number().positive().max(1).nullish(),
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
  "max_matching_ngram_size",
  "assistant_lookbehind",
  "target_lookbehind",
  "transformers_version",
]);

/** Keys of methods that are not there, with the values besides null that leave a text as it is. */
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  max_length: [20],
  min_length: [0],
  encoder_no_repeat_ngram_size: [0],
  encoder_repetition_penalty: [1],
  typical_p: [1],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  diversity_penalty: [0],
  num_beam_groups: [1],
  guidance_scale: [1],
  remove_invalid_values: [false],
  renormalize_logits: [false],
  token_healing: [false],
};

const remedies: Readonly<Record<string, string>> = {
  max_length: "; it counts the prompt, write max_new_tokens instead",
  min_length: "; it counts the prompt, write min_new_tokens instead",
};

/**
 * Checks the content of a generation_config.json. Throws one `UserError` naming `where`, every value that does not
 * fit, and every key that asks for something that is not done.
 */
export function parseGenerationConfig(json: unknown, where: string): GenerationConfig {
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
    throw new UserError(`${where}: ${problems.join("; ")}`);
  }
  const problems = Object.entries(parsed.data).flatMap(([key, value]) => {
    const isRead = key in schema.shape || harmless.has(key) || key.startsWith("_");
    if (isRead || value === null || value === undefined || neutral[key]?.includes(value)) return [];
    return [`${key} is ${JSON.stringify(value)}: this is not supported${remedies[key] ?? ", leave it out"}`];
  });
  if (problems.length > 0) throw new UserError(`${where}: ${problems.join("; ")}`);
  return parsed.data;
}
