/**
 * Retrieval both ways (paper section 4.4): everything ranked by the contrastive similarity, and the best of each list
 * ranked again by the matching head, whose logit and the similarity are added, as the reference does.
 */
import { join } from "node:path";
import { readModelFolder } from "../checkpoints/model-folder.js";
import { firstOf, sliceOf } from "../data/dataset.js";
import { openData } from "../data/open-data.js";
import { input } from "../engine/index.js";
import { openDevice } from "../engine/node.js";
import { float32Tensor } from "../host-tensor.js";
import { retrievalConfig } from "../models/blip-2-retrieval.js";
import type { Precision } from "../loading/precision.js";
import { maxOverQueries } from "../objectives/contrastive.js";
import { Blip2Retriever } from "../retrieval/blip-2-retriever.js";
import type { EncodedImage } from "../retrieval/encoded-image.js";
import type { EvaluationOptions } from "./options.js";

export interface RetrievalEvaluation extends EvaluationOptions {
  readonly split: string;
  /** Captions of each picture that take part, from its first; all if absent. */
  readonly captions?: number | undefined;
  /** So many of the best are ranked again by the matching head; without it only the similarity ranks. */
  readonly rerank?: number | undefined;
  readonly precision?: Precision | undefined;
}

const depths = [1, 5, 10] as const;

/** The reference cuts texts at so many tokens when it retrieves. */
const maxTextLength = 35;

const picturesAtOnce = 64;
const textsAtOnce = 256;
const pairsAtOnce = 256;

/**
 * Shares of pictures for which a right text, and of texts for which a right picture, is among the first 1, 5 and 10, under
 * `itc image to text recall@1` and so on, and with `rerank` under `itm ...` too. A text is right for every picture
 * that it is a caption of.
 */
export async function evaluateRetrieval(options: RetrievalEvaluation): Promise<Record<string, number>> {
  const { model, data, split, limit, captions, rerank, precision, threads, signal, onProgress } = options;
  const set = firstOf(await openData(data, split).captions(), limit);
  const pictures = (await sliceOf(set, 0, set.length)).map(({ image, captions: all }) => ({
    image,
    captions: all.slice(0, captions),
  }));
  const texts = pictures.flatMap((picture) => picture.captions);
  const { qformer_config: qformer } = retrievalConfig(
    (await readModelFolder(model)).config,
    join(model, "config.json"),
  );
  await using retriever = await Blip2Retriever.load(model, {
    precision,
    threads,
    signal,
    maxTextLength: Math.min(maxTextLength, qformer.max_position_embeddings),
  });

  const images: EncodedImage[] = [];
  for (const part of parts(pictures, picturesAtOnce)) {
    images.push(
      ...(await retriever.encodeImages(
        part.map(({ image }) => image),
        { signal },
      )),
    );
    onProgress?.({ step: images.length, total: pictures.length, detail: "pictures" });
  }
  const textRows: Float32Array[] = [];
  for (const part of parts(texts, textsAtOnce)) {
    textRows.push(...(await retriever.embedTexts(part, { signal })));
    onProgress?.({ step: textRows.length, total: texts.length, detail: "texts" });
  }
  const similarity = await similarities(images, textRows, options);

  const places = pictures.map((_, picture) => picture);
  const textPlaces = texts.map((_, text) => text);
  const deepest = Math.max(rerank ?? 0, ...depths);
  const ranked = {
    imageToText: places.map((picture) => best(textPlaces, (text) => similarity(picture, text), deepest)),
    textToImage: textPlaces.map((text) => best(places, (picture) => similarity(picture, text), deepest)),
  };
  const captionsOf = pictures.map((picture) => new Set(picture.captions));
  const isRight = (picture: number, text: number): boolean => captionsOf[picture]!.has(texts[text]!);
  const measured = {
    images: pictures.length,
    texts: texts.length,
    ...recalls("itc", ranked, isRight),
  };
  if (rerank === undefined) return measured;

  const logits = await matchingLogits(retriever, images, texts, chosenPairs(ranked, rerank), options);
  const score = (picture: number, text: number): number =>
    logits.get(pairKey(picture, text))! + similarity(picture, text);
  const again = {
    imageToText: ranked.imageToText.map((list, picture) =>
      reranked(list, rerank, (text) => score(picture, text)),
    ),
    textToImage: ranked.textToImage.map((list, text) =>
      reranked(list, rerank, (picture) => score(picture, text)),
    ),
  };
  return { ...measured, rerank, ...recalls("itm", again, isRight) };
}

/** The matching head's logit of every chosen pair. A picture's pairs are neighbours, so that they share its keys and values. */
async function matchingLogits(
  retriever: Blip2Retriever,
  images: readonly EncodedImage[],
  texts: readonly string[],
  pairs: readonly Pair[],
  { signal, onProgress }: RetrievalEvaluation,
): Promise<ReadonlyMap<string, number>> {
  const logits = new Map<string, number>();
  for (const part of parts(pairs, pairsAtOnce)) {
    const found = await retriever.matchEncoded(
      part.map(([picture, text]) => ({ image: images[picture]!, text: texts[text]! })),
      { signal },
    );
    part.forEach(([picture, text], i) => logits.set(pairKey(picture, text), found[i]!.itmLogit));
    onProgress?.({ step: logits.size, total: pairs.length, detail: "pairs" });
  }
  return logits;
}

type Pair = readonly [picture: number, text: number];
const pairKey = (picture: number, text: number): string => `${picture} ${text}`;

/** For each picture its best texts, and for each text its best pictures, the best first. */
interface Ranked {
  readonly imageToText: readonly (readonly number[])[];
  readonly textToImage: readonly (readonly number[])[];
}

/** The first `count` of all lists as pairs, each once, by picture: what both directions chose is matched once. */
function chosenPairs({ imageToText, textToImage }: Ranked, count: number): Pair[] {
  const chosen = imageToText.map((texts) => new Set(texts.slice(0, count)));
  for (const [text, pictures] of textToImage.entries())
    for (const picture of pictures.slice(0, count)) chosen[picture]!.add(text);
  return chosen.flatMap((texts, picture) => [...texts].map((text): Pair => [picture, text]));
}

/** The candidates with the highest scores, the best first; of equals the earlier one first. */
function best(candidates: readonly number[], score: (candidate: number) => number, count: number): number[] {
  const top: number[] = [];
  for (const candidate of candidates) {
    const value = score(candidate);
    if (top.length === count && value <= score(top.at(-1)!)) continue;
    const place = top.findIndex((other) => value > score(other));
    top.splice(place < 0 ? top.length : place, 0, candidate);
    if (top.length > count) top.pop();
  }
  return top;
}

/** The first `count` in their new order, then the others as they were. */
function reranked(list: readonly number[], count: number, score: (candidate: number) => number): number[] {
  const chosen = list.slice(0, count);
  return [...best(chosen, score, chosen.length), ...list.slice(count)];
}

function recalls(
  measure: string,
  { imageToText, textToImage }: Ranked,
  isRight: (picture: number, text: number) => boolean,
): Record<string, number> {
  const recall = (
    lists: Ranked["imageToText"],
    depth: number,
    fits: (place: number, candidate: number) => boolean,
  ): number =>
    lists.filter((list, place) => list.slice(0, depth).some((candidate) => fits(place, candidate))).length /
    lists.length;
  return Object.fromEntries([
    ...depths.map((depth) => [
      `${measure} image to text recall@${depth}`,
      recall(imageToText, depth, isRight),
    ]),
    ...depths.map((depth) => [
      `${measure} text to image recall@${depth}`,
      recall(textToImage, depth, (text, picture) => isRight(picture, text)),
    ]),
  ]);
}

/** The best cosine over a picture's queries with a text, for all pairs. */
async function similarities(
  images: readonly EncodedImage[],
  texts: readonly Float32Array[],
  { threads, signal }: RetrievalEvaluation,
): Promise<(picture: number, text: number) => number> {
  const width = texts[0]!.length;
  const queries = images[0]!.embedding.length / width;
  await using device = openDevice({ threads });
  const program = await device.compile({
    similarity: maxOverQueries(
      input("texts", "float32", ["N", width]),
      input("images", "float32", ["M", queries, width]),
    ),
  });
  const values = new Float32Array(texts.length * images.length);
  const imageRows = joined(images.map(({ embedding }) => embedding));
  for (let from = 0; from < texts.length; from += textsAtOnce) {
    const part = texts.slice(from, from + textsAtOnce);
    const { similarity } = await program.run(
      {
        texts: float32Tensor(joined(part), [part.length, width]),
        images: float32Tensor(imageRows, [images.length, queries, width]),
      },
      { signal },
    );
    values.set(similarity!.data as Float32Array, from * images.length);
  }
  return (picture, text) => values[text * images.length + picture]!;
}

function joined(rows: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(rows.length * rows[0]!.length);
  rows.forEach((row, i) => all.set(row, i * row.length));
  return all;
}

function* parts<T>(items: readonly T[], size: number): Generator<readonly T[]> {
  for (let from = 0; from < items.length; from += size) yield items.slice(from, from + size);
}
