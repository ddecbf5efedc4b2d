/** Writes the scenes world to disk in the formats that data sets of photographs use. */
import { randomBytes } from "node:crypto";
import { mkdir, readdir, rename, rm, rmdir, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { stopIf, UserError } from "../../errors.js";
import { captionScene } from "./captions.js";
import { STATEMENTS_PER_SCENE, textRecord } from "./descriptions.js";
import { jsonLinesWriter, jsonListWriter, type ListWriter } from "./json-lists.js";
import { renderScene } from "./picture.js";
import { askScene, type QuestionType } from "./questions.js";
import { Random } from "../../random.js";
import { makeScene } from "./scene.js";
import { stateScene } from "./statements.js";
import {
  BACKGROUNDS,
  COLORS,
  HELD_OUT,
  KINDS,
  PICTURE_SIZE,
  PICTURE_SPLITS,
  SIZES,
  SIZE_PIXELS,
  WORDS,
  type PictureSplit,
  type Scene,
} from "./world.js";
import {
  checkOptions,
  type CheckedOptions,
  type WriteScenesControl,
  type WriteScenesOptions,
} from "./write-options.js";

const CAPTIONS_PER_PICTURE = 3;
const QUESTIONS_PER_PICTURE = 6;
/** Voices per question in the VQAv2 format; ours all agree. */
const ANSWERS_PER_QUESTION = 10;
/** Scenes between two looks at the signal. */
const BATCH = 64;

/** How much was written, over all splits with pictures. */
export interface ScenesWritten {
  readonly images: number;
  readonly captions: number;
  readonly questions: number;
}

/**
 * Makes the folder `out` with pictures, COCO captions, VQAv2 questions, scene structures and the text corpus. The
 * folder appears when it is complete; after an error or an interruption nothing is left.
 */
export async function writeScenes(
  options: WriteScenesOptions,
  control: WriteScenesControl = {},
): Promise<ScenesWritten> {
  const checked = checkOptions(options);
  const out = resolve(checked.out);
  await refuseOccupied(out);
  throwIfStopped(control.signal);
  // Beside its final place, so that the rename stays within one file system.
  const unfinished = join(dirname(out), `.${basename(out)}.unfinished-${randomBytes(4).toString("hex")}`);
  try {
    await mkdir(unfinished, { recursive: true });
    const written = await writeAll(unfinished, checked, control);
    await refuseOccupied(out);
    // An empty folder may stand there; renaming onto it fails on Windows.
    await rmdir(out).catch(() => undefined);
    await rename(unfinished, out);
    return written;
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    throw explained(error, out);
  }
}

async function refuseOccupied(out: string): Promise<void> {
  let entries: string[];
  try {
    entries = await readdir(out);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw explained(error, out);
  }
  if (entries.length === 0) return;
  throw new UserError(
    `scenes, output folder ${out}: required a new or an empty folder, got one with ${entries.length} entries; ` +
      `choose another folder or remove this one`,
  );
}

/** File system refusals are the caller's to mend: a full disk, a read-only folder, a file in the way. */
function explained(error: unknown, out: string): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  if (!(error instanceof Error) || error instanceof UserError || code === undefined) return error;
  return new UserError(
    `scenes, output folder ${out}: required a folder that can be written, got ${code} (${error.message}); ` +
      `choose another place or free it`,
    { cause: error },
  );
}

const throwIfStopped = (signal: AbortSignal | undefined): void =>
  stopIf(signal, "scenes: stopped on request; nothing was written");

async function writeAll(
  folder: string,
  options: CheckedOptions,
  control: WriteScenesControl,
): Promise<ScenesWritten> {
  const { seed, textCount, textTestCount } = options;
  const pictures: { [S in PictureSplit]: number } = {
    train: options.count,
    validation: options.validation,
    test: options.test,
    compositional: options.compositional,
  };
  const images = PICTURE_SPLITS.reduce((sum, split) => sum + pictures[split], 0);
  const total = images + textCount + textTestCount;
  let done = 0;
  const advance = (count: number): void => {
    done += count;
    control.onProgress?.({ done, total });
  };
  const world = {
    seed,
    counts: { ...pictures, text: textCount, text_test: textTestCount },
    picture_size: PICTURE_SIZE,
    size_pixels: SIZE_PIXELS,
    format: options.format,
    kinds: KINDS,
    colors: COLORS,
    sizes: SIZES,
    backgrounds: BACKGROUNDS,
    held_out: KINDS.map((kind) => ({ color: HELD_OUT[kind], kind })),
    words: WORDS,
  };
  await writeFile(join(folder, "scenes.json"), `${JSON.stringify(world, undefined, 2)}\n`);
  let questions = 0;
  for (const split of PICTURE_SPLITS) {
    questions += await writePictureSplit(folder, split, pictures[split], options, control.signal, advance);
  }
  for (const [split, count, name] of [
    ["text", textCount, "text_train.jsonl"],
    ["text_test", textTestCount, "text_test.jsonl"],
  ] as const) {
    const file = await jsonLinesWriter(join(folder, name));
    await writing([file], () =>
      inBatches(count, control.signal, advance, async (from, to) => {
        for (let index = from; index < to; index++)
          await file.add(textRecord(makeScene(seed, split, index), seed));
      }),
    );
  }
  return { images, captions: images * CAPTIONS_PER_PICTURE, questions };
}

/** Pictures, captions, questions, answers and scenes of one split; returns the number of questions. */
async function writePictureSplit(
  folder: string,
  split: PictureSplit,
  count: number,
  { seed, format }: CheckedOptions,
  signal: AbortSignal | undefined,
  advance: (count: number) => void,
): Promise<number> {
  await mkdir(join(folder, "images", split), { recursive: true });
  const names = Array.from({ length: count }, (_, index) => {
    return `images/${split}/${String(index).padStart(6, "0")}.${format}`;
  });
  const info = { description: `scenes world, split ${split}`, seed, version: "1" };
  // The COCO format has two lists in one file; the list of pictures is short enough to go into the head.
  const images = names.map((file_name, id) => ({ id, file_name, width: PICTURE_SIZE, height: PICTURE_SIZE }));
  const texts = (name: string): Promise<ListWriter> =>
    jsonListWriter(join(folder, `${name}_${split}.json`), { info, images }, "annotations");
  const captions = await texts("captions");
  const statements = await texts("statements");
  const questions = await jsonListWriter(join(folder, `questions_${split}.json`), { info }, "questions");
  const answers = await jsonListWriter(join(folder, `annotations_${split}.json`), { info }, "annotations");
  const scenes = await jsonListWriter(join(folder, `scenes_${split}.json`), { seed, split }, "scenes");
  let asked = 0;
  await writing([captions, statements, questions, answers, scenes], () =>
    inBatches(count, signal, advance, async (from, to) => {
      const batch = Array.from({ length: to - from }, (_, offset) => makeScene(seed, split, from + offset));
      const drawing = drawScenes(batch, format, (scene) => join(folder, names[scene.index] as string));
      // Texts are made on this thread while sharp's threads draw.
      const telling = (async () => {
        for (const scene of batch) {
          await scenes.add(scene);
          await addTexts(captions, scene, CAPTIONS_PER_PICTURE, sceneCaptions(scene, seed));
          await addTexts(statements, scene, STATEMENTS_PER_SCENE, sceneStatements(scene, seed));
          asked += await addQuestions(questions, answers, scene, seed);
        }
      })();
      // Both must have ended before an error removes the folder under them.
      for (const outcome of await Promise.allSettled([drawing, telling])) {
        if (outcome.status === "rejected") throw outcome.reason;
      }
    }),
  );
  return asked;
}

/** Runs `work`, then closes the files whether it succeeded or not. */
async function writing(files: readonly ListWriter[], work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } finally {
    for (const file of files) await file.end();
  }
}

async function inBatches(
  count: number,
  signal: AbortSignal | undefined,
  advance: (count: number) => void,
  work: (from: number, to: number) => Promise<void>,
): Promise<void> {
  for (let from = 0; from < count; from += BATCH) {
    // A turn of the event loop, or Ctrl-C would not be heard while only text is made.
    await new Promise((resume) => setImmediate(resume));
    throwIfStopped(signal);
    const to = Math.min(count, from + BATCH);
    await work(from, to);
    advance(to - from);
  }
}

/** Draws and saves pictures, a few at a time. */
async function drawScenes(
  scenes: readonly Scene[],
  format: "png" | "jpg",
  pathOf: (scene: Scene) => string,
): Promise<void> {
  const queue = scenes.values();
  const lane = async (): Promise<void> => {
    for (const scene of queue) await writeFile(pathOf(scene), await renderScene(scene, format));
  };
  const lanes = Array.from({ length: 2 * availableParallelism() }, lane);
  for (const outcome of await Promise.allSettled(lanes)) {
    if (outcome.status === "rejected") throw outcome.reason;
  }
}

/** COCO annotations; ids leave room for `most` texts a picture. */
async function addTexts(
  file: ListWriter,
  scene: Scene,
  most: number,
  texts: readonly string[],
): Promise<void> {
  for (const [index, caption] of texts.entries())
    await file.add({ id: scene.index * most + index, image_id: scene.index, caption });
}

async function addQuestions(
  questions: ListWriter,
  answers: ListWriter,
  scene: Scene,
  seed: number,
): Promise<number> {
  const asked = askScene(
    scene,
    new Random("questions", seed, scene.split, scene.index),
    QUESTIONS_PER_PICTURE,
  );
  for (const [index, { question, answer, type }] of asked.entries()) {
    const ids = { image_id: scene.index, question_id: scene.index * QUESTIONS_PER_PICTURE + index };
    await questions.add({ ...ids, question });
    await answers.add({
      ...ids,
      question_type: type,
      answer_type: answerType(type),
      multiple_choice_answer: answer,
      answers: Array.from({ length: ANSWERS_PER_QUESTION }, (_, voice) => {
        return { answer, answer_id: voice + 1, answer_confidence: "yes" };
      }),
    });
  }
  return asked.length;
}

function answerType(type: QuestionType): "yes/no" | "number" | "other" {
  if (type === "yes/no") return type;
  return type === "count" ? "number" : "other";
}

/** The captions that a picture has on disk. */
function sceneCaptions(scene: Scene, seed: number): string[] {
  return captionScene(scene, new Random("captions", seed, scene.split, scene.index), CAPTIONS_PER_PICTURE);
}

/** The statements that a picture has on disk. */
function sceneStatements(scene: Scene, seed: number): string[] {
  return stateScene(scene, new Random("statements", seed, scene.split, scene.index), STATEMENTS_PER_SCENE);
}
