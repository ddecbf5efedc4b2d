/** The options of the verbs that make text: declared once, and turned into the library's settings. */
import { fileURLToPath } from "node:url";
import { UserError } from "../errors.js";
import type { GenerateOptions } from "../index.js";
import { modelOptions, precisionOption } from "./model-option.js";
import type { Arguments, Options } from "./options.js";
import { packageRoot } from "./package-root.js";

/** The model that comes with the package. */
export const bundledModel = fileURLToPath(new URL("models/scenes-opt", packageRoot));

/** One bundled model of each family of language models. */
export const bundledFamilies = [bundledModel, fileURLToPath(new URL("models/scenes-t5", packageRoot))];

/** What compares pictures with texts where no model is named. */
export const bundledRetriever = fileURLToPath(new URL("models/scenes-retrieval", packageRoot));

/** What a verb for which nothing else is said takes from the model's generation_config.json. */
export const generationOptions = {
  beams: {
    type: "integer",
    min: 1,
    max: 1000,
    help: "width of the beam search, 1 for greedy; the model's own, or 5",
  },
  maxNewTokens: { type: "integer", min: 1, help: "longest text in tokens; the model's own, or 30" },
  minNewTokens: { type: "integer", min: 0, help: "tokens before a text may end; the model's own, or 0" },
  lengthPenalty: {
    type: "number",
    help: "of beam search: above 0 favours long texts, below 0 short ones; the model's own, or 1",
  },
  repetitionPenalty: {
    type: "number",
    min: 0.01,
    help:
      "above 1 makes words that came before less likely, without an encoder the prompt's too, as in transformers; the model's own, or 1; " +
      "LAVIS, which does not count the prompt, captions with --beams 5 --repetition-penalty 1.15 --min-new-tokens 7",
  },
  noRepeatNgram: {
    type: "integer",
    min: 0,
    value: "N",
    help: "no N tokens come twice in the same order; the model's own, or 0 for no such rule",
  },
  stop: { type: "string", repeated: true, help: "end the text before this" },
  sample: { type: "boolean", help: "draw words at random by their probability" },
  temperature: { type: "number", min: 0.01, help: "of sampling: below 1 likely words become likelier" },
  topK: { type: "integer", min: 0, help: "of sampling: draw from so many most likely words, 0 for all; 50" },
  topP: {
    type: "number",
    min: 0.0001,
    max: 1,
    help: "of sampling: draw from the most likely words that together have this probability; 1",
  },
  seed: { type: "integer", help: "of sampling: equal seeds give equal texts; 0" },
} as const satisfies Options;

/** Spread into the options of a verb that puts questions to a model. */
export const questionOptions = {
  promptFormat: {
    type: "string",
    help: 'how a question is put, with {} where it goes; the model\'s own, or "Question: {} Answer:", for T5 "Question: {} Short answer:"',
  },
  answerAfter: {
    type: "string",
    help: "where this occurs in what the model says, the answer is what stands behind it; the model's own, or none",
  },
} as const satisfies Options;

/** Spread into the options of a verb whose captions a second model may choose among. */
export const rankingOptions = {
  rankBy: {
    type: "string",
    value: "MODEL",
    help: "write several captions and keep those that this retrieval model finds nearest to the picture; none if not given",
  },
  candidates: {
    type: "integer",
    min: 2,
    max: 1000,
    help: "captions that --rank-by chooses from; 8",
  },
} as const satisfies Options;

/** All options of the verbs that answer questions about a picture. */
export const answerOptions = {
  ...modelOptions,
  ...precisionOption,
  ...questionOptions,
  ...generationOptions,
} as const satisfies Options;

/**
 * How many captions there are to choose from; undefined where none are ranked. Throws a `UserError` with exit code 2
 * where the options contradict each other.
 */
export function candidatesOf(
  verb: string,
  { rankBy, candidates, beams, sample }: Partial<Arguments<typeof rankingOptions, never>["options"]> & Given,
): number | undefined {
  const fail = (problem: string): never => {
    throw new UserError(`${verb}: ${problem}`, { exitCode: 2 });
  };
  if (rankBy === undefined)
    return candidates === undefined
      ? undefined
      : fail("--candidates is an option of ranking; give --rank-by too");
  const count = candidates ?? 8;
  if (sample !== true && beams !== undefined && beams < count)
    fail(`--candidates ${count} is more than --beams ${beams}; give more beams or fewer candidates`);
  return count;
}

type Given = Partial<
  Arguments<typeof generationOptions & Pick<typeof questionOptions, "answerAfter">, never>["options"]
>;
type Settings = Omit<GenerateOptions, "image" | "prompt" | "numReturnSequences" | "signal">;

/**
 * The settings that the options of `verb` ask for; what is not given stays the model's own.
 * Throws a `UserError` with exit code 2 where options contradict each other, before anything is loaded.
 */
export function generationSettings(verb: string, options: Given): Settings {
  const { beams, maxNewTokens, minNewTokens, noRepeatNgram, stop = [], sample = false } = options;
  const fail = (problem: string): never => {
    throw new UserError(`${verb}: ${problem}`, { exitCode: 2 });
  };
  if ((minNewTokens ?? 0) > (maxNewTokens ?? Infinity)) {
    fail(`--min-new-tokens ${minNewTokens} is more than --max-new-tokens ${maxNewTokens}`);
  }
  const { temperature, topK, topP, seed } = options;
  const sampling = { "--temperature": temperature, "--top-k": topK, "--top-p": topP, "--seed": seed };
  if (!sample) {
    const [idle] = Object.entries(sampling).filter(([, value]) => value !== undefined);
    if (idle !== undefined) fail(`${idle[0]} is an option of sampling; give --sample too`);
  }
  return {
    numBeams: beams,
    maxNewTokens,
    minNewTokens,
    lengthPenalty: options.lengthPenalty,
    repetitionPenalty: options.repetitionPenalty,
    noRepeatNgramSize: noRepeatNgram,
    stop: stop.length === 0 ? undefined : stop,
    answerAfter: options.answerAfter,
    sample: sample ? true : undefined,
    temperature,
    topK,
    topP,
    seed,
  };
}
