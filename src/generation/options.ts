/** What callers may ask of `generate`, checked by name and value. */
import { z } from "zod";
import { checkAgainst, show } from "../check-options.js";
import { UserError } from "../errors.js";
import { precisions } from "../loading/precision.js";
import type { GenerationDefaults } from "./generation-defaults.js";
import type { SearchSettings } from "./search/search.js";

export interface GenerateSettings {
  /** Default: generation_config.json's `max_new_tokens`, or 30. */
  readonly maxNewTokens?: number | undefined;
  /** So many tokens come before a text may end. Default: `min_new_tokens`, or 0. */
  readonly minNewTokens?: number | undefined;
  /** Longest prompt in tokens. Memory grows with its square. Default: the model's positions, or 2,048 where it has none. */
  readonly maxPromptTokens?: number | undefined;
  /**
   * Bytes that the call may take beside the weights, by an estimate from the lengths of prompts and texts and the number of
   * sequences. A batch that would take more is run in parts; one prompt that would is refused. Default: 8 GiB.
   */
  readonly maxMemory?: number | undefined;
  /** 1: greedy search. Default: `num_beams`, or 5. */
  readonly numBeams?: number | undefined;
  /** Above 0 beam search favours long texts, below 0 short ones. Default: `length_penalty`, or 1. */
  readonly lengthPenalty?: number | undefined;
  /** See `SearchSettings`. Default: `early_stopping`, or false. */
  readonly earlyStopping?: boolean | "never" | undefined;
  /**
   * Above 1 makes ids seen before less likely. Default: `repetition_penalty`, or 1. With a decoder-only model the prompt's ids count as
   * seen, as in transformers; in LAVIS they do not, as it passes embeddings. Its captions of published models are made with 5 beams,
   * `repetitionPenalty` 1.15 and a shortest length of 8, which is `minNewTokens` 7.
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

/** Characters of a word that is forbidden. */
const longestWord = 1000;

const settings = {
  maxNewTokens: z.int().min(1).max(mostNewTokens).optional(),
  maxPromptTokens: z.int().min(1).max(1_000_000).optional(),
  maxMemory: z.number().positive().optional(),
  minNewTokens: z.int().min(0).optional(),
  numBeams: z.int().min(1).max(1000).optional(),
  lengthPenalty: z.number().optional(),
  earlyStopping: z.union([z.boolean(), z.literal("never")]).optional(),
  repetitionPenalty: z.number().positive().optional(),
  noRepeatNgramSize: z.int().min(0).optional(),
  badWords: z.array(z.string().min(1).max(longestWord)).optional(),
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
    maxMemory: settings.maxMemory,
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

/** Positions of a language model, and how many of them pictures take. */
export interface Room {
  readonly positions: number;
  readonly queries: number;
}

const unbounded: Room = { positions: Infinity, queries: 0 };

/** How many tokens a text has at most where the caller does not say it: below 1 where `max_length` leaves none. */
export function usualNewTokens(
  { settings: { maxNewTokens }, maxLength }: GenerationDefaults,
  before: number,
  { positions, queries }: Room = unbounded,
): number {
  // What a file asks for gives way to what its model can do.
  if (maxLength !== undefined && maxLength <= positions) return Math.min(maxLength - before, mostNewTokens);
  if (maxLength !== undefined || maxNewTokens + queries >= positions) {
    return Math.min(Math.max(1, positions - before), mostNewTokens);
  }
  return Math.min(maxNewTokens, mostNewTokens);
}

/**
 * The settings of one call; words and stop strings are the caller's to add. Throws one `UserError` that names the
 * options that contradict each other or would have no effect.
 *
 * @param before positions that stand before the first new token and count in `max_length` and `min_length`.
 * @param room positions of the model, and how many of them pictures take.
 */
export function searchSettings(
  call: string,
  asked: GenerateSettings,
  defaults: GenerationDefaults,
  before = 0,
  room: Room = unbounded,
): SearchSettings {
  const { settings: usual, placed, endIds, minLength } = defaults;
  const sample = asked.sample ?? (asked.penaltyAlpha ? false : usual.sample);
  // What the caller wants outweighs the search that the model's file is for.
  const otherSearch = sample || (asked.numBeams ?? 1) > 1;
  const penaltyAlpha = asked.penaltyAlpha ?? (otherSearch ? 0 : usual.penaltyAlpha);
  const isContrastive = penaltyAlpha > 0;
  const fewBeams = isContrastive || asked.sample === true;
  const numBeams = asked.numBeams ?? (fewBeams ? 1 : (usual.numBeams ?? (sample ? 1 : 5)));
  const canReturn = sample && numBeams === 1 ? Infinity : numBeams;
  const maxNewTokens = asked.maxNewTokens ?? usualNewTokens(defaults, before, room);
  const usualLeast = minLength === undefined ? usual.minNewTokens : Math.max(0, minLength - before);
  // Defaults give way to what was asked for.
  const minNewTokens = asked.minNewTokens ?? Math.min(usualLeast, maxNewTokens);
  const numReturnSequences = asked.numReturnSequences ?? Math.min(usual.numReturnSequences, canReturn);
  const topK = asked.topK ?? usual.topK ?? (isContrastive ? 4 : 50);

  const problems: string[] = [];
  if (maxNewTokens < 1) {
    problems.push(
      `max_length of the model's generation_config.json is ${defaults.maxLength}, and ${before} positions stand before the text; ` +
        "give maxNewTokens, or a shorter prompt",
    );
  } else if (minNewTokens > maxNewTokens) {
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
    ...placed,
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
