/** Answers of a language model from written descriptions, by type of question. */
import { join } from "node:path";
import { readModelFolder } from "../checkpoints/model-folder.js";
import { readTextCorpus, type DescribedScene } from "../data/text-corpus.js";
import type { Device } from "../engine/index.js";
import { openDevice } from "../engine/node.js";
import { UserError } from "../errors.js";
import { Opt, optConfigSchema } from "../models/language/opt.js";
import { T5, t5ConfigSchema } from "../models/language/t5.js";
import { Parameters } from "../nn/parameters.js";
import { loadTokenizer, type TextTokenizer } from "../text/tokenizer.js";
import type { AnsweredQuestion, AnswerMeasure } from "../recipes/scenes-parts/answers.js";
import { answerMeasure, SequenceWriter } from "../recipes/scenes-parts/language-model.js";
import { PairWriter, t5AnswerMeasure } from "../recipes/scenes-parts/t5-language-model.js";
import { putWeights } from "./load-weights.js";
import type { EvaluationOptions } from "./options.js";

export interface LanguageModelMeasures {
  readonly measures: Readonly<Record<string, number>>;
  readonly answers: readonly AnsweredQuestion[];
}

/** The model is an OPT or a T5 in a folder of its own, or the language model inside a BLIP-2 folder. */
export async function evaluateLanguageModel(options: EvaluationOptions): Promise<LanguageModelMeasures> {
  const { model, data, limit, threads } = options;
  const folder = await readModelFolder(model);
  const isInside = folder.config["model_type"] === "blip-2";
  const config = (isInside ? folder.config["text_config"] : folder.config) as { model_type?: unknown };
  const parameters = new Parameters(() => true);
  const scope = parameters.scope(isInside ? "language_model" : "");
  type Prepare = (
    device: Device,
    tokenizer: TextTokenizer,
    test: readonly DescribedScene[],
  ) => Promise<AnswerMeasure>;
  const prepare = ((): Prepare => {
    if (config.model_type === "opt") {
      const opt = new Opt(optConfigSchema.parse(config), scope);
      return (device, tokenizer, test) =>
        answerMeasure(device, parameters, opt, new SequenceWriter(tokenizer), test);
    }
    if (config.model_type === "t5") {
      const t5 = new T5(t5ConfigSchema.parse(config), scope, folder.weights.tensors);
      return (device, tokenizer, test) =>
        t5AnswerMeasure(device, parameters, t5, new PairWriter(tokenizer), test);
    }
    throw new UserError(
      `${join(model, "config.json")}: no OPT or T5, which is required; give its folder, or one of BLIP-2 with such a language model`,
    );
  })();

  const tokenizer = await loadTokenizer(model);
  const test = (await readTextCorpus(join(data, "text_test.jsonl"))).slice(0, limit);
  await using device = openDevice({ threads });
  const names = [...folder.weights.tensors.keys()].filter((name) => parameters.shapes.has(name));
  await putWeights(device, parameters, await folder.weights.readAll(names), model);
  const measure = await prepare(device, tokenizer, test);
  const answers: AnsweredQuestion[] = [];
  const measures = await measure({ ...options, onAnswer: (answered) => answers.push(answered) });
  return { measures: { descriptions: test.length, questions: answers.length, ...measures }, answers };
}
