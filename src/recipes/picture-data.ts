/** What every recipe on pictures with captions is told of its data, and how it opens them. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { z } from "zod";
import {
  samplesAt,
  samplesOf,
  sliceOf,
  stampOf,
  type CaptionedPicture,
  type Dataset,
} from "../data/dataset.js";
import type { PictureCache } from "../data/picture-cache.js";
import { openData } from "../data/open-data.js";
import type { Device } from "../engine/index.js";
import { stopIf, UserError } from "../errors.js";
import { listedNames } from "../listed.js";
import type { FrozenVision } from "../loading/frozen-vision.js";
import { frozenEncoder, frozenPreprocessing } from "../training/frozen-encoder.js";
import { openFeatures, refuseBroken, type FeatureSet } from "../training/image-features.js";
import type { TrainingHooks } from "../training/trainer.js";
import { modelDigest } from "./model-digest.js";

const decodedAtOnce = 32;

/** Keys of a configuration. */
export const pictureKeys = {
  /** Where the data are: a folder with captions_SPLIT.json and its pictures. */
  data: z.string(),
  /** Which of the data's splits are trained on, and watched meanwhile. */
  splits: z
    .strictObject({ train: z.string().default("train"), validation: z.string().default("validation") })
    .prefault({}),
  /** The largest share of pictures that may be broken: they are named, and left out. More stop the training before it begins. */
  brokenPictures: z.number().min(0).max(1).default(0.01),
} as const;

/** Further keys of recipes that train on image features. */
export const featureKeys = {
  /** Where the features are kept; beside the data, in `features`, if not given. */
  features: z.string().optional(),
} as const;

export type PictureConfig = z.infer<z.ZodObject<typeof pictureKeys>>;
export type FeatureConfig = PictureConfig & z.infer<z.ZodObject<typeof featureKeys>>;

export interface PictureSplits {
  readonly train: Dataset<CaptionedPicture>;
  readonly validation: Dataset<CaptionedPicture>;
  /** For `Prepared.data`. */
  readonly digests: Readonly<Record<string, string>>;
}

/** Opens both splits. Throws a `UserError` naming what is missing or malformed. */
export async function openPictures(
  { data, splits }: PictureConfig,
  { log }: TrainingHooks,
  options: { readonly statements?: boolean } = {},
): Promise<PictureSplits> {
  const train = await openData(data, splits.train).captions({ ...options, onNotice: log });
  const validation = await openData(data, splits.validation)
    .captions({ onNotice: log })
    .catch((error: unknown) => {
      if (!(error instanceof UserError)) throw error;
      throw new UserError(
        `${error.message}; a training watches pictures that it does not learn: splits.validation names the split`,
        { cause: error },
      );
    });
  return {
    train,
    validation,
    digests: {
      [`split ${splits.train}`]: await digestOf(train),
      [`split ${splits.validation}`]: await digestOf(validation),
    },
  };
}

/** Tells one content of a split from another. */
async function digestOf(pictures: Dataset<CaptionedPicture>): Promise<string> {
  const hash = createHash("sha256");
  for await (const { id, image, captions, statements = [] } of samplesOf(pictures))
    hash.update(JSON.stringify([id, await stampOf(image), captions, statements]));
  return hash.digest("hex").slice(0, 16);
}

/** Tells one frozen encoder, or its preparation of pictures, from another. Throws a `UserError` if these two do not fit. */
export function encoderDigest(vision: FrozenVision): Promise<string> {
  const { size, values } = frozenPreprocessing(vision);
  // The last norm is the bridge's, which is trained.
  const isFrozen = (name: string): boolean => !name.includes("post_layernorm");
  return modelDigest([vision.config, size ?? null, values.map((table) => [...table])], vision.file, isFrozen);
}

/** Image features of both splits, as far as their pictures can be read. */
export async function openSplitFeatures(
  device: Device,
  config: FeatureConfig,
  vision: FrozenVision,
  { train, validation }: PictureSplits,
  hooks: TrainingHooks,
): Promise<{ readonly train: FeatureSet; readonly validation: FeatureSet; close(): Promise<void> }> {
  const { brokenPictures } = config;
  const folder = config.features ?? join(config.data, "features");
  const options = { ...hooks, folder, brokenPictures };
  const encoder = frozenEncoder(vision, device);
  const trained = await openFeatures(encoder, train, options);
  try {
    const watched = await openFeatures(encoder, validation, options);
    const close = async (): Promise<void> => {
      await trained.close();
      await watched.close();
    };
    return { train: trained, validation: watched, close };
  } catch (error) {
    await trained.close();
    throw error;
  }
}

/**
 * Decodes all pictures into the cache, for recipes that keep them there. Those that cannot be read are named, and left out; throws a
 * `UserError` if they are more than the share that may be.
 */
export async function checkPictures(
  pictures: Dataset<CaptionedPicture>,
  cache: PictureCache,
  { brokenPictures }: Pick<PictureConfig, "brokenPictures">,
  { signal, onProgress, log }: TrainingHooks,
): Promise<Dataset<CaptionedPicture>> {
  const kept: number[] = [];
  const broken: string[] = [];
  for (let from = 0; from < pictures.length; from += decodedAtOnce) {
    stopIf(signal, "stopped while pictures were decoded");
    const part = await sliceOf(pictures, from, from + decodedAtOnce);
    const found = await Promise.allSettled(part.map(({ image, name }) => cache.get(image, name)));
    for (const [i, result] of found.entries()) {
      if (result.status === "fulfilled") kept.push(from + i);
      else if (result.reason instanceof UserError) broken.push(part[i]!.name);
      else throw result.reason;
    }
    onProgress?.({ step: from + part.length, total: pictures.length, detail: "pictures" });
  }
  refuseBroken(broken, pictures.length, brokenPictures);
  if (broken.length === 0) return pictures;
  log?.(
    `${broken.length} of ${pictures.length} pictures cannot be read and are left out: ${listedNames(broken)}`,
  );
  return samplesAt(pictures, kept);
}

/**
 * Throws a `UserError` where pairs are told from each other by comparing them within a part of a batch, and a part is too small for
 * that, or larger than the data, so that a picture would be its own wrong example.
 */
export function checkContrast(
  { batchSize, accumulate }: { readonly batchSize: number; readonly accumulate: number },
  pictures: number,
): void {
  const size = batchSize / accumulate;
  const told = accumulate === 1 ? `batchSize is ${size}` : `batchSize / accumulate is ${size}`;
  if (size < 2)
    throw new UserError(
      `${told}: at least 2 is required, because pictures are compared with each other's texts`,
    );
  if (size > pictures)
    throw new UserError(
      `${told}, the data have ${pictures} pictures: at most these are required, or a picture would be compared with itself`,
    );
}

/** For `superRefine`: sizes that must divide each other, by their keys. */
export function mustDivide(
  context: z.RefinementCtx,
  path: readonly string[],
  [whole, wholeKey]: readonly [number, string],
  [part, partKey]: readonly [number, string],
): void {
  if (whole % part === 0) return;
  context.addIssue({
    code: "custom",
    path: [...path, wholeKey],
    message: `${whole} is not a multiple of ${partKey}, which is ${part}`,
  });
}
