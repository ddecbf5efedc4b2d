/**
 * Features of the frozen image encoder, computed once per picture and kept on disk: both stages of BLIP-2 train on them, pass after
 * pass, and retrieval ranks again with them. A store is for one encoder at one precision, one way of preparing pictures and one list of pictures as they are now: whatever changes of these, another
 * store is made.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { samplesAt, samplesOf, stampOf, type CaptionedPicture, type Dataset } from "../data/dataset.js";
import { stopIf, UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import { loadImage, type RgbImage } from "../images/load-image.js";
import { listedNames } from "../listed.js";
import { featureBytes, FeatureStore, type FeatureDims } from "../loading/feature-store.js";
import type { PictureEncoder } from "../loading/picture-encoder.js";
import type { TrainingHooks } from "./trainer.js";

/** Pictures with where their features are; places count the pictures that could be read. */
export interface FeatureSet {
  readonly pictures: Dataset<CaptionedPicture>;
  readonly dims: FeatureDims;
  /** float32 [B, P, D_img] */
  rows(places: readonly number[]): Promise<HostTensor>;
  close(): Promise<void>;
}

export interface FeatureOptions extends TrainingHooks {
  /** Where stores are kept, each in a folder of its own. */
  readonly folder: string;
  /** The largest share of pictures that may be broken; they are named, and left out. */
  readonly brokenPictures: number;
}

const picturesAtOnce = 64;
/** Of so many broken pictures it is said what is wrong with them. */
const mostTold = 20;

/**
 * Opens the store of these pictures, or makes it, going on where an earlier try stopped. Throws a `UserError` that names the pictures which
 * cannot be read if they are more than the share that may be.
 */
export async function openFeatures(
  encoder: PictureEncoder,
  pictures: Dataset<CaptionedPicture>,
  options: FeatureOptions,
): Promise<FeatureSet> {
  const folder = join(options.folder, await keyOf(encoder, pictures));
  const store = (await FeatureStore.find(folder)) ?? (await fill(folder, encoder, pictures, options));
  const { broken } = store;
  let names: readonly string[];
  try {
    names = await Promise.all(broken.map(async (place) => (await pictures.at(place)).name));
    refuseBroken(names, pictures.length, options.brokenPictures);
  } catch (error) {
    await store.close();
    throw error;
  }
  if (broken.length === 0)
    return { pictures, dims: store.dims, rows: (places) => store.rows(places), close: () => store.close() };
  options.log?.(
    `${broken.length} of ${pictures.length} pictures cannot be read and are left out: ${listedNames(names)}`,
  );
  const lost = new Set(broken);
  const kept = Array.from({ length: pictures.length }, (_, place) => place).filter(
    (place) => !lost.has(place),
  );
  return {
    pictures: samplesAt(pictures, kept),
    dims: [kept.length, store.dims[1], store.dims[2]],
    rows: (places) => store.rows(places.map((place) => kept[place]!)),
    close: () => store.close(),
  };
}

/** Throws a `UserError` that names the broken pictures if they are all, or more than the share that may be. */
export function refuseBroken(broken: readonly string[], count: number, allowed: number): void {
  if (broken.length === 0 || (broken.length < count && broken.length / count <= allowed)) return;
  throw new UserError(
    `${broken.length} of ${count} pictures cannot be read, more than the share of ${allowed} that brokenPictures ` +
      `allows: ${listedNames(broken)}; mend or remove them, or allow more`,
  );
}

/** Names the store: a digest of all that its numbers follow from. */
async function keyOf(encoder: PictureEncoder, pictures: Dataset<CaptionedPicture>): Promise<string> {
  const { size, values } = encoder.preprocessing;
  const hash = createHash("sha256")
    .update(await encoder.digest())
    .update(JSON.stringify(size ?? null));
  for (const table of values) hash.update(new Uint8Array(table.buffer, table.byteOffset, table.byteLength));
  for await (const { id, image } of samplesOf(pictures))
    hash.update(JSON.stringify([id, await stampOf(image)]));
  return hash.digest("hex").slice(0, 32);
}

async function fill(
  folder: string,
  encoder: PictureEncoder,
  pictures: Dataset<CaptionedPicture>,
  { signal, onProgress, log }: FeatureOptions,
): Promise<FeatureStore> {
  const { positions, width, side } = encoder;
  const size = positions * width;
  const dims: FeatureDims = [pictures.length, positions, width];
  /** What could not be read in the batch under way. */
  const broken = new Set<number>();
  let told = 0;
  const load = async (place: number): Promise<RgbImage> => {
    const { image, name } = await pictures.at(place);
    const loaded = await loadImage(image, { signal }).catch((error: unknown) => {
      if (!(error instanceof UserError)) throw error;
      told += 1;
      if (told <= mostTold) log?.(error.message.includes(name) ? error.message : `${name}: ${error.message}`);
      if (told === mostTold) log?.("what is wrong with further pictures is not told");
      broken.add(place);
      return { width: side, height: side, data: new Uint8Array(side * side * 3) };
    });
    if (encoder.preprocessing.size === undefined && (loaded.width !== side || loaded.height !== side)) {
      throw new UserError(
        `${name}: is ${loaded.width} x ${loaded.height}, ${side} x ${side} is required where do_resize is false (${encoder.path}/preprocessor_config.json)`,
      );
    }
    return loaded;
  };
  const opened = await encoder.open(load);
  log?.(
    `image features of ${pictures.length} pictures: ${dims[1]} x ${dims[2]} each, ${(featureBytes(dims) / 1e6).toFixed(1)} MB in ${folder}`,
  );
  try {
    return await FeatureStore.make(
      folder,
      {
        dims,
        nameOf: async (place) => (await pictures.at(place)).name,
        compute: async (from, to) => {
          stopIf(signal, "stopped while image features were computed");
          broken.clear();
          const places = Array.from({ length: to - from }, (_, i) => from + i);
          const values = (await opened.features(places, signal)).data as Float32Array;
          const odd = places.find((place, i) => !broken.has(place) && Number.isNaN(values[i * size]));
          if (odd !== undefined)
            throw new UserError(
              `${encoder.path}: the image encoder gives what is not a number for ${(await pictures.at(odd)).name}; look at its weights`,
            );
          // Rows that are no numbers say which pictures could not be read, also to who goes on with this store later.
          for (const place of broken) values.fill(NaN, (place - from) * size, (place - from + 1) * size);
          return values;
        },
      },
      {
        atOnce: picturesAtOnce,
        onPictures: (step) => onProgress?.({ step, total: pictures.length, detail: "image features" }),
      },
    );
  } finally {
    await opened.release();
  }
}
