/** Pictures with captions, from a folder with COCO-style caption files (`captions_<split>.json`). */
import { access } from "node:fs/promises";
import { isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import { UserError } from "../../errors.js";
import { readJson } from "../../files/json-file.js";
import { listed, listedNames } from "../../listed.js";
import { datasetOf, samplesOf, sliceOf, type CaptionedPicture, type Dataset } from "../dataset.js";

const idSchema = z.union([z.number(), z.string()]);

const cocoSchema = z.object({
  images: z.array(z.object({ id: idSchema, file_name: z.string().min(1) })),
  annotations: z.array(z.object({ image_id: idSchema, caption: z.string() })),
});

/** Caption files of large sets have some hundred megabytes. */
export const longestList = 500_000_000;

export interface CaptionNotices {
  /** Is told what was left out: captions without a word, and what is there twice. */
  readonly onNotice?: ((notice: string) => void) | undefined;
}

/** Where a listed picture lies: beside the list unless its name says where. */
export const pictureFile = (folder: string, name: string): string =>
  isAbsolute(name) ? name : join(folder, name);

/**
 * Reads one split. Empty captions and pictures that are listed twice are left out and counted
 * aloud, repeated captions are counted. Throws a `UserError` if the
 * split is empty or malformed, if captions name pictures that the file does not list or that are not one, or if listed pictures are missing on disk (the
 * first are named).
 */
export async function readCaptionSet(
  folder: string,
  split: string,
  { onNotice }: CaptionNotices = {},
): Promise<Dataset<CaptionedPicture>> {
  const path = join(folder, `captions_${split}.json`);
  const { images, texts, leftOut, repeated } = await readTexts(path);
  if (leftOut.length > 0) onNotice?.(`${path}: ${leftOut.join(" and ")} left out`);
  if (repeated > 0)
    onNotice?.(
      `${path}: ${repeated} ${repeated === 1 ? "text stands" : "texts stand"} there more than once for the same picture, and count as often`,
    );
  const pictures = images
    .map(({ id, file_name: name }) => {
      const file = pictureFile(folder, name);
      return { id, image: file, name: file, captions: texts.get(id)! };
    })
    .filter((picture) => picture.captions.length > 0);
  if (pictures.length === 0)
    throw new UserError(`${path}: the data set is empty: at least one picture with a caption is needed`);
  const missing = await missingFiles(pictures.map(({ image }) => image));
  if (missing.length > 0)
    throw new UserError(
      `${path}: ${missing.length} of ${pictures.length} pictures are not there: ${listed(missing)}`,
    );
  return datasetOf(pictures);
}

/**
 * One sample for each picture file, with all that is said about it. Where a file is listed under several ids (as where a list has an
 * entry for each caption) it would otherwise be its own wrong example, and no retrieval could be right. The first id stays.
 */
export async function joinedByFile(
  pictures: Dataset<CaptionedPicture>,
  { onNotice }: CaptionNotices = {},
): Promise<Dataset<CaptionedPicture>> {
  const byFile = new Map<unknown, CaptionedPicture[]>();
  for await (const picture of samplesOf(pictures)) {
    const key = typeof picture.image === "string" ? resolve(picture.image) : picture.image;
    const same = byFile.get(key);
    if (same === undefined) byFile.set(key, [picture]);
    else same.push(picture);
  }
  const joined = pictures.length - byFile.size;
  if (joined === 0) return pictures;
  onNotice?.(
    `${joined} of ${pictures.length} pictures are files that stand under another id too: each file is taken once, with all its texts`,
  );
  return datasetOf(
    [...byFile.values()].map((same) => {
      const [first] = same;
      return {
        ...first!,
        captions: same.flatMap(({ captions }) => captions),
        ...(first!.statements && { statements: same.flatMap(({ statements = [] }) => statements) }),
      };
    }),
  );
}

/** Those of the files that are not there. */
export async function missingFiles(files: readonly string[]): Promise<string[]> {
  const missing: string[] = [];
  for (const file of files) await access(file).catch(() => missing.push(file));
  return missing;
}

/** The same pictures with their statements, from `statements_<split>.json`, which is laid out alike. */
export async function withStatements(
  folder: string,
  split: string,
  pictures: Dataset<CaptionedPicture>,
): Promise<Dataset<CaptionedPicture>> {
  const path = join(folder, `statements_${split}.json`);
  const { texts } = await readTexts(path);
  const all = await sliceOf(pictures, 0, pictures.length);
  const bare = all.filter(({ id }) => (texts.get(id) ?? []).length === 0);
  if (bare.length > 0) {
    throw new UserError(
      `${path}: ${bare.length} pictures that have captions have no statement here, which is required: ${listed(bare.map(({ id }) => id))}`,
    );
  }
  return datasetOf(all.map((picture) => ({ ...picture, statements: texts.get(picture.id)! })));
}

/** A COCO caption file: its pictures, each one's texts by its id, and in words what of it is not there. */
async function readTexts(path: string): Promise<{
  readonly images: readonly { readonly id: number | string; readonly file_name: string }[];
  readonly texts: ReadonlyMap<number | string, readonly string[]>;
  readonly leftOut: readonly string[];
  /** Texts that the same picture has already. */
  readonly repeated: number;
}> {
  const { images: all, annotations } = await readJson(path, cocoSchema, "a COCO caption file", {
    longest: longestList,
  });
  const images = new Map<number | string, (typeof all)[number]>();
  const ambiguous = new Set<number | string>();
  let twice = 0;
  for (const image of all) {
    const known = images.get(image.id);
    if (known === undefined) images.set(image.id, image);
    else if (known.file_name === image.file_name) twice += 1;
    else ambiguous.add(image.id);
  }
  if (ambiguous.size > 0) {
    throw new UserError(
      `${path}: ${ambiguous.size} ids stand for several pictures each, one is required: ${listedNames([...ambiguous].map(String))}`,
    );
  }
  const texts = new Map<number | string, string[]>(all.map(({ id }) => [id, []]));
  const orphans = new Set<number | string>();
  const known = new Set<string>();
  let [empty, repeated] = [0, 0];
  for (const { image_id: id, caption } of annotations) {
    const list = texts.get(id);
    if (list === undefined) orphans.add(id);
    else if (caption.trim() === "") empty += 1;
    else {
      list.push(caption);
      const said = JSON.stringify([id, caption]);
      if (known.has(said)) repeated += 1;
      else known.add(said);
    }
  }
  if (orphans.size > 0) {
    throw new UserError(
      `${path}: ${orphans.size} pictures have captions but are not listed under "images": ${listed(orphans)}`,
    );
  }
  const leftOut = [
    ...(empty > 0 ? [`${empty} empty ${empty === 1 ? "text" : "texts"}`] : []),
    ...(twice > 0 ? [`${twice} ${twice === 1 ? "picture that is" : "pictures that are"} listed twice`] : []),
  ];
  return { images: [...images.values()], texts, leftOut, repeated };
}
