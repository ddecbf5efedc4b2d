/**
 * Training a small vision transformer, so that there is a frozen image encoder to bridge from: CLIP's
 * contrastive loss against a text tower that is thrown away afterwards, with altered captions as further
 * negatives, and (where the data set says what stands where) a classification of each patch from the
 * features that BLIP-2 will use. None of BLIP-2's own objectives takes part. BLIP-2 takes the output of
 * the last but one block, so the last block is dropped at the end (paper section 3.3).
 */
import { z } from "zod";
import { input, ops, type Device, type HostTensors, type Program, type Tensor } from "../../engine/index.js";
import type { CaptionedPicture } from "../../data/caption-set.js";
import { PictureCache } from "../../data/picture-cache.js";
import { Random } from "../../random.js";
import type { SceneRecord, WorldDescription } from "../../data/scenes/read.js";
import { ShuffledPasses } from "../../data/shuffle.js";
import { InterruptedError } from "../../errors.js";
import { int64Tensor, type HostTensor } from "../../host-tensor.js";
import { fade } from "../../images/augment.js";
import { preprocess, type PreprocessConfig } from "../../images/preprocess.js";
import {
  Blip2VisionModel,
  blip2VisionConfigSchema,
  type Blip2VisionConfig,
} from "../../models/vision/blip-2-vision.js";
import { Opt, optConfigSchema, type OptConfig } from "../../models/language/opt.js";
import { Linear } from "../../nn/layers.js";
import { normal, Parameters } from "../../nn/parameters.js";
import { clipLoss } from "../../objectives/clip.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import { alterCaption, withoutColors, wordGroups } from "./altered-captions.js";
import { newlineId } from "./language-model.js";
import { patchLabels, patchLoss } from "./patch-classification.js";
import { SeenPairs } from "./seen-pairs.js";
import { startWeights } from "../../training/start-weights.js";
import {
  equalParts,
  trainerKeys,
  weightSlots,
  type Task,
  type TrainingHooks,
} from "../../training/trainer.js";

export const visionConfigSchema = z
  .strictObject({
    /** A folder with captions_train.json, captions_validation.json and their pictures. */
    data: z.string(),
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
  .refine(...equalParts);

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

/** Picture and text towers with their projections, compared in one space. */
export class ContrastiveTowers {
  readonly vision: Blip2VisionModel;
  private readonly text: Opt;
  private readonly visualProjection: Linear;
  private readonly textProjection: Linear;
  readonly logScale: Tensor;

  constructor(vision: Blip2VisionConfig, text: OptConfig, sharedSize: number, parameters: Parameters) {
    const scope = parameters.scope();
    this.vision = new Blip2VisionModel(vision, scope.at("vision_model"));
    this.text = new Opt(text, scope.at("text_model"), { words: normal(0.05), positions: normal(0.02) });
    const [wide, narrow] = [vision.hidden_size, text.hidden_size];
    this.visualProjection = new Linear(scope.at("visual_projection"), wide, sharedSize, {
      bias: false,
      weightInit: normal(wide ** -0.5),
    });
    this.textProjection = new Linear(scope.at("text_projection"), narrow, sharedSize, {
      bias: false,
      weightInit: normal(narrow ** -0.5),
    });
    this.logScale = scope.tensor("logit_scale", [], { kind: "constant", value: Math.log(1 / 0.07) });
  }

  /** pixelValues: [B, 3, S, S] -> the blocks' outputs and unit rows [B, E] from the class position. */
  images(pixelValues: Tensor): { readonly hiddenStates: readonly Tensor[]; readonly embeds: Tensor } {
    const { hiddenStates, lastHiddenState } = this.vision.forward(pixelValues);
    return {
      hiddenStates,
      embeds: ops.l2Normalize(this.visualProjection.forward(ops.select(lastHiddenState, 1, 0))),
    };
  }

  /** ids, mask: int64 [N, T]; ends: int64 [N], each row's last token in the flattened batch -> unit rows [N, E]. */
  texts(ids: Tensor, mask: Tensor, ends: Tensor): Tensor {
    const { lastHiddenState } = this.text.forward({
      inputsEmbeds: this.text.embed(ids),
      attentionMask: mask,
    });
    const [n, t, d] = lastHiddenState.shape;
    const last = ops.gatherRows(ops.reshape(lastHiddenState, [ops.multiplyDims(n!, t!), d!]), ends);
    return ops.l2Normalize(this.textProjection.forward(last));
  }
}

/** Rows of caption ids, the end token last, with each row's end in the flattened batch. */
export function captionRows(tokenizer: TextTokenizer, captions: readonly string[]): HostTensors {
  const newline = newlineId(tokenizer);
  const rows = captions.map((caption) => [...tokenizer.encode(caption), newline]);
  const length = Math.max(...rows.map((row) => row.length));
  const pad = tokenizer.specialIds.pad!;
  const dims = [rows.length, length];
  return {
    text_ids: int64Tensor(
      rows.flatMap((row) => Array.from({ length }, (_, place) => row[place] ?? pad)),
      dims,
    ),
    text_mask: int64Tensor(
      rows.flatMap((row) => Array.from({ length }, (_, place) => Number(place < row.length))),
      dims,
    ),
    text_ends: int64Tensor(
      rows.map((row, r) => r * length + row.length - 1),
      [rows.length],
    ),
  };
}

/** Below this share of its colour, a picture is told of without colours. */
const leastColor = 0.5;

export interface VisionData {
  readonly train: readonly CaptionedPicture[];
  readonly validation: readonly CaptionedPicture[];
  readonly world?: WorldDescription;
  /** By picture id; needed when `patchWeight` is above 0. */
  readonly scenes?: ReadonlyMap<number, SceneRecord>;
}

export async function visionTask(
  device: Device,
  config: VisionConfig,
  tokenizer: TextTokenizer,
  data: VisionData,
  preprocessing: PreprocessConfig,
): Promise<Task> {
  const vision = blip2VisionConfigOf(config);
  const parameters = new Parameters(() => true);
  const towers = new ContrastiveTowers(
    vision,
    textTowerConfigOf(config, tokenizer),
    config.sharedSize,
    parameters,
  );
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
  const passes = new ShuffledPasses(data.train.length, config.seed);
  const cache = new PictureCache(side);
  const measure = await retrievalMeasure(device, towers, parameters, tokenizer, vision);
  return {
    parameters,
    weights: new Map(),
    start: await startWeights(parameters, config.seed, config.start),
    loss,
    metrics,
    batch: async (step, part) => {
      const chosen = Array.from({ length: size }, (_, i) => {
        const position = step * config.batchSize + part * size + i;
        const picture = data.train[passes.at(position).item]!;
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
          const image = await cache.get(picture.file);
          return color === 1 ? image : fade(image, color);
        }),
      );
      const captions = chosen.map(({ caption }) => caption);
      const altered = chosen.map(({ caption, random }) => alterCaption(caption, groups, random, seen));
      const labels =
        config.patchWeight > 0
          ? patchLabels(
              chosen.map(({ picture }) => data.scenes!.get(picture.id)!),
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

function textInputs(): { readonly ids: Tensor; readonly mask: Tensor; readonly ends: Tensor } {
  return {
    ids: input("text_ids", "int64", ["N", "T"]),
    mask: input("text_mask", "int64", ["N", "T"]),
    ends: input("text_ends", "int64", ["N"]),
  };
}

type RetrievalMeasure = (
  pictures: readonly CaptionedPicture[],
  cache: PictureCache,
  preprocessing: PreprocessConfig,
  hooks?: TrainingHooks,
) => Promise<Record<string, number>>;

/** How many pictures compete with each other when retrieval is measured. */
export const retrievalPool = 256;

/** Text retrieval of the two towers as their weights stand: recall@1 both ways in pools of 256 (or `poolSize`). */
export async function retrievalMeasure(
  device: Device,
  towers: ContrastiveTowers,
  parameters: Parameters,
  tokenizer: TextTokenizer,
  { image_size: side }: Blip2VisionConfig,
  poolSize = retrievalPool,
): Promise<RetrievalMeasure> {
  const { ids, mask, ends } = textInputs();
  const imageGraph = { embeds: towers.images(input("pixel_values", "float32", ["B", 3, side, side])).embeds };
  const textGraph = { embeds: towers.texts(ids, mask, ends) };
  // Some parameters are declared by the graph that reads them.
  const residentInputs = weightSlots(parameters);
  const images = await device.compile(imageGraph, { residentInputs });
  const texts = await device.compile(textGraph, { residentInputs });
  return async (pictures, cache, preprocessing, { signal, onProgress } = {}) => {
    const recalls = { imageToText: 0, textToImage: 0 };
    let pools = 0;
    for (let from = 0; from + poolSize <= pictures.length; from += poolSize) {
      if (signal?.aborted) throw new InterruptedError("stopped on request");
      const pool = pictures.slice(from, from + poolSize);
      const imageRows = await embedInParts(images, pool, async (part) => ({
        pixel_values: preprocess(await Promise.all(part.map(({ file }) => cache.get(file))), preprocessing),
      }));
      const textRows = await embedInParts(texts, pool, (part) =>
        Promise.resolve(
          captionRows(
            tokenizer,
            part.map(({ captions }) => captions[0]!),
          ),
        ),
      );
      recalls.imageToText += recallAt1(imageRows, textRows);
      recalls.textToImage += recallAt1(textRows, imageRows);
      pools += 1;
      onProgress?.({ step: from + poolSize, total: pictures.length, detail: "pictures" });
    }
    if (pools === 0) return {};
    return {
      "image to text recall@1": recalls.imageToText / pools,
      "text to image recall@1": recalls.textToImage / pools,
    };
  };
}

async function embedInParts<T>(
  program: Program,
  items: readonly T[],
  feeds: (part: readonly T[]) => Promise<HostTensors>,
): Promise<readonly Float32Array[]> {
  const rows: Float32Array[] = [];
  for (let from = 0; from < items.length; from += 64) {
    const { embeds } = (await program.run(await feeds(items.slice(from, from + 64)))) as {
      embeds: HostTensor;
    };
    const width = embeds.dims[1]!;
    for (let row = 0; row < embeds.dims[0]!; row++)
      rows.push((embeds.data as Float32Array).subarray(row * width, (row + 1) * width));
  }
  return rows;
}

/** The share of rows of `from` whose nearest row of `to` is the one at their own place. */
export function recallAt1(from: readonly Float32Array[], to: readonly Float32Array[]): number {
  const dot = (a: Float32Array, b: Float32Array): number =>
    a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  const hits = from.filter((row, own) => {
    const best = dot(row, to[own]!);
    return to.every((other, place) => place === own || dot(row, other) < best);
  });
  return hits.length / from.length;
}
