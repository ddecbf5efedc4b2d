/** The measures of an arm, by the library's own evaluations. */
import { evaluateCaptions } from "../../src/evaluation/caption.js";
import { evaluateRetrieval } from "../../src/evaluation/retrieval.js";
import { Blip2 } from "../../src/generation/blip-2.js";
import type { LogLine } from "../../src/training/run-log.js";
import type { TrainingHooks } from "../../src/training/trainer.js";
import type { Given, Measured } from "./experiment.js";
import { askQuestions } from "./vqa.js";

export interface MeasureOptions extends Pick<TrainingHooks, "signal" | "onProgress"> {
  /** The folder of `measured.data`, absolute. */
  readonly data: string;
  readonly measured: Measured;
  readonly threads: number | undefined;
}

const split = "test";

/** A finished stage 1: recalls by ITC, and by ITM of the best. */
export async function measureStage1(
  model: string,
  { data, measured, ...options }: MeasureOptions,
): Promise<Record<string, number>> {
  const {
    images: _images,
    texts: _texts,
    ...recalls
  } = await evaluateRetrieval({
    model,
    data,
    split,
    limit: measured.pairs,
    captions: 1,
    rerank: measured.rerank,
    ...options,
  });
  return recalls;
}

/** A model of stage 2: its captions, and its answers to questions that it was not trained on. */
export async function measureStage2(
  model: string,
  { data, measured, threads, signal, onProgress }: MeasureOptions,
): Promise<Record<string, number>> {
  await using blip2 = await Blip2.load(model, { threads, signal });
  const { quality } = await evaluateCaptions(blip2, {
    data,
    split,
    limit: measured.captions,
    beams: 1,
    signal,
    onProgress,
  });
  const { images: _images, ...captions } = quality;
  const answers = await askQuestions(blip2, {
    data,
    split,
    limit: measured.questions,
    given: "picture",
    signal,
    onProgress,
  });
  return {
    ...Object.fromEntries(Object.entries(captions).map(([name, value]) => [`captions ${name}`, value])),
    ...Object.fromEntries(Object.entries(answers).map(([name, value]) => [`vqa ${name}`, value])),
  };
}

/** A model's answers to more questions, with or without the picture. */
export async function measureVqa(
  model: string,
  given: Given,
  { data, measured, threads, signal, onProgress }: MeasureOptions,
): Promise<Record<string, number>> {
  await using blip2 = await Blip2.load(model, { threads, signal });
  // Awaited here: the model is closed on leaving.
  return await askQuestions(blip2, {
    data,
    split,
    limit: measured.allQuestions,
    given,
    signal,
    onProgress,
  });
}

/** What a training measured itself, by step, under the names of the evaluations. */
export function measuresOfLog(log: readonly LogLine[]): ReadonlyMap<number, Record<string, number>> {
  const steps = new Map<number, Record<string, number>>();
  for (const line of log) {
    // The lines of training batches tell the rate, those of evaluations do not.
    if ("learningRate" in line || "skipped" in line) continue;
    const { step, ...values } = line as Record<string, number>;
    const named = Object.entries(values).map(
      ([name, value]) => [name.replace(/^(?:test|validation) (?=it[cm] )/, ""), value] as const,
    );
    steps.set(step!, { ...steps.get(step!), ...Object.fromEntries(named) });
  }
  return steps;
}

/** Training time up to a step, from the log: a run that was interrupted has it too. */
export function secondsTo(log: readonly LogLine[], step: number): number {
  let [before, seconds] = [0, 0];
  for (const line of log) {
    const [at, each] = [Number(line["step"]), Number(line["secondsPerStep"])];
    if (!("secondsPerStep" in line) || at > step) continue;
    seconds += (at - before) * each;
    before = at;
  }
  return seconds;
}

/** The log of training batches in at most `count` lines, each a mean over as many lines of it. */
export function thinnedLog(
  log: readonly LogLine[],
  count: number,
): { readonly step: number; readonly values: Record<string, number> }[] {
  const lines = log.filter((line) => "learningRate" in line) as readonly Record<string, number>[];
  const size = Math.max(1, Math.ceil(lines.length / count));
  const thinned: { step: number; values: Record<string, number> }[] = [];
  for (let from = 0; from < lines.length; from += size) {
    const part = lines.slice(from, from + size);
    const { step, secondsPerStep: _seconds, ...values } = part.at(-1)!;
    const means = Object.keys(values).map((name) => {
      const mean = part.reduce((sum, line) => sum + line[name]!, 0) / part.length;
      return [name, Number(mean.toPrecision(5))];
    });
    thinned.push({ step: step!, values: Object.fromEntries(means) as Record<string, number> });
  }
  return thinned;
}
