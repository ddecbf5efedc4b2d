/** Questions about pictures with what people answered, from a folder with VQAv2-style files. */
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../errors.js";
import { readJson } from "../../files/json-file.js";
import { listed } from "../../listed.js";
import { longestList, missingFiles, pictureFile } from "./coco.js";

/** People per question in VQAv2. */
const ANSWERS_PER_QUESTION = 10;

const questionsSchema = z.object({
  questions: z.array(
    z.object({ question_id: z.number(), image_id: z.number(), question: z.string().min(1) }),
  ),
});
const annotationsSchema = z.object({
  annotations: z.array(
    z.object({
      question_id: z.number(),
      image_id: z.number(),
      question_type: z.string().min(1),
      answers: z.array(z.object({ answer: z.string() })),
    }),
  ),
});
const imagesSchema = z.object({
  images: z.array(z.object({ id: z.number(), file_name: z.string().min(1) })),
});

export interface PictureQuestion {
  readonly id: number;
  readonly imageId: number;
  readonly question: string;
  readonly type: string;
  /** Ten, one of each person. */
  readonly answers: readonly string[];
}

const limits = { longest: longestList };

/** By id. Throws a `UserError` that names ids which come twice. */
function byId<T extends { readonly question_id: number }>(
  entries: readonly T[],
  path: string,
): Map<number, T> {
  const found = new Map<number, T>();
  for (const entry of entries) {
    if (found.has(entry.question_id))
      throw new UserError(`${path}: question ${entry.question_id} is there twice`);
    found.set(entry.question_id, entry);
  }
  return found;
}

/**
 * `questions_<split>.json` with `annotations_<split>.json`, in the order of the first. Throws a `UserError` if the split
 * is empty or malformed, and if a question and its annotation do not fit together or it has not ten answers (the first are named).
 */
export async function readQuestionSet(folder: string, split: string): Promise<readonly PictureQuestion[]> {
  const path = join(folder, `questions_${split}.json`);
  const answersPath = join(folder, `annotations_${split}.json`);
  const { questions } = await readJson(path, questionsSchema, "a VQAv2 file of questions", limits);
  const what = "a VQAv2 file of annotations";
  const { annotations } = await readJson(answersPath, annotationsSchema, what, limits);
  if (questions.length === 0)
    throw new UserError(`${path}: the data set is empty: at least one question is needed`);
  const asked = byId(questions, path);
  const answered = byId(annotations, answersPath);
  const check = (ids: readonly number[], problem: string): void => {
    if (ids.length > 0)
      throw new UserError(`${answersPath}: ${ids.length} questions ${problem}: ${listed(ids)}`);
  };
  check(
    [...asked.keys()].filter((id) => !answered.has(id)),
    `of ${path} are not there`,
  );
  check(
    [...answered.keys()].filter((id) => !asked.has(id)),
    `are not in ${path}`,
  );
  check(
    [...asked].flatMap(([id, { image_id }]) => (answered.get(id)!.image_id === image_id ? [] : [id])),
    `are about another picture than in ${path}`,
  );
  check(
    [...answered].flatMap(([id, { answers }]) => (answers.length === ANSWERS_PER_QUESTION ? [] : [id])),
    `do not have ${ANSWERS_PER_QUESTION} answers`,
  );
  return questions.map(({ question_id: id, image_id: imageId, question }) => {
    const { question_type: type, answers } = answered.get(id)!;
    return { id, imageId, question, type, answers: answers.map(({ answer }) => answer) };
  });
}

/**
 * The files of the pictures that questions are about, by picture id; `captions_<split>.json` lists them, its captions are not
 * read. Throws a `UserError` if pictures are not listed or not there (the first are named).
 */
export async function readPicturesOf(
  questions: readonly PictureQuestion[],
  folder: string,
  split: string,
): Promise<ReadonlyMap<number, string>> {
  const path = join(folder, `captions_${split}.json`);
  const { images } = await readJson(path, imagesSchema, "a COCO file that lists pictures", limits);
  const files = new Map(images.map(({ id, file_name: file }) => [id, pictureFile(folder, file)]));
  const wanted = [...new Set(questions.map(({ imageId }) => imageId))];
  const unlisted = wanted.filter((id) => !files.has(id));
  if (unlisted.length > 0) {
    throw new UserError(
      `${path}: ${unlisted.length} pictures have questions but are not listed under "images": ${listed(unlisted)}`,
    );
  }
  const pictures = new Map(wanted.map((id) => [id, files.get(id)!]));
  const missing = await missingFiles([...pictures.values()]);
  if (missing.length > 0) {
    throw new UserError(
      `${path}: ${missing.length} of ${wanted.length} pictures are not there: ${listed(missing)}`,
    );
  }
  return pictures;
}
