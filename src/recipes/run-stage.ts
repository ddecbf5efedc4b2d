/**
 * One function per training verb: reads the data, opens the run, trains, and writes the result as a Hugging
 * Face folder `model` inside the run's folder.
 */
import { join } from "node:path";
import { readModelFolder, writeModelFolder } from "../checkpoints/model-folder.js";
import { readCaptionSet, withStatements } from "../data/caption-set.js";
import { readScenes, readWorld } from "../data/scenes/read.js";
import { readTextCorpus, type DescribedScene } from "../data/text-corpus.js";
import type { Device } from "../engine/index.js";
import { openDevice } from "../engine/node.js";
import { float32Tensor, type HostTensor } from "../host-tensor.js";
import type { T5Config } from "../models/language/t5.js";
import { blipPreprocessor, preprocessConfig } from "../images/preprocess.js";
import { bertTokenizerFiles } from "../text/bert-tokenizer.js";
import { buildBpeTokenizer } from "../text/build-bpe.js";
import { buildWordPieceTokenizer } from "../text/build-wordpiece.js";
import { readTokenizerFiles, type TokenizerFiles } from "../text/tokenizer-files.js";
import { createTokenizer, loadTokenizer, type TextTokenizer } from "../text/tokenizer.js";
import { languageModelFiles, optGenerationConfig, readFrozenLanguageModel } from "./frozen-language-model.js";
import { ImageFeatures, readFrozenVision } from "../training/image-features.js";
import {
  languageModelTask,
  optConfigOf,
  questionPrompt,
  type LanguageModelConfig,
} from "./scenes-parts/language-model.js";
import { RunFolder } from "../training/run-folder.js";
import { qFormerConfigOf, stage1Task, type Stage1Config } from "./stage-1.js";
import { checkStage2Config, stage2Task, type Stage2Config } from "./stage-2/task.js";
import {
  isT5Config,
  shortAnswerPrompt,
  t5ConfigOf,
  t5LanguageModelTask,
  type T5LanguageModelConfig,
} from "./scenes-parts/t5-language-model.js";
import { train, type TrainerConfig, type TrainingHooks, type TrainingResult } from "../training/trainer.js";
import {
  blip2VisionConfigOf,
  textTowerConfigOf,
  visionTask,
  type VisionConfig,
} from "./scenes-parts/vision.js";

export interface RunOptions extends TrainingHooks {
  /** The run's folder. */
  readonly out: string;
  readonly resume: boolean;
  readonly threads?: number | undefined;
  /** Stage 2 also writes its model after every so many steps, as `model-STEP`. */
  readonly modelEvery?: number | undefined;
}

export interface StageResult extends TrainingResult {
  /** Where the trained model was written. */
  readonly model: string;
}

/** Where a run's model lies: the finished one, or that of an earlier step. */
export const modelFolder = (out: string, step?: number): string =>
  join(out, step === undefined ? "model" : `model-${step}`);

async function withDevice<T>(options: RunOptions, work: (device: Device) => Promise<T>): Promise<T> {
  const device = openDevice({ threads: options.threads });
  try {
    return await work(device);
  } finally {
    await device.close();
  }
}

const tokenizerOf = (files: TokenizerFiles): TextTokenizer =>
  createTokenizer(files["tokenizer.json"], files["tokenizer_config.json"]);

/** Every text of a corpus, in the form in which the language model reads it. */
function corpusTexts(corpus: readonly DescribedScene[], promptOf: (question: string) => string): string[] {
  const texts = new Set<string>();
  for (const { description, captions, questions, statements } of corpus) {
    for (const text of [description, ...captions, ...statements]) texts.add(text);
    for (const { question, answer } of questions) texts.add(`${promptOf(question)} ${answer}`);
  }
  return [...texts];
}

/** `blip2 train language-model`: an OPT, or a T5 where the configuration's model is one. */
export async function trainLanguageModel(
  config: LanguageModelConfig | T5LanguageModelConfig,
  options: RunOptions,
): Promise<StageResult> {
  const corpus = await readTextCorpus(join(config.data, "text_train.jsonl"));
  const test = await readTextCorpus(join(config.data, "text_test.jsonl"));
  const isT5 = isT5Config(config);
  const files = buildBpeTokenizer(
    corpusTexts(corpus, isT5 ? shortAnswerPrompt : questionPrompt),
    isT5 ? "encoder-decoder" : "decoder-only",
  );
  const tokenizer = tokenizerOf(files);
  const run = await RunFolder.open(options.out, config, options);
  return withDevice(options, async (device) => {
    const task = isT5
      ? await t5LanguageModelTask(device, config, tokenizer, corpus, test)
      : await languageModelTask(device, config, tokenizer, corpus, test);
    const result = await train(device, task, config satisfies TrainerConfig, run, options);
    const model = modelFolder(options.out);
    await writeModelFolder(model, {
      config: isT5
        ? {
            architectures: ["T5ForConditionalGeneration"],
            ...t5ConfigOf(config, tokenizer),
            dtype: "float16",
          }
        : { architectures: ["OPTForCausalLM"], ...optConfigOf(config, tokenizer), dtype: "float16" },
      tensors: result.weights,
      dtype: "float16",
      files: {
        ...files,
        "generation_config.json": isT5
          ? t5GenerationConfig(t5ConfigOf(config, tokenizer))
          : optGenerationConfig(tokenizer),
      },
    });
    return { ...result, model };
  });
}

function t5GenerationConfig({ decoder_start_token_id, eos_token_id, pad_token_id }: T5Config): object {
  return { decoder_start_token_id, eos_token_id, pad_token_id };
}

/** `blip2 train vision`. Writes the cut encoder to `model` and what was thrown away to `towers`. */
export async function trainVision(config: VisionConfig, options: RunOptions): Promise<StageResult> {
  const trainSet = await readCaptionSet(config.data, "train");
  const validation = await readCaptionSet(config.data, "validation");
  const isScenes = config.patchWeight > 0;
  const scenes = isScenes
    ? { world: await readWorld(config.data), scenes: await readScenes(config.data, "train") }
    : {};
  const files = buildBpeTokenizer(trainSet.flatMap(({ captions }) => captions));
  const tokenizer = tokenizerOf(files);
  const vision = blip2VisionConfigOf(config);
  const preprocessor = blipPreprocessor(vision.image_size);
  const run = await RunFolder.open(options.out, config, options);
  return withDevice(options, async (device) => {
    const task = await visionTask(
      device,
      config,
      tokenizer,
      { train: trainSet, validation, ...scenes },
      preprocessConfig(preprocessor),
    );
    const result = await train(device, task, config satisfies TrainerConfig, run, options);
    const kept = vision.num_hidden_layers - 1;
    const prefix = "vision_model.";
    const isKept = (name: string): boolean =>
      name.startsWith(`${prefix}embeddings.`) ||
      (name.startsWith(`${prefix}encoder.layers.`) && !name.startsWith(`${prefix}encoder.layers.${kept}.`));
    const encoder = new Map<string, HostTensor>();
    const towers = new Map<string, HostTensor>();
    for (const [name, value] of result.weights) {
      if (isKept(name)) encoder.set(name.slice(prefix.length), value);
      else if (!name.startsWith("patch_head.")) towers.set(name, value);
    }
    // BLIP-2 trains this norm itself, from where a new one starts.
    const width = vision.hidden_size;
    encoder.set("post_layernorm.weight", float32Tensor(new Float32Array(width).fill(1), [width]));
    encoder.set("post_layernorm.bias", float32Tensor(new Float32Array(width), [width]));
    const model = modelFolder(options.out);
    await writeModelFolder(model, {
      config: { architectures: ["Blip2VisionModel"], ...vision, num_hidden_layers: kept, dtype: "float16" },
      tensors: encoder,
      dtype: "float16",
      files: { "preprocessor_config.json": preprocessor },
    });
    await writeModelFolder(join(options.out, "towers"), {
      config: {
        model_type: "blip2_contrastive_towers",
        vision_config: vision,
        text_config: textTowerConfigOf(config, tokenizer),
        shared_size: config.sharedSize,
      },
      tensors: towers,
      dtype: "float16",
      files,
    });
    return { ...result, model };
  });
}

/** `blip2 train stage1`. */
export async function trainStage1(config: Stage1Config, options: RunOptions): Promise<StageResult> {
  const trainSet = await readCaptionSet(config.data, "train");
  const testSet = await readCaptionSet(config.data, "test");
  const vision = await readFrozenVision(config.vision);
  const files =
    config.start === undefined
      ? buildWordPieceTokenizer(trainSet.flatMap(({ captions }) => captions))
      : await bertTokenizerFiles(config.start.bert);
  const tokenizer = tokenizerOf(files);
  const run = await RunFolder.open(options.out, config, options);
  return withDevice(options, async (device) => {
    await using features = await ImageFeatures.of(vision, config.data, trainSet, device, options);
    await using testFeatures = await ImageFeatures.of(vision, config.data, testSet, device, options);
    const task = await stage1Task(
      device,
      config,
      vision,
      tokenizer,
      { pictures: trainSet, features },
      { pictures: testSet, features: testFeatures },
    );
    const result = await train(device, task, config satisfies TrainerConfig, run, options);
    const qformer = qFormerConfigOf(config, vision, tokenizer);
    const model = modelFolder(options.out);
    await writeModelFolder(model, {
      config: {
        architectures: ["Blip2ForImageTextRetrieval"],
        model_type: "blip-2",
        vision_config: vision.config,
        qformer_config: qformer,
        // Python's class asks for a language model's config even where it has none.
        text_config: {
          model_type: "opt",
          vocab_size: 8,
          hidden_size: 8,
          num_hidden_layers: 1,
          ffn_dim: 8,
          num_attention_heads: 1,
        },
        num_query_tokens: config.queries,
        image_text_hidden_size: config.sharedSize,
        image_token_index: null,
        dtype: "float32",
      },
      tensors: new Map([...vision.weights, ...result.weights]),
      dtype: "float16",
      files: { ...files, "preprocessor_config.json": vision.folder.preprocessor ?? {} },
    });
    return { ...result, model };
  });
}

/** `blip2 train stage2`. */
export async function trainStage2(config: Stage2Config, options: RunOptions): Promise<StageResult> {
  const captioned = await readCaptionSet(config.data, "train");
  const trainSet =
    config.statementShare === 0 ? captioned : await withStatements(config.data, "train", captioned);
  const validationSet = await readCaptionSet(config.data, "validation");
  const stage1 = await readModelFolder(config.stage1);
  const vision = await readFrozenVision(config.stage1);
  const languageModel = await readFrozenLanguageModel(config.languageModel);
  const tokenizer = await loadTokenizer(config.languageModel);
  checkStage2Config(config, languageModel, tokenizer);
  const written = languageModelFiles(languageModel, tokenizer);
  const run = await RunFolder.open(options.out, config, options);
  return withDevice(options, async (device) => {
    await using features = await ImageFeatures.of(vision, config.data, trainSet, device, options);
    await using validationFeatures = await ImageFeatures.of(
      vision,
      config.data,
      validationSet,
      device,
      options,
    );
    const task = await stage2Task(
      device,
      config,
      stage1,
      vision,
      languageModel,
      tokenizer,
      { pictures: trainSet, features },
      { pictures: validationSet, features: validationFeatures },
    );
    const write = async (model: string, weights: TrainingResult["weights"]): Promise<void> =>
      writeModelFolder(model, {
        config: {
          architectures: ["Blip2ForConditionalGeneration"],
          model_type: "blip-2",
          vision_config: vision.config,
          qformer_config: task.qformer,
          num_query_tokens: task.queries,
          ...written.config,
          dtype: "float16",
        },
        tensors: new Map([...vision.weights, ...languageModel.weights, ...weights]),
        dtype: "float16",
        files: {
          ...(await readTokenizerFiles(languageModel.folder.path)),
          "preprocessor_config.json": vision.folder.preprocessor ?? {},
          "processor_config.json": { processor_class: "Blip2Processor", num_query_tokens: task.queries },
          "generation_config.json": {
            ...written.generationConfig,
            max_new_tokens: config.maxTextLength,
            ...config.generation,
          },
        },
      });
    const { modelEvery } = options;
    const result = await train(device, task, config satisfies TrainerConfig, run, {
      ...options,
      ...(modelEvery !== undefined && {
        intermediate: {
          every: modelEvery,
          keep: (step, weights) => write(modelFolder(options.out, step), weights),
        },
      }),
    });
    const model = modelFolder(options.out);
    await write(model, result.weights);
    return { ...result, model };
  });
}
