/**
 * Stage 1: the Q-Former learns from a frozen image encoder (paper section 3.2). Training data are cached
 * features and captions; the result is a folder in the layout of `Blip2ForImageTextRetrieval`.
 */
import { z } from "zod";
import type { CaptionedPicture } from "../data/caption-set.js";
import { Random } from "../random.js";
import { ShuffledPasses } from "../data/shuffle.js";
import { input, ops, type Device, type HostTensors } from "../engine/index.js";
import { UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import { FirstStage } from "../models/blip-2-bridge.js";
import { qFormerConfigSchema, type QFormerConfig } from "../models/q-former.js";
import { bridgeNormEpsilon } from "../models/vision/vision-encoder.js";
import { Dropout } from "../nn/dropout.js";
import { initialise } from "../nn/initialise.js";
import { Parameters } from "../nn/parameters.js";
import { maxOverQueries } from "../objectives/contrastive.js";
import { stage1Losses } from "../objectives/stage-1.js";
import type { TextTokenizer } from "../text/tokenizer.js";
import { startFromBert } from "./bert-start.js";
import type { FrozenVision, ImageFeatures } from "../training/image-features.js";
import { equalParts, trainerKeys, weightSlots, type Task, type TrainingHooks } from "../training/trainer.js";

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
    /** A folder with captions_train.json, captions_test.json and their pictures. */
    data: z.string(),
    /** Folder of the frozen image encoder. */
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
  .refine(...equalParts);

export type Stage1Config = z.infer<typeof stage1ConfigSchema>;

export function qFormerConfigOf(
  config: Stage1Config,
  vision: FrozenVision,
  tokenizer: TextTokenizer,
): QFormerConfig {
  return qFormerConfigSchema.parse({
    ...config.qformer,
    vocab_size: tokenizer.vocabularySize,
    encoder_hidden_size: vision.config.hidden_size,
    use_qformer_text_input: true,
  });
}

/** Pictures with captions and where their features are. */
export interface FeatureSet {
  readonly pictures: readonly CaptionedPicture[];
  readonly features: ImageFeatures;
}

export interface Stage1Task extends Task {
  readonly qformer: QFormerConfig;
}

export async function stage1Task(
  device: Device,
  config: Stage1Config,
  vision: FrozenVision,
  tokenizer: TextTokenizer,
  train: FeatureSet,
  test: FeatureSet,
): Promise<Stage1Task> {
  const qformer = qFormerConfigOf(config, vision, tokenizer);
  if (config.maxTextLength > qformer.max_position_embeddings) {
    throw new UserError(
      `maxTextLength is ${config.maxTextLength}, more than qformer.max_position_embeddings, which is ${qformer.max_position_embeddings}`,
    );
  }
  const parameters = new Parameters(() => true);
  const model = firstStageOf(config, qformer, vision, parameters);
  const size = config.batchSize / config.accumulate;
  const [, positions, width] = train.features.dims;
  const seed = input("seed", "uint64", []);
  const { loss, itmAccuracy, ...parts } = stage1Losses(
    model,
    {
      features: input("features", "float32", [size, positions, width]),
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
  const passes = new ShuffledPasses(train.pictures.length, config.seed);
  const measure = await stage1Measure(device, model, parameters, tokenizer, config, [positions, width]);
  return {
    qformer,
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
      const places = Array.from({ length: size }, (_, i) => step * config.batchSize + part * size + i);
      const chosen = places.map((position) => ({
        place: passes.at(position).item,
        random: new Random("caption", config.seed, position),
      }));
      const captions = chosen.map(({ place, random }) => random.pick(train.pictures[place]!.captions));
      return {
        features: await train.features.rows(chosen.map(({ place }) => place)),
        ...textFeeds(tokenizer, captions, config.maxTextLength),
        seed: stepSeed(config.seed, step, part),
      };
    },
    evaluate: () => measure(test),
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

/** ids and mask, int64 [B, T]. */
function textFeeds(tokenizer: TextTokenizer, texts: readonly string[], truncate: number): HostTensors {
  const { inputIds, attentionMask } = tokenizer.encodeBatch(texts, { side: "right", truncate });
  return { ids: inputIds, mask: attentionMask };
}

/** The seed of a step's random draws: a function of the run's seed, the step and the part. */
export function stepSeed(seed: number, step: number, part: number): HostTensors[string] {
  const value = (BigInt(seed) << 40n) ^ (BigInt(step) << 8n) ^ BigInt(part);
  return { dtype: "uint64", dims: [], data: BigUint64Array.of(BigInt.asUintN(64, value)) };
}

type Stage1Measure = (test: FeatureSet, hooks?: TrainingHooks) => Promise<Record<string, number>>;

/** Pairs that are measured, and how many run at once. */
const measuredPairs = 1000;
const pairsAtOnce = 50;

/**
 * On up to 1,000 test pairs (each picture with its first caption): recall@1 of the contrastive
 * similarity both ways, and the share of right matching decisions on the true pairs, on pairs with the
 * text of another picture, and on pairs with the most similar wrong text. A caption that two pictures share
 * is right for both.
 */
export async function stage1Measure(
  device: Device,
  model: FirstStage,
  parameters: Parameters,
  tokenizer: TextTokenizer,
  config: Pick<Stage1Config, "queries" | "sharedSize" | "matching" | "maxTextLength">,
  [positions, width]: readonly [number, number],
): Promise<Stage1Measure> {
  const residentInputs = weightSlots(parameters);
  const features = input("features", "float32", ["B", positions, width]);
  const ids = input("ids", "int64", ["B", "T"]);
  const mask = input("mask", "int64", ["B", "T"]);
  const image = model.branch.imageKeyValues(features);
  const images = await device.compile(
    { rows: model.imageEmbeds(model.branch.queries("B", image).lastHiddenState) },
    { residentInputs },
  );
  const texts = await device.compile({ rows: model.textEmbeds(ids, mask) }, { residentInputs });
  const { logits } = model.matching(image, ids, mask);
  const isMatch =
    config.matching === "two-class"
      ? ops.cast(ops.argmax(logits), "float32")
      : ops.where(ops.less(0, ops.reshape(logits, ["B"])), 1, 0);
  const matching = await device.compile({ matched: isMatch }, { residentInputs });
  const comparison = await device.compile({
    // [texts, images]
    similarity: maxOverQueries(
      input("text_rows", "float32", ["N", config.sharedSize]),
      input("image_rows", "float32", ["M", config.queries, config.sharedSize]),
    ),
  });

  return async ({ pictures, features: cache }, { signal, onProgress } = {}) => {
    const count = Math.min(measuredPairs, pictures.length);
    const captions = pictures.slice(0, count).map((picture) => picture.captions[0]!);
    const imageRows = new Float32Array(count * config.queries * config.sharedSize);
    const textRows = new Float32Array(count * config.sharedSize);
    for (let from = 0; from < count; from += pairsAtOnce) {
      const places = range(from, Math.min(count, from + pairsAtOnce));
      const image = await images.run({ features: await cache.rows(places) }, { signal });
      onProgress?.({ step: from + places.length, total: count, detail: "pairs" });
      imageRows.set(image["rows"]!.data as Float32Array, from * config.queries * config.sharedSize);
      const text = await texts.run(
        textFeeds(
          tokenizer,
          places.map((place) => captions[place]!),
          config.maxTextLength,
        ),
      );
      textRows.set(text["rows"]!.data as Float32Array, from * config.sharedSize);
    }
    const { similarity } = await comparison.run({
      text_rows: { dtype: "float32", dims: [count, config.sharedSize], data: textRows },
      image_rows: { dtype: "float32", dims: [count, config.queries, config.sharedSize], data: imageRows },
    });
    const score = (text: number, picture: number): number =>
      (similarity!.data as Float32Array)[text * count + picture]!;
    const all = range(0, count);
    const best = (candidates: readonly number[], value: (candidate: number) => number): number =>
      candidates.reduce(
        (top, candidate) => (value(candidate) > value(top) ? candidate : top),
        candidates[0]!,
      );
    const same = (a: number, b: number): boolean => captions[a] === captions[b];
    const textToImage =
      all.filter((text) =>
        same(
          text,
          best(all, (picture) => score(text, picture)),
        ),
      ).length / count;
    const imageToText =
      all.filter((picture) =>
        same(
          picture,
          best(all, (text) => score(text, picture)),
        ),
      ).length / count;

    const decide = async (textOf: (picture: number) => number, wanted: number): Promise<number> => {
      let right = 0;
      for (let from = 0; from < count; from += pairsAtOnce) {
        const places = range(from, Math.min(count, from + pairsAtOnce));
        const feeds = textFeeds(
          tokenizer,
          places.map((place) => captions[textOf(place)]!),
          config.maxTextLength,
        );
        const { matched } = await matching.run({ features: await cache.rows(places), ...feeds }, { signal });
        right += (matched!.data as Float32Array).reduce((sum, value) => sum + Number(value === wanted), 0);
      }
      return right / count;
    };
    const recalls = {
      "test itc image to text recall@1": imageToText,
      "test itc text to image recall@1": textToImage,
    };
    // Where all captions are the same there is no wrong one to decide about.
    if (captions.every((caption) => caption === captions[0])) return recalls;
    const hardest = all.map((picture) =>
      best(
        all.filter((text) => !same(text, picture)),
        (text) => score(text, picture),
      ),
    );
    const other = all
      .map((picture) => all.find((step) => step > 0 && !same((picture + step) % count, picture))!)
      .map((step, picture) => (picture + step) % count);
    const onTrue = await decide((picture) => picture, 1);
    const onOther = await decide((picture) => other[picture]!, 0);
    const onHardest = await decide((picture) => hardest[picture]!, 0);
    return {
      ...recalls,
      "test itm accuracy": (onTrue + onOther) / 2,
      "test itm accuracy, hardest negatives": (onTrue + onHardest) / 2,
    };
  };
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
