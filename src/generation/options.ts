/** What callers may ask of `generate`, checked by name and value. */
import { z } from "zod";
import { checkAgainst, show } from "../check-options.js";
import { UserError } from "../errors.js";
import { listed } from "../listed.js";
import { precisions } from "../loading/precision.js";
import { familyOf, type LanguageConfig } from "../models/language/families.js";
import { parseGenerationConfig } from "./generation-config.js";
import type { SearchSettings } from "./search/search.js";

export interface GenerateSettings {
  /** Default: generation_config.json's `max_new_tokens`, or 30. */
  readonly maxNewTokens?: number | undefined;
  /** So many tokens come before a text may end. Default: `min_new_tokens`, or 0. */
  readonly minNewTokens?: number | undefined;
  /**
   * Longest prompt in tokens, for models whose positions do not bound it. Memory grows with its square. Default: 2,048, or the
   * model's positions.
   */
  readonly maxPromptTokens?: number | undefined;
  /** 1: greedy search. Default: `num_beams`, or 5. */
  readonly numBeams?: number | undefined;
  /** Above 0 beam search favours long texts, below 0 short ones. Default: `length_penalty`, or 1. */
  readonly lengthPenalty?: number | undefined;
  /** See `SearchSettings`. Default: `early_stopping`, or false. */
  readonly earlyStopping?: boolean | "never" | undefined;
  /**
   * Above 1 makes ids seen before less likely. Default: `repetition_penalty`, or 1. With a decoder-only model the prompt's ids count as
   * seen, as in transformers; in LAVIS they do not, as it passes embeddings. Its captions of published models are made with 5 beams,
   * `repetitionPenalty` 1.15 and a shortest length of 8 that counts the end, which is `minNewTokens` 7.
   */
  readonly repetitionPenalty?: number | undefined;
  /** No sequence of so many tokens comes twice; 0 for no such rule. Default: `no_repeat_ngram_size`, or 0. */
  readonly noRepeatNgramSize?: number | undefined;
  /** Words that do not occur, at the start of a word and inside one. Default: `bad_words_ids`, or none. */
  readonly badWords?: readonly string[] | undefined;
  /** A text ends before the first of these; none is part of it. Default: `stop_strings`, or none. */
  readonly stop?: string | readonly string[] | undefined;
  /**
   * Where this occurs, the text is what stands behind it: for models that say the question again, or think aloud, before
   * they answer. Default: `answer_after`, or nothing.
   */
  readonly answerAfter?: string | undefined;
  /** How many texts: at most `numBeams` in beam search, 1 in greedy and contrastive search. Default: `num_return_sequences`, or 1. */
  readonly numReturnSequences?: number | undefined;
  /**
   * Draw tokens at random by their probability, with several beams the beams' continuations. `numBeams` is 1 then
   * unless it is given. Default: `do_sample`, or false.
   */
  readonly sample?: boolean | undefined;
  /** Of sampling: below 1 likely tokens become likelier. Default: `temperature`, or 1. */
  readonly temperature?: number | undefined;
  /**
   * Of sampling: draw from so many most likely tokens, 0 for all; default `top_k`, or 50. Of contrastive search: try so
   * many, at least 2; default `top_k`, or 4.
   */
  readonly topK?: number | undefined;
  /** Of sampling: draw from the most likely tokens that together have this probability. Default: `top_p`, or 1. */
  readonly topP?: number | undefined;
  /** Of sampling: equal seeds give equal texts. Default: 0. */
  readonly seed?: number | undefined;
  /** Contrastive search: the weight, from 0 to 1, of not resembling the text before. Default: `penalty_alpha`, or none. */
  readonly penaltyAlpha?: number | undefined;
  /** Ends the work with an `InterruptedError`, at the latest after the token under way. */
  readonly signal?: AbortSignal | undefined;
}

/** Nobody wants a longer text of these models, and a slip of the hand would take for ever. */
const mostNewTokens = 16_384;

const settings = {
  maxNewTokens: z.int().min(1).max(mostNewTokens).optional(),
  maxPromptTokens: z.int().min(1).max(1_000_000).optional(),
  minNewTokens: z.int().min(0).optional(),
  numBeams: z.int().min(1).max(1000).optional(),
  lengthPenalty: z.number().optional(),
  earlyStopping: z.union([z.boolean(), z.literal("never")]).optional(),
  repetitionPenalty: z.number().positive().optional(),
  noRepeatNgramSize: z.int().min(0).optional(),
  badWords: z.array(z.string().min(1)).optional(),
  stop: z.union([z.string().min(1), z.array(z.string().min(1))]).optional(),
  answerAfter: z.string().min(1).optional(),
  numReturnSequences: z.int().min(1).max(1000).optional(),
  sample: z.boolean().optional(),
  temperature: z.number().positive().optional(),
  topK: z.int().min(0).optional(),
  topP: z.number().positive().max(1).optional(),
  seed: z.int().optional(),
  penaltyAlpha: z.number().min(0).max(1).optional(),
  signal: z.instanceof(AbortSignal).optional(),
};
const anything = z.custom<unknown>((value) => value !== undefined, "is required");
const callback = z.custom<unknown>((value) => typeof value === "function", "must be a function");
const { numBeams: _, numReturnSequences: __, ...streamSettings } = settings;

/** The options of each call, by its name. */
const schemas = {
  load: z.strictObject({
    precision: z.enum(precisions).optional(),
    threads: z.int().min(1).optional(),
    imageSize: z.int().min(1).optional(),
    attentionOnly: z.boolean().optional(),
    signal: settings.signal,
    revision: z.string().optional(),
    onDownload: callback.optional(),
    onNotice: callback.optional(),
    onProgress: callback.optional(),
  }),
  generate: z.strictObject({ image: anything, prompt: z.string().optional(), ...settings }),
  generateBatch: z.strictObject({
    images: z.array(z.unknown()),
    prompt: z.string().optional(),
    prompts: z.array(z.string().optional()).optional(),
    ...settings,
  }),
  generateWithoutPicture: z.strictObject({
    prompts: z.array(z.string()),
    descriptions: z.array(z.string()).optional(),
    ...settings,
  }),
  stream: z.strictObject({
    image: anything,
    prompt: z.string().optional(),
    numBeams: z.literal(1).optional(),
    numReturnSequences: z.literal(1).optional(),
    ...streamSettings,
  }),
  look: z.strictObject({ signal: settings.signal }),
  attention: z.strictObject({ signal: settings.signal }),
  chat: z.strictObject({
    image: anything,
    format: z.string().optional(),
    context: z.int().min(1).optional(),
    signal: settings.signal,
  }),
  ask: z.strictObject(settings),
  forward: z.strictObject({
    pixelValues: anything,
    inputIds: anything,
    attentionMask: z.unknown().optional(),
    labels: z.unknown().optional(),
    decoderInputIds: z.unknown().optional(),
    decoderAttentionMask: z.unknown().optional(),
    maxPromptTokens: settings.maxPromptTokens,
    signal: settings.signal,
  }),
};

/** Throws one `UserError` that names every unknown option and every value that does not fit. */
export function checkOptions(call: keyof typeof schemas, options: unknown): void {
  checkAgainst(schemas[call], call, options, (key, value) => {
    if (call === "load" && key === "precision")
      return `precision is ${show(value)}: one of ${precisions.join(", ")} is required`;
    if (call === "stream" && key === "numBeams")
      return "numBeams must be 1: beam search knows no text before its end";
    if (call === "stream" && key === "numReturnSequences")
      return "numReturnSequences must be 1: a stream is one text";
    return undefined;
  });
}

/** What a language model's config says of ids. */
type TextIds = Pick<LanguageConfig, "model_type" | "vocab_size"> & {
  readonly bos_token_id: number | null;
  readonly eos_token_id: number | readonly number[] | null;
  readonly pad_token_id: number | null;
  readonly decoder_start_token_id?: number | null | undefined;
};

/** Of these, `numBeams` and `topK` depend on the search where the model's file does not say. */
type UsualSettings = Required<
  Omit<SearchSettings, "endIds" | "numBeams" | "sampling" | "contrastive" | "isStopped">
> & {
  readonly numBeams: number | undefined;
  readonly sample: boolean;
  readonly temperature: number;
  readonly topK: number | undefined;
  readonly topP: number;
  readonly penaltyAlpha: number;
};

/** What a model does when it is not told otherwise. */
export interface GenerationDefaults {
  readonly settings: UsualSettings;
  readonly stops: readonly string[];
  readonly questionFormat: string;
  readonly answerAfter: string | undefined;
  readonly startId: number;
  readonly endIds: readonly number[];
  readonly padId: number;
  /** Where the text of an encoder-decoder starts. */
  readonly decoderStartId?: number;
  /** Lengths that count what stands before the text, where the file has no `max_new_tokens` or `min_new_tokens`. */
  readonly maxLength?: number;
  readonly minLength?: number;
}

/**
 * Defaults from the content of generation_config.json, then from the language model's config, then LAVIS's for
 * captions: 5 beams, at most 30 new tokens. `onNotice` is told of keys that mean nothing here. Throws a `UserError` naming
 * `where` and the key that does not fit.
 */
export function generationDefaults(
  json: unknown,
  text: TextIds,
  where = "generation_config.json",
  onNotice?: (notice: string) => void,
): GenerationDefaults {
  const config = parseGenerationConfig(json ?? {}, where, onNotice);
  const family = familyOf(text);
  const endIds = [config.eos_token_id ?? text.eos_token_id ?? []].flat().filter((id) => id >= 0);
  const outside = endIds.filter((id) => id >= text.vocab_size);
  if (outside.length > 0) {
    throw new UserError(
      `${where}: the end of a text is token ${listed(outside)}, the model's vocabulary has ${text.vocab_size}; ` +
        "check that eos_token_id and the model belong together",
    );
  }
  const ownPad = [config.pad_token_id, text.pad_token_id].find(
    (id) => id !== undefined && id !== null && id >= 0,
  );
  const padId = ownPad ?? family.usualIds.pad;
  const { max_new_tokens: maxNew, max_length: maxLength } = config;
  const { min_new_tokens: minNew, min_length: minLength } = config;
  return {
    settings: {
      maxNewTokens: maxNew ?? 30,
      minNewTokens: minNew ?? 0,
      numBeams: config.num_beams ?? undefined,
      numReturnSequences: config.num_return_sequences ?? 1,
      lengthPenalty: config.length_penalty ?? 1,
      earlyStopping: config.early_stopping ?? false,
      repetitionPenalty: config.repetition_penalty ?? 1,
      noRepeatNgramSize: config.no_repeat_ngram_size ?? 0,
      forbidden: withoutEnds(config.bad_words_ids ?? [], endIds),
      sample: config.do_sample ?? false,
      temperature: config.temperature ?? 1,
      topK: config.top_k ?? undefined,
      topP: config.top_p ?? 1,
      penaltyAlpha: config.penalty_alpha ?? 0,
    },
    stops: [config.stop_strings ?? []].flat(),
    questionFormat: config.question_format ?? family.questionFormat,
    answerAfter: config.answer_after ?? undefined,
    startId: text.bos_token_id ?? config.bos_token_id ?? family.usualIds.start,
    endIds,
    padId,
    ...(family.kind === "encoder-decoder" && {
      decoderStartId: config.decoder_start_token_id ?? text.decoder_start_token_id ?? padId,
    }),
    // 20 is what transformers writes where nobody has chosen a length.
    ...(maxNew == null && maxLength != null && maxLength !== 20 && { maxLength }),
    ...(minNew == null && minLength != null && minLength > 0 && { minLength }),
  };
}

/** The end of a text cannot be forbidden; transformers passes over it too. */
function withoutEnds(
  sequences: readonly (readonly number[])[],
  endIds: readonly number[],
): readonly (readonly number[])[] {
  return sequences.filter(([first, ...rest]) => rest.length > 0 || !endIds.includes(first!));
}

/**
 * The settings of one call; words and stop strings are the caller's to add. Throws one `UserError` that names the
 * options that contradict each other or would have no effect.
 *
 * @param before what stands before the first new token and counts in `max_length` and `min_length`
 */
export function searchSettings(
  call: string,
  asked: GenerateSettings,
  { settings: usual, endIds, maxLength, minLength }: GenerationDefaults,
  before = 0,
): SearchSettings {
  const sample = asked.sample ?? (asked.penaltyAlpha ? false : usual.sample);
  // What the caller wants outweighs the search that the model's file is for.
  const otherSearch = sample || (asked.numBeams ?? 1) > 1;
  const penaltyAlpha = asked.penaltyAlpha ?? (otherSearch ? 0 : usual.penaltyAlpha);
  const isContrastive = penaltyAlpha > 0;
  const fewBeams = isContrastive || asked.sample === true;
  const numBeams = asked.numBeams ?? (fewBeams ? 1 : (usual.numBeams ?? (sample ? 1 : 5)));
  const canReturn = sample && numBeams === 1 ? Infinity : numBeams;
  const usualMost = maxLength === undefined ? usual.maxNewTokens : Math.max(1, maxLength - before);
  const maxNewTokens = asked.maxNewTokens ?? usualMost;
  const usualLeast = minLength === undefined ? usual.minNewTokens : Math.max(0, minLength - before);
  // Defaults give way to what was asked for.
  const minNewTokens = asked.minNewTokens ?? Math.min(usualLeast, maxNewTokens);
  const numReturnSequences = asked.numReturnSequences ?? Math.min(usual.numReturnSequences, canReturn);
  const topK = asked.topK ?? usual.topK ?? (isContrastive ? 4 : 50);

  const problems: string[] = [];
  if (minNewTokens > maxNewTokens) {
    problems.push(`minNewTokens is ${minNewTokens}, more than maxNewTokens, which is ${maxNewTokens}`);
  }
  for (const key of ["temperature", "topP", "seed", ...(isContrastive ? [] : ["topK"])] as const) {
    if (asked[key as keyof GenerateSettings] !== undefined && !sample) {
      problems.push(`${key} is an option of sampling; it needs sample: true`);
    }
  }
  if (isContrastive && sample) problems.push("penaltyAlpha is of contrastive search, which draws no tokens");
  if (isContrastive && numBeams > 1) {
    problems.push(`penaltyAlpha is of contrastive search, which has no beams; numBeams is ${numBeams}`);
  }
  if (isContrastive && topK < 2) problems.push(`contrastive search needs a topK of at least 2, got ${topK}`);
  if (numReturnSequences > canReturn) {
    problems.push(
      numBeams > 1
        ? `numReturnSequences is ${numReturnSequences}, more than numBeams, which is ${numBeams}`
        : `numReturnSequences is ${numReturnSequences}: ${isContrastive ? "contrastive" : "greedy"} search finds one text; ` +
            "give numBeams or sample: true",
    );
  }
  if (problems.length > 0) throw new UserError(`${call}: ${problems.join("; ")}`);

  return {
    maxNewTokens,
    minNewTokens,
    numBeams,
    numReturnSequences,
    lengthPenalty: asked.lengthPenalty ?? usual.lengthPenalty,
    earlyStopping: asked.earlyStopping ?? usual.earlyStopping,
    repetitionPenalty: asked.repetitionPenalty ?? usual.repetitionPenalty,
    noRepeatNgramSize: asked.noRepeatNgramSize ?? usual.noRepeatNgramSize,
    forbidden: usual.forbidden,
    endIds,
    ...(sample && {
      sampling: {
        temperature: asked.temperature ?? usual.temperature,
        topK,
        topP: asked.topP ?? usual.topP,
        seed: asked.seed ?? 0,
      },
    }),
    ...(isContrastive && { contrastive: { penaltyAlpha, topK } }),
  };
}
