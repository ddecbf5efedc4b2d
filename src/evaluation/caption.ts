/** Captioning a split of a data set, and judging the captions: by the exact scenes where the folder has them. */
import { firstOf, sliceOf } from "../data/dataset.js";
import { openData } from "../data/open-data.js";
import { findWorld, readScenes } from "../data/scenes/read.js";
import { UserError } from "../errors.js";
import type { ImageSource } from "../images/load-image.js";
import type { TrainingHooks } from "../training/trainer.js";
import { descriptionsOf, type Given } from "./given.js";
import { captionQuality, type CaptionedScene, type CaptionQuality } from "./caption-quality.js";

/** What writes captions: `Blip2`, or a test's stand-in. */
export interface Captioner {
  generateBatch(options: {
    readonly images: readonly ImageSource[];
    readonly prompt?: string | undefined;
    readonly numBeams?: number | undefined;
    readonly numReturnSequences?: number | undefined;
    readonly signal?: AbortSignal | undefined;
  }): Promise<readonly Candidates[]>;
  generateWithoutPicture(options: {
    readonly prompts: readonly string[];
    readonly descriptions?: readonly string[] | undefined;
    readonly numBeams?: number | undefined;
    readonly signal?: AbortSignal | undefined;
  }): Promise<readonly Written[]>;
}

interface Written {
  readonly text: string;
  readonly logProbability: number;
}

/** A caption, with the others that were found, the likeliest first. */
type Candidates = Written & { readonly sequences?: readonly Written[] };

/** What chooses among captions: `Blip2Retriever`, or a test's stand-in. */
export interface Ranker {
  /** The nearest first. */
  rankTexts(
    image: ImageSource,
    texts: readonly string[],
    options: { readonly signal?: AbortSignal | undefined },
  ): Promise<readonly { readonly index: number }[]>;
}

export interface CaptionEvaluation extends Pick<TrainingHooks, "signal" | "onProgress"> {
  /** A place that `openData` knows. */
  readonly data: string;
  readonly split: string;
  /** Only the first pictures of the split. */
  readonly limit?: number | undefined;
  /** Words that every caption goes on from, and that are not judged. Default: none. */
  readonly prompt?: string | undefined;
  /** Of the search; with `ranking` not below its candidates. */
  readonly beams?: number | undefined;
  /** Of so many captions the one that is nearest to the picture counts. */
  readonly ranking?: { readonly ranker: Ranker; readonly candidates: number } | undefined;
  /** What the caption is of. Default: the picture. Without it nothing is ranked. */
  readonly given?: Given | undefined;
}

/** A picture with what the model said. */
export interface CaptionPrediction {
  readonly image: string;
  readonly caption: string;
  readonly logProbability: number;
  readonly references: readonly string[];
  /** Whether everything in it is right, as far as that is known: by the scene, else by being one of the references. */
  readonly exact: boolean;
}

/** What can be said of captions without knowing what is in the pictures. */
export interface ReferenceQuality {
  readonly images: number;
  /** Captions that are one of the references, word for word. */
  readonly referenceExact: number;
}

const picturesAtOnce = 16;

export async function evaluateCaptions(
  model: Captioner,
  evaluation: CaptionEvaluation,
): Promise<{
  readonly quality: CaptionQuality | ReferenceQuality;
  readonly predictions: readonly CaptionPrediction[];
}> {
  const { data, split, limit, prompt, beams, ranking, given = "picture", signal, onProgress } = evaluation;
  if (ranking !== undefined && given !== "picture") {
    throw new UserError(`captions given ${given} cannot be ranked by how near they are to a picture`);
  }
  const world = await findWorld(data);
  const scenes = world && (await readScenes(data, split));
  const pictures = firstOf(await openData(data, split).captions(), limit);
  const descriptions =
    given === "description" &&
    (await descriptionsOf(
      (await sliceOf(pictures, 0, pictures.length)).map(({ id }) => id),
      data,
      split,
    ));
  const judged: CaptionedScene[] = [];
  const predictions: CaptionPrediction[] = [];
  for (let from = 0; from < pictures.length; from += picturesAtOnce) {
    const part = await sliceOf(pictures, from, from + picturesAtOnce);
    const images = part.map(({ image }) => image);
    const width = beams ?? ranking?.candidates;
    const search = {
      ...(width !== undefined && { numBeams: width }),
      ...(signal !== undefined && { signal }),
    };
    const generated: readonly Candidates[] =
      given === "picture"
        ? await model.generateBatch({
            images,
            ...(prompt !== undefined && { prompt }),
            ...search,
            ...(ranking !== undefined && { numReturnSequences: ranking.candidates }),
          })
        : await model.generateWithoutPicture({
            prompts: part.map(() => prompt ?? ""),
            ...(descriptions && { descriptions: part.map(({ id }) => descriptions.get(id)!) }),
            ...search,
          });
    for (const [i, { id, image, name, captions: references }] of part.entries()) {
      const written = generated[i]!.sequences ?? [generated[i]!];
      const { text: caption, logProbability } = await chosen(image, written, ranking?.ranker, signal);
      const prediction = { image: name, caption, logProbability, references };
      if (scenes === undefined) {
        predictions.push({ ...prediction, exact: references.some((text) => text.trim() === caption) });
        continue;
      }
      const scene = scenes.get(id as number);
      if (scene === undefined)
        throw new UserError(`${data}/scenes_${split}.json does not hold picture ${id} (${name})`);
      judged.push({ caption, scene });
      const exact = captionQuality([{ caption, scene }]).captionExact === 1;
      predictions.push({ ...prediction, exact });
    }
    onProgress?.({ step: from + part.length, total: pictures.length, detail: "captions" });
  }
  if (world !== undefined) return { quality: captionQuality(judged, world.held_out), predictions };
  const right = predictions.filter(({ exact }) => exact).length;
  return { quality: { images: predictions.length, referenceExact: right / predictions.length }, predictions };
}

async function chosen(
  image: ImageSource,
  written: readonly Written[],
  ranker: Ranker | undefined,
  signal: AbortSignal | undefined,
): Promise<Written> {
  if (ranker === undefined) return written[0]!;
  const texts = written.map(({ text }) => text);
  const [nearest] = await ranker.rankTexts(image, texts, { signal });
  return written[nearest!.index]!;
}
