/** Questions about pictures with what people answered, from a folder with VQAv2-style files. */
import { access } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.js";
import { readJson } from "./caption-set.js";

/** People per question in VQAv2. */
export const ANSWERS_PER_QUESTION = 10;

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

function parse<T>(schema: z.ZodType<T>, value: unknown, path: string, what: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const { path: key, message } = parsed.error.issues[0]!;
  throw new UserError(`${path} is not ${what}: ${key.join(".")}: ${message}`);
}

const some = (items: readonly unknown[]): string => items.slice(0, 5).join(", ");

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
 * is empty or malformed, and if a question and its annotation do not fit together or it has not ten answers (up to
 * five are named).
 */
export async function readQuestionSet(folder: string, split: string): Promise<readonly PictureQuestion[]> {
  const path = join(folder, `questions_${split}.json`);
  const answersPath = join(folder, `annotations_${split}.json`);
  const { questions } = parse(questionsSchema, await readJson(path), path, "a VQAv2 file of questions");
  const { annotations } = parse(
    annotationsSchema,
    await readJson(answersPath),
    answersPath,
    "a VQAv2 file of annotations",
  );
  if (questions.length === 0)
    throw new UserError(`${path}: the data set is empty: at least one question is needed`);
  const asked = byId(questions, path);
  const answered = byId(annotations, answersPath);
  const check = (ids: readonly number[], problem: string): void => {
    if (ids.length > 0)
      throw new UserError(`${answersPath}: ${ids.length} questions ${problem}: ${some(ids)}`);
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
 * read. Throws a `UserError` if pictures are not listed or not there (up to five are named).
 */
export async function readPicturesOf(
  questions: readonly PictureQuestion[],
  folder: string,
  split: string,
): Promise<ReadonlyMap<number, string>> {
  const path = join(folder, `captions_${split}.json`);
  const { images } = parse(imagesSchema, await readJson(path), path, "a COCO file that lists pictures");
  const listed = new Map(images.map(({ id, file_name: file }) => [id, join(folder, file)]));
  const wanted = [...new Set(questions.map(({ imageId }) => imageId))];
  const unlisted = wanted.filter((id) => !listed.has(id));
  if (unlisted.length > 0) {
    throw new UserError(
      `${path}: ${unlisted.length} pictures have questions but are not listed under "images": ${some(unlisted)}`,
    );
  }
  const pictures = new Map(wanted.map((id) => [id, listed.get(id)!]));
  const missing: string[] = [];
  for (const file of pictures.values()) await access(file).catch(() => missing.push(file));
  if (missing.length > 0) {
    throw new UserError(
      `${path}: ${missing.length} of ${wanted.length} pictures are not there: ${some(missing)}`,
    );
  }
  return pictures;
}
