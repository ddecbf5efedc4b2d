/** What callers may ask of `generate`, checked by name and value. */
import { z } from "zod";
import { UserError } from "../errors.js";
import type { SearchSettings } from "./search.js";

export interface GenerateSettings {
  /** Default: generation_config.json's `max_new_tokens`, or 30. */
  readonly maxNewTokens?: number | undefined;
  /** The end token counts as one. Default: `min_new_tokens`, or 1. */
  readonly minNewTokens?: number | undefined;
  /** 1: greedy search. Default: `num_beams`, or 5. */
  readonly numBeams?: number | undefined;
  /** Above 0 beam search favours long texts, below 0 short ones. Default: `length_penalty`, or 1. */
  readonly lengthPenalty?: number | undefined;
  /** See `SearchSettings`. Default: `early_stopping`, or false. */
  readonly earlyStopping?: boolean | "never" | undefined;
  /** Above 1 makes ids seen before less likely. Default: `repetition_penalty`, or 1. */
  readonly repetitionPenalty?: number | undefined;
  /** Ends the work with an `InterruptedError`, at the latest after the token under way. */
  readonly signal?: AbortSignal | undefined;
}

const settings = {
  maxNewTokens: z.int().min(1).optional(),
  minNewTokens: z.int().min(0).optional(),
  numBeams: z.int().min(1).max(1000).optional(),
  lengthPenalty: z.number().optional(),
  earlyStopping: z.union([z.boolean(), z.literal("never")]).optional(),
  repetitionPenalty: z.number().positive().optional(),
  signal: z.instanceof(AbortSignal).optional(),
};
const anything = z.custom<unknown>((value) => value !== undefined, "is required");
const { numBeams: _, ...greedySettings } = settings;

/** The options of each call, by its name. */
const schemas = {
  load: z.strictObject({
    precision: z.literal("fp32").optional(),
    threads: z.int().min(1).optional(),
    signal: settings.signal,
  }),
  generate: z.strictObject({ image: anything, prompt: z.string().optional(), ...settings }),
  generateBatch: z.strictObject({
    images: z.array(z.unknown()),
    prompt: z.string().optional(),
    prompts: z.array(z.string().optional()).optional(),
    ...settings,
  }),
  stream: z.strictObject({
    image: anything,
    prompt: z.string().optional(),
    numBeams: z.literal(1).optional(),
    ...greedySettings,
  }),
  forward: z.strictObject({
    pixelValues: anything,
    inputIds: anything,
    attentionMask: z.unknown().optional(),
    labels: z.unknown().optional(),
    signal: settings.signal,
  }),
};

/** Throws one `UserError` that names every unknown option and every value that does not fit. */
export function checkOptions(call: keyof typeof schemas, options: unknown): void {
  const schema = schemas[call];
  const parsed = schema.safeParse(options);
  if (parsed.success) return;
  const known = Object.keys(schema.shape);
  const problems = parsed.error.issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => `unknown option ${key}${suggestion(key, known)}`);
    }
    const key = issue.path.join(".");
    if (key === "") return [`an object with ${known.join(", ")} is required`];
    const value = (options as Record<string, unknown>)[String(issue.path[0])];
    if (value === undefined) return [`${key} is required`];
    if (call === "load" && key === "precision")
      return [`precision ${JSON.stringify(value)} is not available yet; "fp32" is`];
    if (call === "stream" && key === "numBeams")
      return ["numBeams must be 1: a text can be streamed only in greedy search"];
    return [`${key} is ${show(value)}: ${issue.message}`];
  });
  throw new UserError(`${call}: ${problems.join("; ")}`);
}

function show(value: unknown): string {
  const isPlain = value === null || ["string", "number", "boolean"].includes(typeof value);
  return isPlain ? (Number.isNaN(value) ? "NaN" : JSON.stringify(value)) : `of type ${typeof value}`;
}

/** Names as Python writes them, and slips of one or two letters, are recognised. */
function suggestion(word: string, known: readonly string[]): string {
  const plain = (name: string): string => name.replaceAll("_", "").toLowerCase();
  const [nearest] = known
    .map((name) => ({ name, distance: editDistance(plain(word), plain(name)) }))
    .filter(({ distance, name }) => distance <= Math.min(2, name.length / 3))
    .sort((a, b) => a.distance - b.distance);
  return nearest === undefined ? `; known are ${known.join(", ")}` : `; did you mean ${nearest.name}?`;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++) {
      next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (letter === b[j] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

const id = z.int().nonnegative();

/** The keys of a generation_config.json that are read. Sampling is not: texts are searched for. */
const defaultsSchema = z.looseObject({
  bos_token_id: id.nullish(),
  eos_token_id: z.union([id, z.array(id).min(1)]).nullish(),
  pad_token_id: id.nullish(),
  max_new_tokens: z.int().min(1).nullish(),
  min_new_tokens: z.int().min(0).nullish(),
  num_beams: z.int().min(1).nullish(),
  length_penalty: z.number().nullish(),
  early_stopping: z.union([z.boolean(), z.literal("never")]).nullish(),
  repetition_penalty: z.number().positive().nullish(),
});

type TextIds = Readonly<Record<"bos_token_id" | "eos_token_id" | "pad_token_id", number | null>>;

/** What a model does when it is not told otherwise. */
export interface GenerationDefaults {
  readonly settings: Omit<SearchSettings, "endIds" | "numReturnSequences">;
  readonly startId: number;
  readonly endIds: readonly number[];
  readonly padId: number;
}

/**
 * Defaults from the content of generation_config.json, then from the language model's config, then LAVIS's for
 * captions: 5 beams, at most 30 new tokens, at least 1. Throws a `UserError` naming `where` and the key that does not fit.
 */
export function generationDefaults(
  json: unknown,
  text: TextIds,
  where = "generation_config.json",
): GenerationDefaults {
  const parsed = defaultsSchema.safeParse(json ?? {});
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
    throw new UserError(`${where}: ${problems.join("; ")}`);
  }
  const config = parsed.data;
  const end = config.eos_token_id ?? text.eos_token_id;
  return {
    settings: {
      maxNewTokens: config.max_new_tokens ?? 30,
      minNewTokens: config.min_new_tokens ?? 1,
      numBeams: config.num_beams ?? 5,
      lengthPenalty: config.length_penalty ?? 1,
      earlyStopping: config.early_stopping ?? false,
      repetitionPenalty: config.repetition_penalty ?? 1,
    },
    startId: text.bos_token_id ?? config.bos_token_id ?? 2,
    endIds: end === null ? [] : [end].flat(),
    padId: config.pad_token_id ?? text.pad_token_id ?? 1,
  };
}

/** The settings of one call. Throws a `UserError` if the lengths contradict each other. */
export function searchSettings(
  call: string,
  asked: GenerateSettings,
  defaults: GenerationDefaults,
): SearchSettings {
  const given = Object.fromEntries(Object.entries(asked).filter(([, value]) => value !== undefined));
  const { settings: usual, endIds } = defaults;
  // A minimum that was not asked for gives way to a smaller maximum that was.
  const minNewTokens = Math.min(usual.minNewTokens, asked.maxNewTokens ?? Infinity);
  const { maxNewTokens, numBeams, lengthPenalty, earlyStopping, repetitionPenalty, ...rest } = {
    ...usual,
    minNewTokens,
    ...given,
  } as typeof usual;
  if (rest.minNewTokens > maxNewTokens) {
    throw new UserError(
      `${call}: minNewTokens is ${rest.minNewTokens}, more than maxNewTokens, which is ${maxNewTokens}`,
    );
  }
  return {
    maxNewTokens,
    minNewTokens: rest.minNewTokens,
    numBeams,
    numReturnSequences: 1,
    lengthPenalty,
    earlyStopping,
    repetitionPenalty,
    endIds,
  };
}
