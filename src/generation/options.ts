/** What callers may ask of `generate`, checked by name and value. */
import { z } from "zod";
import { checkAgainst, show } from "../check-options.js";
import { UserError } from "../errors.js";
import { listed } from "../listed.js";
import { precisions } from "../loading/precision.js";
import { familyOf, type LanguageConfig } from "../models/language/families.js";
import { parseGenerationConfig, type GenerationConfig } from "./generation-config.js";
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

/** What a language model's config says of ids. */
type TextIds = Pick<LanguageConfig, "model_type" | "vocab_size"> & {
  readonly bos_token_id: number | null;
  readonly eos_token_id: number | readonly number[] | null;
  readonly pad_token_id: number | null;
  readonly decoder_start_token_id?: number | null | undefined;
};

/** What only a model's file asks for. */
type PlacedIds = Pick<SearchSettings, "notFirst" | "first" | "last">;

/** Of these, `numBeams` and `topK` depend on the search where the model's file does not say. */
type UsualSettings = Required<
  Omit<SearchSettings, "endIds" | "numBeams" | "sampling" | "contrastive" | "isStopped" | keyof PlacedIds>
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
  readonly placed: PlacedIds;
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
  const isEncoderDecoder = family.kind === "encoder-decoder";
  const { num_beams: numBeams, top_k: topK } = config;
  const { max_new_tokens: maxNew, max_length: maxLength } = config;
  const { min_new_tokens: minNew, min_length: minLength } = config;
  const { penalty_alpha: penaltyAlpha } = config;
  if (isEncoderDecoder && penaltyAlpha != null && penaltyAlpha > 0) {
    onNotice?.(
      `${where}: passed over, as models with an encoder do not do it: penalty_alpha ${penaltyAlpha}`,
    );
  }
  // As in transformers, which searches so only with one beam and several tokens to try.
  const isContrastive = !isEncoderDecoder && (numBeams ?? 1) === 1 && (topK ?? 4) > 1;
  const ids = idsReader(config, text, where);
  const endIds = ids.all("eos_token_id");
  const padId = ids.one("pad_token_id") ?? family.usualIds.pad;
  const suppressed = config.suppress_tokens ?? [];
  return {
    settings: {
      maxNewTokens: maxNew ?? 30,
      minNewTokens: minNew ?? 0,
      numBeams: numBeams ?? undefined,
      numReturnSequences: config.num_return_sequences ?? 1,
      lengthPenalty: config.length_penalty ?? 1,
      earlyStopping: config.early_stopping ?? false,
      repetitionPenalty: config.repetition_penalty ?? 1,
      noRepeatNgramSize: config.no_repeat_ngram_size ?? 0,
      forbidden: [
        ...withoutEnds(config.bad_words_ids ?? [], endIds),
        ...suppressed.filter((id) => id >= 0).map((id) => [id]),
      ],
      sample: config.do_sample ?? false,
      temperature: config.temperature ?? 1,
      topK: topK ?? undefined,
      topP: config.top_p ?? 1,
      penaltyAlpha: isContrastive ? (penaltyAlpha ?? 0) : 0,
    },
    placed: {
      notFirst: config.begin_suppress_tokens?.filter((id) => id >= 0),
      // Elsewhere something stands before the text, and transformers does nothing.
      ...(isEncoderDecoder && { first: ids.one("forced_bos_token_id") }),
      ...(ids.all("forced_eos_token_id").length > 0 && { last: ids.all("forced_eos_token_id") }),
    },
    stops: [config.stop_strings ?? []].flat(),
    questionFormat: config.question_format ?? family.questionFormat,
    answerAfter: config.answer_after ?? undefined,
    startId: ids.one("bos_token_id", true) ?? family.usualIds.start,
    endIds,
    padId,
    ...(isEncoderDecoder && { decoderStartId: ids.one("decoder_start_token_id") ?? padId }),
    // 20 is what transformers writes where nobody has chosen a length.
    ...(maxNew == null && maxLength != null && maxLength !== 20 && { maxLength }),
    ...(minNew == null && minLength != null && minLength > 0 && { minLength }),
  };
}

type IdKey =
  | "bos_token_id"
  | "eos_token_id"
  | "pad_token_id"
  | "decoder_start_token_id"
  | "forced_bos_token_id"
  | "forced_eos_token_id";

/**
 * Ids of a role: from generation_config.json, else from the language model's config. Negative ones stand for none. Throws
 * a `UserError` naming file and key of what is outside the vocabulary.
 */
function idsReader(config: GenerationConfig, text: TextIds, where: string) {
  const all = (key: IdKey, textFirst = false): number[] => {
    const own = (text as Readonly<Partial<Record<IdKey, number | readonly number[] | null>>>)[key];
    const places = [
      [where, key, config[key]],
      [where.replace(/generation_config\.json$/, "config.json"), `text_config.${key}`, own],
    ] as const;
    for (const [file, name, value] of textFirst ? places.toReversed() : places) {
      if (value === null || value === undefined) continue;
      const found = [value].flat().filter((id) => id >= 0);
      const outside = found.filter((id) => id >= text.vocab_size);
      if (outside.length > 0) {
        throw new UserError(
          `${file}: ${name} is ${listed([value].flat())}, the model's vocabulary has ${text.vocab_size} tokens; ` +
            `ids from 0 to ${text.vocab_size - 1} are required`,
        );
      }
      if (found.length > 0) return [...new Set(found)];
      // No end at all may be meant; of other roles something must stand there.
      if (key === "eos_token_id") return [];
    }
    return [];
  };
  return { all, one: (key: IdKey, textFirst?: boolean): number | undefined => all(key, textFirst)[0] };
}

/** The end of a text cannot be forbidden; transformers passes over it too. */
function withoutEnds(
  sequences: readonly (readonly number[])[],
  endIds: readonly number[],
): readonly (readonly number[])[] {
  return sequences.filter(([first, ...rest]) => rest.length > 0 || !endIds.includes(first!));
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
