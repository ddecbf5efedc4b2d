/** Captioning a split of a scenes folder, and judging the captions. */
import { readCaptionSet } from "../data/caption-set.js";
import { readScenes, readWorld } from "../data/scenes/read.js";
import { UserError } from "../errors.js";
import type { TrainingHooks } from "../training/trainer.js";
import { descriptionsOf, type Given } from "./given.js";
import { captionQuality, type CaptionedScene, type CaptionQuality } from "./caption-quality.js";

/** What writes captions: `Blip2`, or a test's stand-in. */
export interface Captioner {
  generateBatch(options: {
    readonly images: readonly string[];
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
    image: string,
    texts: readonly string[],
    options: { readonly signal?: AbortSignal | undefined },
  ): Promise<readonly { readonly index: number }[]>;
}

export interface CaptionEvaluation extends Pick<TrainingHooks, "signal" | "onProgress"> {
  /** A folder made by `blip2 scenes`. */
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
  /** Whether everything in it is right. */
  readonly exact: boolean;
}

const picturesAtOnce = 16;

export async function evaluateCaptions(
  model: Captioner,
  evaluation: CaptionEvaluation,
): Promise<{ readonly quality: CaptionQuality; readonly predictions: readonly CaptionPrediction[] }> {
  const { data, split, limit, prompt, beams, ranking, given = "picture", signal, onProgress } = evaluation;
  if (ranking !== undefined && given !== "picture") {
    throw new UserError(`captions given ${given} cannot be ranked by how near they are to a picture`);
  }
  const { held_out: heldOut = [] } = await readWorld(data);
  const scenes = await readScenes(data, split);
  const pictures = (await readCaptionSet(data, split)).slice(0, limit);
  const descriptions =
    given === "description" &&
    (await descriptionsOf(
      pictures.map(({ id }) => id),
      data,
      split,
    ));
  const judged: CaptionedScene[] = [];
  const predictions: CaptionPrediction[] = [];
  for (let from = 0; from < pictures.length; from += picturesAtOnce) {
    const part = pictures.slice(from, from + picturesAtOnce);
    const images = part.map(({ file }) => file);
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
    for (const [i, { id, file, captions }] of part.entries()) {
      const scene = scenes.get(id);
      if (scene === undefined)
        throw new UserError(`${data}/scenes_${split}.json does not hold picture ${id} (${file})`);
      const written = generated[i]!.sequences ?? [generated[i]!];
      const { text: caption, logProbability } = await chosen(file, written, ranking?.ranker, signal);
      judged.push({ caption, scene });
      const exact = captionQuality([{ caption, scene }]).captionExact === 1;
      predictions.push({ image: file, caption, logProbability, references: captions, exact });
    }
    onProgress?.({ step: from + part.length, total: pictures.length, detail: "captions" });
  }
  return { quality: captionQuality(judged, heldOut), predictions };
}

async function chosen(
  image: string,
  written: readonly Written[],
  ranker: Ranker | undefined,
  signal: AbortSignal | undefined,
): Promise<Written> {
  if (ranker === undefined) return written[0]!;
  const texts = written.map(({ text }) => text);
  const [nearest] = await ranker.rankTexts(image, texts, { signal });
  return written[nearest!.index]!;
}
