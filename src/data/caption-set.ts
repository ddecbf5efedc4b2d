/** Pictures with captions, from a folder with COCO-style caption files (`captions_<split>.json`). */
import { readFile, access } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.js";

const cocoSchema = z.object({
  images: z.array(z.object({ id: z.number(), file_name: z.string().min(1) })),
  annotations: z.array(z.object({ image_id: z.number(), caption: z.string() })),
});

/** One picture with what is said about it. */
export interface CaptionedPicture {
  readonly id: number;
  readonly file: string;
  readonly captions: readonly string[];
  /** Sentences of one fact each, where they were asked for. */
  readonly statements?: readonly string[];
}

/** The JSON content of a file, or a `UserError` that names it. */
export async function readJson(path: string): Promise<unknown> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    const reason = error.code === "ENOENT" ? "does not exist" : `cannot be read (${error.message})`;
    throw new UserError(`${path} ${reason}`, { cause: error });
  });
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new UserError(`${path} is not JSON: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Reads one split. Throws a `UserError` if it is empty or malformed, if captions name pictures that the
 * file does not list, or if listed pictures are missing on disk (up to five of each are named).
 */
export async function readCaptionSet(folder: string, split: string): Promise<readonly CaptionedPicture[]> {
  const path = join(folder, `captions_${split}.json`);
  const { images, texts: captions } = await readTexts(path);
  const pictures = images
    .map(({ id, file_name: file }) => ({ id, file: join(folder, file), captions: captions.get(id)! }))
    .filter((picture) => picture.captions.length > 0);
  if (pictures.length === 0)
    throw new UserError(`${path}: the data set is empty: at least one picture with a caption is needed`);
  const missing: string[] = [];
  for (const { file } of pictures) {
    const isThere = await access(file).then(
      () => true,
      () => false,
    );
    if (!isThere) missing.push(file);
  }
  if (missing.length > 0)
    throw new UserError(
      `${path}: ${missing.length} of ${pictures.length} pictures are not there: ${some(missing)}`,
    );
  return pictures;
}

/** The same pictures with their statements, from `statements_<split>.json`, which is laid out alike. */
export async function withStatements(
  folder: string,
  split: string,
  pictures: readonly CaptionedPicture[],
): Promise<readonly CaptionedPicture[]> {
  const path = join(folder, `statements_${split}.json`);
  const { texts } = await readTexts(path);
  const bare = pictures.filter(({ id }) => (texts.get(id) ?? []).length === 0);
  if (bare.length > 0) {
    throw new UserError(
      `${path}: ${bare.length} pictures that have captions have no statement here, which is required: ${some(bare.map(({ id }) => id))}`,
    );
  }
  return pictures.map((picture) => ({ ...picture, statements: texts.get(picture.id)! }));
}

const some = (items: Iterable<unknown>): string => [...items].slice(0, 5).join(", ");

/** A COCO caption file: its pictures, and each one's texts by its id. */
async function readTexts(path: string): Promise<{
  readonly images: readonly { readonly id: number; readonly file_name: string }[];
  readonly texts: ReadonlyMap<number, readonly string[]>;
}> {
  const parsed = cocoSchema.safeParse(await readJson(path));
  if (!parsed.success) {
    const { path: key, message } = parsed.error.issues[0]!;
    throw new UserError(`${path} is not a COCO caption file: ${key.join(".")}: ${message}`);
  }
  const { images, annotations } = parsed.data;
  const texts = new Map<number, string[]>(images.map(({ id }) => [id, []]));
  const orphans = new Set<number>();
  for (const { image_id: id, caption } of annotations) {
    const list = texts.get(id);
    if (list === undefined) orphans.add(id);
    else list.push(caption);
  }
  if (orphans.size > 0) {
    throw new UserError(
      `${path}: ${orphans.size} pictures have captions but are not listed under "images": ${some(orphans)}`,
    );
  }
  return { images, texts };
}
