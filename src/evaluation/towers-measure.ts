/** Text retrieval of two towers, with the weights as they stand in a device's slots. */
import { sliceOf, type CaptionedPicture, type Dataset } from "../data/dataset.js";
import type { PictureCache } from "../data/picture-cache.js";
import { input, type Device, type HostTensors, type Program } from "../engine/index.js";
import { stopIf } from "../errors.js";
import { int64Tensor, type HostTensor } from "../host-tensor.js";
import { preprocess, type PreprocessConfig } from "../images/preprocess.js";
import { rankOf, recallAt } from "../metrics/recall.js";
import { textInputs, type ContrastiveTowers } from "../models/contrastive-towers.js";
import type { Blip2VisionConfig } from "../models/vision/blip-2-vision.js";
import type { Parameters } from "../nn/parameters.js";
import type { TextTokenizer } from "../text/tokenizer.js";
import { weightSlots, type TrainingHooks } from "../training/trainer.js";
import { newlineId } from "./answers/sequence-writer.js";

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

type RetrievalMeasure = (
  pictures: Dataset<CaptionedPicture>,
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
      stopIf(signal);
      const pool = await sliceOf(pictures, from, from + poolSize);
      const imageRows = await embedInParts(images, pool, async (part) => ({
        pixel_values: preprocess(
          await Promise.all(part.map(({ image, name }) => cache.get(image, name))),
          preprocessing,
        ),
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
  const ranks = from.map((row, place) =>
    rankOf(
      to.length,
      (candidate) => dot(row, to[candidate]!),
      (candidate) => candidate === place,
    ),
  );
  return recallAt(ranks, 1);
}
