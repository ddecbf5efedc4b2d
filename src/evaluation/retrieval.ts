/**
 * Retrieval both ways (paper section 4.4): everything ranked by the contrastive similarity, and the best of each list
 * ranked again by the matching head, whose logit and the similarity are added, as the reference does. Embeddings are held in
 * memory; the features that the matching head looks at lie on disk.
 */
import { join } from "node:path";
import { readModelFolder } from "../checkpoints/model-folder.js";
import { firstOf, sliceOf } from "../data/dataset.js";
import { openData } from "../data/open-data.js";
import { input } from "../engine/index.js";
import { openDevice } from "../engine/node.js";
import { float32Tensor } from "../host-tensor.js";
import type { Precision } from "../loading/precision.js";
import { bestOf, rankOf, recallAt } from "../metrics/recall.js";
import { retrievalConfig } from "../models/blip-2-retrieval.js";
import { maxOverQueries } from "../objectives/contrastive.js";
import { Blip2Retriever } from "../retrieval/blip-2-retriever.js";
import { chunks } from "../retrieval/chunks.js";
import { openFeatures, type FeatureSet } from "../training/image-features.js";
import type { EvaluationOptions } from "./options.js";

export interface RetrievalEvaluation extends EvaluationOptions {
  readonly split: string;
  /** Captions of each picture that take part, from its first; all if absent. */
  readonly captions?: number | undefined;
  /** So many of the best are ranked again by the matching head; without it only the similarity ranks. */
  readonly rerank?: number | undefined;
  /** Where image features are kept for ranking again. Default: `features` in the folder of the data. */
  readonly features?: string | undefined;
  readonly precision?: Precision | undefined;
}

const depths = [1, 5, 10] as const;

/** The reference cuts texts at so many tokens when it retrieves. */
const maxTextLength = 35;

const picturesAtOnce = 8;
const textsAtOnce = 256;
const pairsAtOnce = 32;

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
  const places = pictures.map((_, picture) => picture);
  const stores = { ...options, folder: options.features ?? join(data, "features"), brokenPictures: 0 };
  const features = rerank === undefined ? undefined : await openFeatures(retriever.encoder, set, stores);
  try {
    const imageRows: Float32Array[] = [];
    for (const part of chunks(places, picturesAtOnce)) {
      const images = part.map((place) => pictures[place]!.image);
      const rows = features
        ? await retriever.embedFeatures(await features.rows(part), signal)
        : await retriever.embedImages(images, { signal });
      imageRows.push(...rows);
      onProgress?.({ step: imageRows.length, total: pictures.length, detail: "pictures" });
    }
    const textRows: Float32Array[] = [];
    for (const part of chunks(texts, textsAtOnce)) {
      textRows.push(...(await retriever.embedTexts(part, { signal })));
      onProgress?.({ step: textRows.length, total: texts.length, detail: "texts" });
    }
    const similarity = await similarities(imageRows, textRows, options);
    const captionsOf = pictures.map((picture) => new Set(picture.captions));
    const isRight = (picture: number, text: number): boolean => captionsOf[picture]!.has(texts[text]!);
    const imageToText = places.map((picture): Query => ({
      count: texts.length,
      score: (text) => similarity(picture, text),
      isRight: (text) => isRight(picture, text),
    }));
    const textToImage = texts.map((_, text): Query => ({
      count: pictures.length,
      score: (picture) => similarity(picture, text),
      isRight: (picture) => isRight(picture, text),
    }));
    const ranks = (queries: readonly Query[]): number[] =>
      queries.map(({ count, score, isRight: fits }) => rankOf(count, score, fits));
    const measured = {
      images: pictures.length,
      texts: texts.length,
      ...recalls("itc", ranks(imageToText), ranks(textToImage)),
    };
    if (features === undefined) return measured;

    const best = (queries: readonly Query[]): number[][] =>
      queries.map(({ count, score, isRight: fits }) => bestOf(count, score, fits, rerank!));
    const chosen = { imageToText: best(imageToText), textToImage: best(textToImage) };
    const logits = await matchingLogits(retriever, features, texts, chosenPairs(chosen), options);
    const score = (picture: number, text: number): number =>
      logits.get(pairKey(picture, text))! + similarity(picture, text);
    const again = {
      imageToText: imageToText.map((query, picture) =>
        rankAgain(query, chosen.imageToText[picture]!, (text) => score(picture, text)),
      ),
      textToImage: textToImage.map((query, text) =>
        rankAgain(query, chosen.textToImage[text]!, (picture) => score(picture, text)),
      ),
    };
    return { ...measured, rerank: rerank!, ...recalls("itm", again.imageToText, again.textToImage) };
  } finally {
    await features?.close();
  }
}

/** Candidates of one picture or one text. */
interface Query {
  readonly count: number;
  readonly score: (candidate: number) => number;
  readonly isRight: (candidate: number) => boolean;
}

/**
 * The matching head's logit of every chosen pair. A picture's pairs are neighbours, so that they share its keys and values, and its
 * features are read once or twice.
 */
async function matchingLogits(
  retriever: Blip2Retriever,
  features: FeatureSet,
  texts: readonly string[],
  pairs: readonly Pair[],
  { signal, onProgress }: RetrievalEvaluation,
): Promise<ReadonlyMap<string, number>> {
  const logits = new Map<string, number>();
  for (const part of chunks(pairs, pairsAtOnce)) {
    const pictures = [...new Set(part.map(([picture]) => picture))];
    const found = await retriever.matchFeatures(
      await features.rows(pictures),
      part.map(([picture]) => pictures.indexOf(picture)),
      part.map(([, text]) => texts[text]!),
      signal,
    );
    part.forEach(([picture, text], i) => logits.set(pairKey(picture, text), found[i]!.itmLogit));
    onProgress?.({ step: logits.size, total: pairs.length, detail: "pairs" });
  }
  return logits;
}

type Pair = readonly [picture: number, text: number];
const pairKey = (picture: number, text: number): string => `${picture} ${text}`;

/** For each picture its best texts, and for each text its best pictures. */
interface Chosen {
  readonly imageToText: readonly (readonly number[])[];
  readonly textToImage: readonly (readonly number[])[];
}

/** All of them as pairs, each once, by picture: what both directions chose is matched once. */
function chosenPairs({ imageToText, textToImage }: Chosen): Pair[] {
  const chosen = imageToText.map((texts) => new Set(texts));
  for (const [text, pictures] of textToImage.entries())
    for (const picture of pictures) chosen[picture]!.add(text);
  return chosen.flatMap((texts, picture) => [...texts].map((text): Pair => [picture, text]));
}

/** As `rankOf`, where the chosen candidates have a new score, and all others stand behind them with their old one. */
function rankAgain(
  { count, score, isRight }: Query,
  chosen: readonly number[],
  newScore: (candidate: number) => number,
): number {
  const among = (candidates: readonly number[], scoreOf: (candidate: number) => number): number =>
    rankOf(
      candidates.length,
      (place) => scoreOf(candidates[place]!),
      (place) => isRight(candidates[place]!),
    );
  const rank = among(chosen, newScore);
  if (rank < Infinity) return rank;
  const first = new Set(chosen);
  const others = Array.from({ length: count }, (_, candidate) => candidate).filter(
    (candidate) => !first.has(candidate),
  );
  return chosen.length + among(others, score);
}

function recalls(
  measure: string,
  imageToText: readonly number[],
  textToImage: readonly number[],
): Record<string, number> {
  const named = (direction: string, ranks: readonly number[]): (readonly [string, number])[] =>
    depths.map((depth) => [`${measure} ${direction} recall@${depth}`, recallAt(ranks, depth)]);
  return Object.fromEntries([...named("image to text", imageToText), ...named("text to image", textToImage)]);
}

/** The best cosine over a picture's queries with a text, for all pairs. */
async function similarities(
  images: readonly Float32Array[],
  texts: readonly Float32Array[],
  { threads, signal }: RetrievalEvaluation,
): Promise<(picture: number, text: number) => number> {
  const width = texts[0]!.length;
  const queries = images[0]!.length / width;
  await using device = openDevice({ threads });
  const program = await device.compile({
    similarity: maxOverQueries(
      input("texts", "float32", ["N", width]),
      input("images", "float32", ["M", queries, width]),
    ),
  });
  const values = new Float32Array(texts.length * images.length);
  const imageRows = joined(images);
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
