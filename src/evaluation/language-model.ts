/** Answers of a language model from written descriptions, by type of question. */
import { join } from "node:path";
import { readModelFolder } from "../checkpoints/model-folder.js";
import { readTextCorpus } from "../data/text-corpus.js";
import { openDevice } from "../engine/node.js";
import { openFrozenLanguageModel } from "../loading/frozen-language-model.js";
import { Parameters } from "../nn/parameters.js";
import { loadTokenizer } from "../text/tokenizer.js";
import type { AnsweredQuestion } from "./answers/answers.js";
import { decoderAnswerMeasure } from "./answers/decoder-only.js";
import { encoderDecoderAnswerMeasure } from "./answers/encoder-decoder.js";
import { PairWriter } from "./answers/pair-writer.js";
import { SequenceWriter } from "./answers/sequence-writer.js";
import { putWeights } from "./load-weights.js";
import type { EvaluationOptions } from "./options.js";

export interface LanguageModelMeasures {
  readonly measures: Readonly<Record<string, number>>;
  readonly answers: readonly AnsweredQuestion[];
}

/** The model is a language model in a folder of its own, or that inside a BLIP-2 folder. */
export async function evaluateLanguageModel(options: EvaluationOptions): Promise<LanguageModelMeasures> {
  const { model, data, limit, threads } = options;
  const frozen = await openFrozenLanguageModel(await readModelFolder(model));
  const parameters = new Parameters(() => true);
  const built = frozen.build(parameters);
  const tokenizer = await loadTokenizer(model);
  const test = (await readTextCorpus(join(data, "text_test.jsonl"))).slice(0, limit);
  await using device = openDevice({ threads });
  await putWeights(device, parameters, await frozen.file.readAll(frozen.names), model);
  const measure =
    built.kind === "decoder-only"
      ? await decoderAnswerMeasure(device, parameters, built, new SequenceWriter(tokenizer), test)
      : await encoderDecoderAnswerMeasure(device, parameters, built, new PairWriter(tokenizer), test);
  const answers: AnsweredQuestion[] = [];
  const measures = await measure({ ...options, onAnswer: (answered) => answers.push(answered) });
  return { measures: { descriptions: test.length, questions: answers.length, ...measures }, answers };
}
