/** Answers of a language model from written descriptions, by type of question. */
import { join } from "node:path";
import { readModelFolder } from "../checkpoints/model-folder.js";
import { readTextCorpus } from "../data/text-corpus.js";
import { Device } from "../engine/index.js";
import { UserError } from "../errors.js";
import { Opt, optConfigSchema } from "../models/opt.js";
import { Parameters } from "../nn/parameters.js";
import { loadTokenizer } from "../text/tokenizer.js";
import { answerMeasure, SequenceWriter, type AnsweredQuestion } from "../training/language-model.js";
import { putWeights } from "./load-weights.js";
import type { EvaluationOptions } from "./options.js";

export interface LanguageModelMeasures {
  readonly measures: Readonly<Record<string, number>>;
  readonly answers: readonly AnsweredQuestion[];
}

/** The model is an OPT in a folder of its own, or the language model inside a BLIP-2 folder. */
export async function evaluateLanguageModel(options: EvaluationOptions): Promise<LanguageModelMeasures> {
  const { model, data, limit, threads } = options;
  const folder = await readModelFolder(model);
  const isInside = folder.config["model_type"] === "blip-2";
  const config = isInside ? folder.config["text_config"] : folder.config;
  const parsed = optConfigSchema.safeParse(config);
  if (!parsed.success || (config as { model_type?: unknown }).model_type !== "opt") {
    throw new UserError(
      `${join(model, "config.json")}: no OPT model, which is required; give its folder, or one of BLIP-2 with OPT`,
    );
  }
  const test = (await readTextCorpus(join(data, "text_test.jsonl"))).slice(0, limit);
  const tokenizer = await loadTokenizer(model);
  const parameters = new Parameters(() => true);
  const opt = new Opt(parsed.data, parameters.scope(isInside ? "language_model" : ""));

  await using device = Device.open(threads === undefined ? {} : { threads });
  const names = [...folder.weights.tensors.keys()].filter((name) => parameters.shapes.has(name));
  await putWeights(device, parameters, await folder.weights.readAll(names), model);
  const measure = await answerMeasure(device, parameters, opt, new SequenceWriter(tokenizer), test);
  const answers: AnsweredQuestion[] = [];
  const measures = await measure({ ...options, onAnswer: (answered) => answers.push(answered) });
  return { measures: { descriptions: test.length, questions: answers.length, ...measures }, answers };
}
