import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, expect, test } from "vitest";
import { InterruptedError, UserError } from "../../src/errors.js";
import {
  HELD_OUT,
  PICTURE_SPLITS,
  makeScene,
  parseCaption,
  countThings,
  writeScenes,
} from "../../src/data/scenes/index.js";

let folder: string;
let out: string;
const options = {
  seed: 5,
  count: 70,
  validation: 3,
  test: 4,
  compositional: 5,
  textCount: 90,
  textTestCount: 6,
};
const json = async (name: string) => JSON.parse(await readFile(join(out, name), "utf8"));
const lines = async (name: string) =>
  (await readFile(join(out, name), "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "blip2-scenes-"));
  out = join(folder, "world");
  const seen: number[] = [];
  const written = await writeScenes({ out, ...options }, { onProgress: ({ done }) => seen.push(done) });
  expect(written).toMatchObject({ images: 82, captions: 246 });
  expect(written.questions).toBeGreaterThan(82 * 5);
  expect(seen.at(-1)).toBe(82 + 96);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test("captions are in the COCO format and true", async () => {
  for (const split of PICTURE_SPLITS) {
    const captions = await json(`captions_${split}.json`);
    const { scenes } = await json(`scenes_${split}.json`);
    const count = split === "train" ? options.count : options[split];
    expect(captions.images).toHaveLength(count);
    expect(captions.annotations).toHaveLength(3 * count);
    expect(scenes).toEqual(Array.from({ length: count }, (_, index) => makeScene(5, split, index)));
    expect(await readdir(join(out, "images", split))).toHaveLength(count);
    for (const { id, file_name, width, height } of captions.images) {
      const picture = await sharp(join(out, file_name)).metadata();
      expect([picture.width, picture.height, width, height]).toEqual([96, 96, 96, 96]);
      expect(file_name).toBe(`images/${split}/${String(id).padStart(6, "0")}.png`);
    }
    for (const { image_id, caption } of captions.annotations) {
      expect(parseCaption(caption).objects).toEqual(countThings(scenes[image_id].objects));
    }
    expect(new Set(captions.annotations.map(({ id }: { id: number }) => id)).size).toBe(3 * count);
  }
});

test("statements are COCO captions of the same pictures, at most ten to each", async () => {
  for (const split of PICTURE_SPLITS) {
    const { images, annotations } = await json(`statements_${split}.json`);
    expect(images).toEqual((await json(`captions_${split}.json`)).images);
    expect(new Set(annotations.map(({ id }: { id: number }) => id)).size).toBe(annotations.length);
    for (const { id } of images) {
      const own = annotations.filter((annotation: { image_id: number }) => annotation.image_id === id);
      expect(own.length).toBeGreaterThanOrEqual(3);
      expect(own.length).toBeLessThanOrEqual(10);
    }
  }
});

test("questions and answers are in the VQAv2 format", async () => {
  for (const split of PICTURE_SPLITS) {
    const { questions } = await json(`questions_${split}.json`);
    const { annotations } = await json(`annotations_${split}.json`);
    expect(annotations).toHaveLength(questions.length);
    expect(new Set(questions.map((q: { question_id: number }) => q.question_id)).size).toBe(questions.length);
    for (const [index, annotation] of annotations.entries()) {
      const { question, ...ids } = questions[index];
      expect(annotation).toMatchObject(ids);
      expect(question).toMatch(/^[a-z ]+\?$/);
      expect(["yes/no", "number", "other"]).toContain(annotation.answer_type);
      expect(annotation.answers).toHaveLength(10);
      expect(annotation.answers[9]).toEqual({
        answer: annotation.multiple_choice_answer,
        answer_id: 10,
        answer_confidence: "yes",
      });
    }
  }
});

test("the text corpus and the world's own words are there", async () => {
  const train = await lines("text_train.jsonl");
  expect(train).toHaveLength(90);
  expect(await lines("text_test.jsonl")).toHaveLength(6);
  expect(Object.keys(train[0])).toEqual(["description", "captions", "questions", "statements"]);
  expect(train[0].captions).toHaveLength(2);
  const world = await json("scenes.json");
  expect(world).toMatchObject({ seed: 5, counts: { train: 70, text: 90 } });
  for (const { kind, color } of world.held_out) expect(HELD_OUT[kind as keyof typeof HELD_OUT]).toBe(color);
});

test("the same options give the same bytes", async () => {
  const again = join(folder, "again");
  await writeScenes({ out: again, ...options });
  for (const name of [
    "text_train.jsonl",
    "annotations_train.json",
    "captions_test.json",
    "statements_test.json",
    "images/train/000042.png",
  ]) {
    expect((await readFile(join(again, name))).equals(await readFile(join(out, name))), name).toBe(true);
  }
});

test("an occupied folder is refused and left alone, an empty one is used", async () => {
  const error = await writeScenes({ out, ...options }).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(UserError);
  expect((error as Error).message).toContain(out);
  expect(await readdir(join(out, "images"))).toHaveLength(4);
  const file = join(folder, "file");
  await writeFile(file, "");
  await expect(writeScenes({ out: file, ...options })).rejects.toThrow(UserError);
  const empty = join(folder, "empty");
  await mkdir(empty);
  await writeScenes({ out: empty, seed: 0, count: 2, format: "jpg", textCount: 0, validation: 0 });
  expect(await readdir(join(empty, "images", "train"))).toEqual(["000000.jpg", "000001.jpg"]);
  expect(JSON.parse(await readFile(join(empty, "captions_validation.json"), "utf8")).annotations).toEqual([]);
  expect(await readFile(join(empty, "text_train.jsonl"), "utf8")).toBe("");
});

test("an interruption leaves nothing", async () => {
  const place = join(folder, "stopped");
  await mkdir(place);
  const stop = new AbortController();
  const control = { signal: stop.signal, onProgress: () => stop.abort() };
  await expect(writeScenes({ out: join(place, "world"), ...options }, control)).rejects.toThrow(
    InterruptedError,
  );
  expect(await readdir(place)).toEqual([]);
});

test("wrong options are named", async () => {
  const place = join(folder, "never");
  await expect(writeScenes({ out: place, seed: 1, count: 0 })).rejects.toThrow(/option count/);
  await expect(writeScenes({ out: place, seed: 1.5, count: 1 })).rejects.toThrow(/option seed/);
  const misspelt = { out: place, seed: 1, count: 1, pictures: 3 };
  await expect(writeScenes(misspelt)).rejects.toThrow(/option pictures/);
  await expect(readdir(place)).rejects.toThrow();
});
