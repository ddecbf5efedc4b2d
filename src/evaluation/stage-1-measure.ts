/** What stage 1 is measured by, with the weights as they stand in a device's slots: while it trains, and of a folder that it wrote. */
import { sliceOf, type CaptionedPicture, type Dataset } from "../data/dataset.js";
import { input, ops, type Device, type HostTensors } from "../engine/index.js";
import { rankOf, recallAt } from "../metrics/recall.js";
import type { FirstStage } from "../models/blip-2-bridge.js";
import type { Parameters } from "../nn/parameters.js";
import { maxOverQueries } from "../objectives/contrastive.js";
import type { TextTokenizer } from "../text/tokenizer.js";
import { storedPictures, type StoredFeatures } from "../training/picture-side.js";
import { weightSlots, type TrainingHooks } from "../training/trainer.js";

export interface Stage1Measured {
  readonly device: Device;
  readonly model: FirstStage;
  readonly parameters: Parameters;
  readonly tokenizer: TextTokenizer;
  /** Stands before the names of the measures: the split that is looked at. */
  readonly split: string;
  readonly pictures: Dataset<CaptionedPicture>;
  /** Of these pictures. */
  readonly features: StoredFeatures;
  /** Texts are cut to so many tokens. */
  readonly maxTextLength: number;
}

/** ids and mask, int64 [B, T]. */
export function pairedTexts(
  tokenizer: TextTokenizer,
  texts: readonly string[],
  truncate: number,
): HostTensors {
  const { inputIds, attentionMask } = tokenizer.encodeBatch(texts, { side: "right", truncate });
  return { ids: inputIds, mask: attentionMask };
}

/** Pairs that are measured, and how many run at once. */
const measuredPairs = 1000;
const pairsAtOnce = 50;

/**
 * On up to 1,000 pairs (each picture with its first caption): recall@1 of the contrastive
 * similarity both ways, and the share of right matching decisions on the true pairs, on pairs with the
 * text of another picture, and on pairs with the most similar wrong text. A caption that two pictures share
 * is right for both.
 */
export async function stage1Measure({
  device,
  model,
  parameters,
  tokenizer,
  split,
  pictures,
  features: stored,
  maxTextLength,
}: Stage1Measured): Promise<(hooks?: TrainingHooks) => Promise<Record<string, number>>> {
  const { queryCount: queries, sharedSize, matchingClasses } = model.config;
  const side = storedPictures(stored);
  const residentInputs = weightSlots(parameters);
  const ids = input("ids", "int64", ["B", "T"]);
  const mask = input("mask", "int64", ["B", "T"]);
  const image = model.branch.imageKeyValues(side.features("B"));
  const images = await device.compile(
    { rows: model.imageEmbeds(model.branch.queries("B", image).lastHiddenState) },
    { residentInputs },
  );
  const texts = await device.compile({ rows: model.textEmbeds(ids, mask) }, { residentInputs });
  const { logits } = model.matching(image, ids, mask);
  const isMatch =
    matchingClasses === 1
      ? ops.where(ops.less(0, ops.reshape(logits, ["B"])), 1, 0)
      : ops.cast(ops.argmax(logits), "float32");
  const matching = await device.compile({ matched: isMatch }, { residentInputs });
  const comparison = await device.compile({
    // [texts, images]
    similarity: maxOverQueries(
      input("text_rows", "float32", ["N", sharedSize]),
      input("image_rows", "float32", ["M", queries, sharedSize]),
    ),
  });

  return async ({ signal, onProgress } = {}) => {
    const count = Math.min(measuredPairs, pictures.length);
    const captions = (await sliceOf(pictures, 0, count)).map((picture) => picture.captions[0]!);
    const imageRows = new Float32Array(count * queries * sharedSize);
    const textRows = new Float32Array(count * sharedSize);
    for (let from = 0; from < count; from += pairsAtOnce) {
      const places = range(from, Math.min(count, from + pairsAtOnce));
      const image = await images.run(await side.feeds(places), { signal });
      onProgress?.({ step: from + places.length, total: count, detail: "pairs" });
      imageRows.set(image["rows"]!.data as Float32Array, from * queries * sharedSize);
      const asked = places.map((place) => captions[place]!);
      const text = await texts.run(pairedTexts(tokenizer, asked, maxTextLength));
      textRows.set(text["rows"]!.data as Float32Array, from * sharedSize);
    }
    const { similarity } = await comparison.run({
      text_rows: { dtype: "float32", dims: [count, sharedSize], data: textRows },
      image_rows: { dtype: "float32", dims: [count, queries, sharedSize], data: imageRows },
    });
    const score = (text: number, picture: number): number =>
      (similarity!.data as Float32Array)[text * count + picture]!;
    const all = range(0, count);
    const same = (a: number, b: number): boolean => captions[a] === captions[b];
    const ranks = (scoreOf: (place: number, candidate: number) => number): number[] =>
      all.map((place) =>
        rankOf(
          count,
          (candidate) => scoreOf(place, candidate),
          (other) => same(place, other),
        ),
      );
    const recalls = {
      [`${split} itc image to text recall@1`]: recallAt(
        ranks((picture, text) => score(text, picture)),
        1,
      ),
      [`${split} itc text to image recall@1`]: recallAt(ranks(score), 1),
    };
    // Where all captions are the same there is no wrong one to decide about.
    if (captions.every((caption) => caption === captions[0])) return recalls;

    const decide = async (textOf: (picture: number) => number, wanted: number): Promise<number> => {
      let right = 0;
      for (let from = 0; from < count; from += pairsAtOnce) {
        const places = range(from, Math.min(count, from + pairsAtOnce));
        const asked = places.map((place) => captions[textOf(place)]!);
        const feeds = { ...(await side.feeds(places)), ...pairedTexts(tokenizer, asked, maxTextLength) };
        const { matched } = await matching.run(feeds, { signal });
        right += (matched!.data as Float32Array).reduce((sum, value) => sum + Number(value === wanted), 0);
      }
      return right / count;
    };
    const hardest = all.map((picture) => {
      const wrong = all.filter((text) => !same(text, picture));
      return wrong.reduce(
        (top, text) => (score(text, picture) > score(top, picture) ? text : top),
        wrong[0]!,
      );
    });
    const other = all
      .map((picture) => all.find((step) => step > 0 && !same((picture + step) % count, picture))!)
      .map((step, picture) => (picture + step) % count);
    const onTrue = await decide((picture) => picture, 1);
    const onOther = await decide((picture) => other[picture]!, 0);
    const onHardest = await decide((picture) => hardest[picture]!, 0);
    return {
      ...recalls,
      [`${split} itm accuracy`]: (onTrue + onOther) / 2,
      [`${split} itm accuracy, hardest negatives`]: (onTrue + onHardest) / 2,
    };
  };
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
