/**
 * Training a small vision transformer, so that there is a frozen image encoder to bridge from: CLIP's
 * contrastive loss against a text tower that is thrown away afterwards, with altered captions as further
 * negatives, and (where the data set says what stands where) a classification of each patch from the
 * features that BLIP-2 will use. None of BLIP-2's own objectives takes part. BLIP-2 takes the output of
 * the last but one block, so the last block is dropped at the end (paper section 3.3).
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import { writeModelFolder } from "../../checkpoints/model-folder.js";
import { samplesOf, type CaptionedPicture, type Dataset } from "../../data/dataset.js";
import { PictureCache } from "../../data/picture-cache.js";
import { readScenes, readWorld, type SceneRecord, type WorldDescription } from "../../data/scenes/read.js";
import { ShuffledPasses } from "../../data/shuffle.js";
import { input, ops, type Device, type Tensor } from "../../engine/index.js";
import { newlineId } from "../../evaluation/answers/sequence-writer.js";
import { captionRows, retrievalMeasure } from "../../evaluation/towers-measure.js";
import { float32Tensor, type HostTensor } from "../../host-tensor.js";
import { fade } from "../../images/augment.js";
import { blipPreprocessor, preprocess, preprocessConfig } from "../../images/preprocess.js";
import { ContrastiveTowers, textInputs } from "../../models/contrastive-towers.js";
import { optConfigSchema, type OptConfig } from "../../models/language/opt.js";
import { blip2VisionConfigSchema, type Blip2VisionConfig } from "../../models/vision/blip-2-vision.js";
import { Parameters } from "../../nn/parameters.js";
import { clipLoss } from "../../objectives/clip.js";
import { Random } from "../../random.js";
import { buildBpeTokenizer } from "../../text/build-bpe.js";
import { tokenizerFrom, type TextTokenizer } from "../../text/tokenizer.js";
import { startWeights } from "../../training/start-weights.js";
import { equalParts, trainerKeys, type Task, type TrainingResult } from "../../training/trainer.js";
import { checkContrast, checkPictures, mustDivide, openPictures, pictureKeys } from "../picture-data.js";
import { defineRecipe } from "../recipe.js";
import { alterCaption, withoutColors, wordGroups } from "./altered-captions.js";
import { patchLabels, patchLoss } from "./patch-classification.js";
import { SeenPairs } from "./seen-pairs.js";

export const visionConfigSchema = z
  .strictObject({
    ...pictureKeys,
    model: z.strictObject({
      hidden_size: z.int().positive(),
      intermediate_size: z.int().positive(),
      /** Blocks that are trained; the last one is dropped afterwards. */
      num_hidden_layers: z.int().min(2),
      num_attention_heads: z.int().positive(),
      image_size: z.int().positive(),
      patch_size: z.int().positive(),
    }),
    textTower: z.strictObject({
      hidden_size: z.int().positive(),
      num_hidden_layers: z.int().positive(),
      num_attention_heads: z.int().positive(),
      ffn_dim: z.int().positive(),
    }),
    /** Width of the space in which pictures and texts are compared. */
    sharedSize: z.int().positive().default(128),
    /** Weight of the patch classification; 0 leaves it out, and must be 0 without scenes_<split>.json. */
    patchWeight: z.number().nonnegative().default(0),
    /**
     * Share of pictures whose colours are drawn towards grey, so that kinds are told by their shapes. Where little
     * colour is left, captions leave it out and patches are not asked about it. Needs scenes_<split>.json too.
     */
    fadedShare: z.number().min(0).max(1).default(0),
    /** Folder of an earlier run of the same sizes whose weights this one starts from; a model folder lacks the towers. */
    start: z.string().optional(),
    ...trainerKeys,
  })
  .refine(...equalParts)
  .superRefine(({ model, textTower }, context) => {
    const { hidden_size: width, num_attention_heads: heads, image_size: side, patch_size: patch } = model;
    mustDivide(context, ["model"], [width, "hidden_size"], [heads, "num_attention_heads"]);
    mustDivide(context, ["model"], [side, "image_size"], [patch, "patch_size"]);
    const { hidden_size: textWidth, num_attention_heads: textHeads } = textTower;
    mustDivide(context, ["textTower"], [textWidth, "hidden_size"], [textHeads, "num_attention_heads"]);
  });

export type VisionConfig = z.infer<typeof visionConfigSchema>;

export function blip2VisionConfigOf({ model }: VisionConfig): Blip2VisionConfig {
  return blip2VisionConfigSchema.parse({ ...model, hidden_act: "gelu", layer_norm_eps: 1e-6 });
}

/** The text tower is an OPT, read at its last token. */
export function textTowerConfigOf({ textTower }: VisionConfig, tokenizer: TextTokenizer): OptConfig {
  return optConfigSchema.parse({
    ...textTower,
    vocab_size: tokenizer.vocabularySize,
    max_position_embeddings: 128,
    dropout: 0,
    word_embed_proj_dim: textTower.hidden_size,
    eos_token_id: newlineId(tokenizer),
  });
}

/** Below this share of its colour, a picture is told of without colours. */
const leastColor = 0.5;

export interface VisionData {
  readonly train: Dataset<CaptionedPicture>;
  readonly validation: Dataset<CaptionedPicture>;
  readonly world?: WorldDescription;
  /** By picture id; needed when `patchWeight` is above 0. */
  readonly scenes?: ReadonlyMap<number, SceneRecord>;
}

export interface VisionSetup {
  readonly device: Device;
  readonly config: VisionConfig;
  readonly tokenizer: TextTokenizer;
  readonly data: VisionData;
  readonly cache: PictureCache;
}

export async function visionTask({ device, config, tokenizer, data, cache }: VisionSetup): Promise<Task> {
  const vision = blip2VisionConfigOf(config);
  const parameters = new Parameters(() => true);
  const towers = new ContrastiveTowers(
    vision,
    textTowerConfigOf(config, tokenizer),
    config.sharedSize,
    parameters,
  );
  checkContrast(config, data.train.length);
  const preprocessing = preprocessConfig(blipPreprocessor(vision.image_size));
  const size = config.batchSize / config.accumulate;
  const side = vision.image_size;
  const pixels = input("pixel_values", "float32", [size, 3, side, side]);
  const { ids, mask, ends } = textInputs();
  const { hiddenStates, embeds } = towers.images(pixels);
  const { loss: contrastive, accuracy } = clipLoss(embeds, towers.texts(ids, mask, ends), towers.logScale);
  const metrics: Record<string, Tensor> = { contrastive, accuracy };
  let loss = contrastive;
  const seen =
    data.world === undefined || data.scenes === undefined
      ? undefined
      : new SeenPairs(data.world, data.scenes.values());
  if (config.patchWeight > 0) {
    const patch = patchLoss(hiddenStates.at(-2)!, data.world!, vision, parameters, seen!);
    loss = ops.add(loss, ops.mul(patch.loss, config.patchWeight));
    Object.assign(metrics, patch.metrics);
  }
  const groups = data.world === undefined ? [] : wordGroups(data.world);
  // A picture twice in a part would be its own wrong example.
  const passes = new ShuffledPasses(data.train.length, config.seed, size);
  const measure = await retrievalMeasure(device, towers, parameters, tokenizer, vision);
  return {
    parameters,
    weights: new Map(),
    start: await startWeights(parameters, config.seed, config.start),
    loss,
    metrics,
    batch: async (step, part) => {
      const positions = Array.from({ length: size }, (_, i) => step * config.batchSize + part * size + i);
      const items = positions.map((position) => passes.at(position).item);
      const pictures = await Promise.all(items.map((item) => data.train.at(item)));
      const chosen = positions.map((position, i) => {
        const picture = pictures[i]!;
        const random = new Random("caption", config.seed, position);
        const caption = random.pick(picture.captions);
        const color = random.chance(config.fadedShare) ? random.next() : 1;
        const isColorless = color < leastColor;
        return {
          picture,
          color,
          isColorless,
          random,
          caption: isColorless ? withoutColors(caption, data.world!.colors) : caption,
        };
      });
      const images = await Promise.all(
        chosen.map(async ({ picture, color }) => {
          const image = await cache.get(picture.image, picture.name);
          return color === 1 ? image : fade(image, color);
        }),
      );
      const captions = chosen.map(({ caption }) => caption);
      const altered = chosen.map(({ caption, random }) => alterCaption(caption, groups, random, seen));
      const labels =
        config.patchWeight > 0
          ? patchLabels(
              chosen.map(({ picture }) => data.scenes!.get(picture.id as number)!),
              data.world!,
              vision,
              new Random("patches", config.seed, step, part),
              chosen.map(({ isColorless }) => isColorless),
            )
          : {};
      return {
        pixel_values: preprocess(images, preprocessing),
        ...captionRows(tokenizer, [...captions, ...altered]),
        ...labels,
      };
    },
    evaluate: () => measure(data.validation, cache, preprocessing),
  };
}

export const vision = defineRecipe<VisionConfig>({
  name: "vision",
  schema: visionConfigSchema,
  places: { data: "data", start: "model" },

  async prepare(config, hooks) {
    const opened = await openPictures(config, hooks);
    checkContrast(config, opened.train.length);
    const isScenes = config.patchWeight > 0;
    const scenes: Pick<VisionData, "world" | "scenes"> = isScenes
      ? { world: await readWorld(config.data), scenes: await readScenes(config.data, config.splits.train) }
      : {};
    const cache = new PictureCache(config.model.image_size);
    const train = await checkPictures(opened.train, cache, config, hooks);
    const validation = await checkPictures(opened.validation, cache, config, hooks);
    const captions: string[] = [];
    for await (const picture of samplesOf(train)) captions.push(...picture.captions);
    const files = buildBpeTokenizer(captions);
    const tokenizer = tokenizerFrom(files);
    return {
      data: {
        ...opened.digests,
        ...(scenes.scenes && {
          "scenes.json": digestOf(scenes.world),
          [`scenes_${config.splits.train}.json`]: digestOf([...scenes.scenes]),
        }),
      },
      task: (device) =>
        visionTask({ device, config, tokenizer, data: { train, validation, ...scenes }, cache }),
      write: async (model, weights) => {
        const { encoder, towers } = cutEncoder(config, weights);
        const sizes = blip2VisionConfigOf(config);
        const kept = sizes.num_hidden_layers - 1;
        await writeModelFolder(model, {
          config: {
            architectures: ["Blip2VisionModel"],
            ...sizes,
            num_hidden_layers: kept,
            dtype: "float16",
          },
          tensors: encoder,
          dtype: "float16",
          files: { "preprocessor_config.json": blipPreprocessor(sizes.image_size) },
        });
        await writeModelFolder(join(model, "..", "towers"), {
          config: {
            model_type: "blip2_contrastive_towers",
            vision_config: sizes,
            text_config: textTowerConfigOf(config, tokenizer),
            shared_size: config.sharedSize,
          },
          tensors: towers,
          dtype: "float16",
          files,
        });
      },
    };
  },
});

const digestOf = (json: unknown): string =>
  createHash("sha256").update(JSON.stringify(json)).digest("hex").slice(0, 16);

/** The encoder that BLIP-2 takes, without its last block; and what was only needed to train it. */
function cutEncoder(
  config: VisionConfig,
  weights: TrainingResult["weights"],
): Record<"encoder" | "towers", Map<string, HostTensor>> {
  const { hidden_size: width, num_hidden_layers: depth } = blip2VisionConfigOf(config);
  const prefix = "vision_model.";
  const isKept = (name: string): boolean =>
    name.startsWith(`${prefix}embeddings.`) ||
    (name.startsWith(`${prefix}encoder.layers.`) &&
      !name.startsWith(`${prefix}encoder.layers.${depth - 1}.`));
  const encoder = new Map<string, HostTensor>();
  const towers = new Map<string, HostTensor>();
  for (const [name, value] of weights) {
    if (isKept(name)) encoder.set(name.slice(prefix.length), value);
    else if (!name.startsWith("patch_head.")) towers.set(name, value);
  }
  // BLIP-2 trains this norm itself, from where a new one starts.
  encoder.set("post_layernorm.weight", float32Tensor(new Float32Array(width).fill(1), [width]));
  encoder.set("post_layernorm.bias", float32Tensor(new Float32Array(width), [width]));
  return { encoder, towers };
}
