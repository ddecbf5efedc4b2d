/** `blip2 train language-model`: a small language model on text alone, of the family that the configuration's `model.model_type` names. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { z } from "zod";
import { writeModelFolder } from "../../checkpoints/model-folder.js";
import { readTextCorpus, type DescribedScene } from "../../data/text-corpus.js";
import { familyOf, type FamilyName, type LanguageConfig } from "../../models/language/families.js";
import { buildBpeTokenizer } from "../../text/build-bpe.js";
import { tokenizerFrom, type TextTokenizer } from "../../text/tokenizer.js";
import type { Task, TrainerConfig } from "../../training/trainer.js";
import { defineRecipe } from "../recipe.js";
import { languageModelConfigSchema, languageModelTask, optConfigOf } from "./opt.js";
import type { TextSetup } from "./text-order.js";
import { t5ConfigOf, t5LanguageModelConfigSchema, t5LanguageModelTask } from "./t5.js";

/** How a family is trained on texts. */
interface TextTraining<Config extends TextConfig = TextConfig> {
  readonly schema: z.ZodType<Config>;
  /** The model's config.json. */
  configOf(config: Config, tokenizer: TextTokenizer): LanguageConfig;
  task(setup: TextSetup<Config>): Promise<Task>;
}

type TextConfig = TrainerConfig & {
  readonly data: string;
  readonly model: { readonly model_type: FamilyName };
};

const defineTraining = <Config extends TextConfig>(training: TextTraining<Config>): TextTraining =>
  // Who looks a training up by a configuration's own family gives it that configuration.
  training;

const trainings: { readonly [Name in FamilyName]: TextTraining } = {
  opt: defineTraining({
    schema: languageModelConfigSchema,
    configOf: optConfigOf,
    task: languageModelTask,
  }),
  t5: defineTraining({
    schema: t5LanguageModelConfigSchema,
    configOf: t5ConfigOf,
    task: t5LanguageModelTask,
  }),
};

/** The training that a configuration, checked or not, is for; that of OPT where it does not say. */
function trainingOf(config: unknown): TextTraining {
  const type = (config as { model?: { model_type?: unknown } } | null)?.model?.model_type;
  return Object.hasOwn(trainings, String(type)) ? trainings[type as FamilyName] : trainings.opt;
}

export const languageModel = defineRecipe<TextConfig>({
  name: "language-model",
  schema: (json) => trainingOf(json).schema,
  places: { data: "data", start: "model" },

  async prepare(config) {
    const training = trainingOf(config);
    const [trainFile, testFile] = ["text_train.jsonl", "text_test.jsonl"];
    const train = await readTextCorpus(join(config.data, trainFile));
    const test = await readTextCorpus(join(config.data, testFile));
    const family = familyOf(config.model);
    const files = buildBpeTokenizer(corpusTexts(train, family.questionFormat), family.kind);
    const tokenizer = tokenizerFrom(files);
    const written = training.configOf(config, tokenizer);
    const ids = family.writtenIds(family.textIds(written, tokenizer, config.data)).generationConfig;
    // Alone, a decoder that an encoder feeds starts from its own start token; "bos" is of BLIP-2's empty prompt.
    const { bos_token_id: _bos, ...withoutBos } = ids;
    const generationConfig = family.kind === "encoder-decoder" ? withoutBos : ids;
    return {
      data: {
        [trainFile]: await digestOf(join(config.data, trainFile)),
        [testFile]: await digestOf(join(config.data, testFile)),
      },
      task: (device) => training.task({ device, config, tokenizer, train, test }),
      write: (model, weights) =>
        writeModelFolder(model, {
          config: { architectures: [family.architecture], ...written, dtype: "float16" },
          tensors: weights,
          dtype: "float16",
          files: { ...files, "generation_config.json": generationConfig },
        }),
    };
  },
});

const digestOf = async (path: string): Promise<string> =>
  createHash("sha256")
    .update(await readFile(path))
    .digest("hex")
    .slice(0, 16);

/** Every text of a corpus, in the form in which the language model reads it. */
function corpusTexts(corpus: readonly DescribedScene[], questionFormat: string): string[] {
  const texts = new Set<string>();
  for (const { description, captions, questions, statements } of corpus) {
    for (const text of [description, ...captions, ...statements]) texts.add(text);
    for (const { question, answer } of questions)
      texts.add(`${questionFormat.replace("{}", () => question)} ${answer}`);
  }
  return [...texts];
}
