/**
 * Stage 1: the Q-Former learns from a frozen image encoder (paper section 3.2). Training data are cached
 * features and captions; the result is a folder in the layout of `Blip2ForImageTextRetrieval`.
 */
import { z } from "zod";
import { readModelFolder, writeModelFolder } from "../checkpoints/model-folder.js";
import type { LazyTensor } from "../checkpoints/tensor-file.js";
import { lazyTensors } from "../checkpoints/tensor-views.js";
import { samplesOf, type CaptionedPicture, type Dataset } from "../data/dataset.js";
import { ShuffledPasses } from "../data/shuffle.js";
import { input, ops, type Device } from "../engine/index.js";
import { UserError } from "../errors.js";
import { pairedTexts, stage1Measure } from "../evaluation/stage-1-measure.js";
import type { HostTensor } from "../host-tensor.js";
import { openFrozenVision, type FrozenVision } from "../loading/frozen-vision.js";
import { FirstStage } from "../models/blip-2-bridge.js";
import { qFormerConfigSchema, type QFormerConfig } from "../models/q-former.js";
import { bridgeNormEpsilon } from "../models/vision/vision-encoder.js";
import { Dropout } from "../nn/dropout.js";
import { initialise } from "../nn/initialise.js";
import { Parameters } from "../nn/parameters.js";
import { stage1Losses } from "../objectives/stage-1.js";
import { Random } from "../random.js";
import { bertTokenizerFiles } from "../text/bert-tokenizer.js";
import { buildWordPieceTokenizer } from "../text/build-wordpiece.js";
import { tokenizerFrom, type TextTokenizer } from "../text/tokenizer.js";
import type { FeatureSet } from "../training/image-features.js";
import { storedPictures } from "../training/picture-side.js";
import { stepSeed } from "../training/step-seed.js";
import { equalParts, trainerKeys, type Task } from "../training/trainer.js";
import { startFromBert } from "./bert-start.js";
import {
  checkContrast,
  encoderDigest,
  featureKeys,
  mustDivide,
  openPictures,
  openSplitFeatures,
  pictureKeys,
} from "./picture-data.js";
import { defineRecipe } from "./recipe.js";

/** Sizes of a Q-Former; what follows from the image encoder and the tokenizer is not repeated. */
const qFormerKeys = {
  hidden_size: z.int().positive(),
  num_hidden_layers: z.int().positive(),
  num_attention_heads: z.int().positive(),
  intermediate_size: z.int().positive(),
  cross_attention_frequency: z.int().positive().default(2),
  max_position_embeddings: z.int().positive().default(512),
  hidden_dropout_prob: z.number().min(0).max(1).default(0.1),
  attention_probs_dropout_prob: z.number().min(0).max(1).default(0.1),
} as const;

export const stage1ConfigSchema = z
  .strictObject({
    ...pictureKeys,
    ...featureKeys,
    /** The frozen image encoder: a folder, or a name on the hub; alone, or inside a BLIP-2. */
    vision: z.string(),
    qformer: z.strictObject(qFormerKeys),
    queries: z.int().positive().default(32),
    /** Width of the space in which pictures and texts are compared. */
    sharedSize: z.int().positive().default(256),
    /** Longest text in tokens, [CLS] and [SEP] included. */
    maxTextLength: z.int().min(3).default(32),
    /** What is learnt; what is left out is not computed. */
    objectives: z
      .array(z.enum(["itc", "itm", "itg"]))
      .nonempty()
      .default(["itc", "itm", "itg"]),
    matching: z.enum(["two-class", "one-logit"]).default("two-class"),
    /** Where the Q-Former begins: a BERT folder of the sizes of `qformer`, as in the paper; drawn anew if absent. */
    start: z.strictObject({ bert: z.string() }).optional(),
    /** Whether gradients pass the gathered side of the similarities; the reference detaches it. */
    gatheredGradient: z.boolean().default(false),
    ...trainerKeys,
  })
  .refine(...equalParts)
  .superRefine(({ qformer: { hidden_size: width, num_attention_heads: heads } }, context) =>
    mustDivide(context, ["qformer"], [width, "hidden_size"], [heads, "num_attention_heads"]),
  );

export type Stage1Config = z.infer<typeof stage1ConfigSchema>;

export function qFormerConfigOf(
  config: Stage1Config,
  vision: Pick<FrozenVision, "config">,
  tokenizer: TextTokenizer,
): QFormerConfig {
  return qFormerConfigSchema.parse({
    ...config.qformer,
    vocab_size: tokenizer.vocabularySize,
    encoder_hidden_size: vision.config.hidden_size,
    use_qformer_text_input: true,
  });
}

/** Whether pictures are told from each other by comparing them with texts of others. */
const isCompared = ({ objectives }: Pick<Stage1Config, "objectives">): boolean =>
  objectives.some((name) => name !== "itg");

export interface Stage1Setup {
  readonly device: Device;
  readonly config: Stage1Config;
  readonly vision: Pick<FrozenVision, "config">;
  readonly tokenizer: TextTokenizer;
  readonly train: FeatureSet;
  readonly validation: FeatureSet;
}

/** The task of stage 1. Nothing frozen is in its graph: the image encoder's features are fed. */
export async function stage1Task({
  device,
  config,
  vision,
  tokenizer,
  train,
  validation,
}: Stage1Setup): Promise<Task> {
  const qformer = qFormerConfigOf(config, vision, tokenizer);
  if (config.maxTextLength > qformer.max_position_embeddings) {
    throw new UserError(
      `maxTextLength is ${config.maxTextLength}, more than qformer.max_position_embeddings, which is ${qformer.max_position_embeddings}`,
    );
  }
  // Once more, as broken pictures may have been left out.
  if (isCompared(config)) checkContrast(config, train.pictures.length);
  const parameters = new Parameters(() => true);
  const model = firstStageOf(config, qformer, vision, parameters);
  const size = config.batchSize / config.accumulate;
  const pictures = storedPictures(train);
  const seed = input("seed", "uint64", []);
  const { loss, itmAccuracy, ...parts } = stage1Losses(
    model,
    {
      features: pictures.features(size),
      ids: input("ids", "int64", [size, "T"]),
      mask: input("mask", "int64", [size, "T"]),
    },
    {
      startTokenId: tokenizer.idOf("[DEC]"),
      padTokenId: tokenizer.specialIds.pad!,
      gatheredGradient: config.gatheredGradient,
      matching: config.matching,
      objectives: config.objectives,
      seed,
      dropout: new Dropout(seed),
    },
  );
  // Pairs of one picture in a part would be each other's wrong examples: a pass gives whole parts only, as the reference's loader does.
  const passes = new ShuffledPasses(train.pictures.length, config.seed, isCompared(config) ? size : 1);
  const { maxTextLength } = config;
  const watched = { split: config.splits.validation, pictures: validation.pictures, features: validation };
  const evaluate = await stage1Measure({ device, model, parameters, tokenizer, maxTextLength, ...watched });
  return {
    parameters,
    weights: new Map(),
    start: await stage1Start(parameters, config),
    loss,
    // Nothing else of the losses: an output would have the objectives computed that are left out.
    metrics: {
      ...Object.fromEntries(config.objectives.map((name) => [name, parts[name]])),
      ...(config.objectives.includes("itm") && { "itm accuracy": itmAccuracy }),
      temperature: ops.mul(model.temperature, 1),
    },
    batch: async (step, part) => {
      const chosen = Array.from({ length: size }, (_, i) => {
        const position = step * config.batchSize + part * size + i;
        return {
          place: passes.at(position).item,
          random: new Random("caption", config.seed, position),
        };
      });
      const captions = await Promise.all(
        chosen.map(async ({ place, random }) => random.pick((await train.pictures.at(place)).captions)),
      );
      return {
        ...(await pictures.feeds(chosen.map(({ place }) => place))),
        ...pairedTexts(tokenizer, captions, maxTextLength),
        seed: stepSeed(config.seed, step, part),
      };
    },
    evaluate: () => evaluate(),
  };
}

async function stage1Start(
  parameters: Parameters,
  { seed, start }: Stage1Config,
): Promise<ReadonlyMap<string, HostTensor>> {
  const drawn = initialise(parameters.trainable, seed);
  return start === undefined ? drawn : startFromBert(drawn, start.bert);
}

export function firstStageOf(
  config: Pick<Stage1Config, "queries" | "sharedSize" | "matching">,
  qformer: QFormerConfig,
  vision: Pick<FrozenVision, "config">,
  parameters: Parameters,
): FirstStage {
  return new FirstStage(
    {
      qformer,
      visionNormEpsilon: bridgeNormEpsilon(vision.config),
      queryCount: config.queries,
      sharedSize: config.sharedSize,
      matchingClasses: config.matching === "two-class" ? 2 : 1,
    },
    parameters.scope(),
  );
}

export const stage1 = defineRecipe<Stage1Config>({
  name: "stage1",
  schema: stage1ConfigSchema,
  places: { data: "data", features: "made", vision: "model", "start.bert": "model" },

  async prepare(config, hooks) {
    const pictures = await openPictures(config, hooks);
    if (isCompared(config)) checkContrast(config, pictures.train.length);
    const vision = openFrozenVision(await readModelFolder(config.vision), { onNotice: hooks.log });
    const files =
      config.start === undefined
        ? buildWordPieceTokenizer(await allCaptions(pictures.train))
        : await bertTokenizerFiles(config.start.bert);
    const tokenizer = tokenizerFrom(files);
    return {
      data: { ...pictures.digests, "the image encoder in vision": await encoderDigest(vision) },
      async task(device) {
        const features = await openSplitFeatures(device, config, vision, pictures, hooks);
        try {
          return {
            ...(await stage1Task({ device, config, vision, tokenizer, ...features })),
            close: () => features.close(),
          };
        } catch (error) {
          await features.close();
          throw error;
        }
      },
      write: (model, weights) =>
        writeModelFolder(model, {
          config: {
            architectures: ["Blip2ForImageTextRetrieval"],
            model_type: "blip-2",
            vision_config: vision.config,
            qformer_config: qFormerConfigOf(config, vision, tokenizer),
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
          tensors: new Map<string, HostTensor | LazyTensor>([...lazyTensors(vision.file), ...weights]),
          dtype: "float16",
          files: { ...files, "preprocessor_config.json": vision.folder.preprocessor ?? {} },
        }),
    };
  },
});

async function allCaptions(pictures: Dataset<CaptionedPicture>): Promise<string[]> {
  const all: string[] = [];
  for await (const { captions } of samplesOf(pictures)) all.push(...captions);
  return all;
}
