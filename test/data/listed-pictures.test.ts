/** Lists of pictures as they come: files under several ids, ids for several files, texts that stand there twice. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { sliceOf } from "../../src/data/dataset.js";
import { openData } from "../../src/data/open-data.js";
import { UserError } from "../../src/errors.js";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "blip2-listed-"));
  for (const name of ["a.png", "b.png"]) await writeFile(join(root, name), "");
});
afterAll(() => rm(root, { recursive: true, force: true }));

type Listed = readonly (readonly [id: number, file: string, ...captions: string[]])[];

async function write(kind: string, listed: Listed): Promise<void> {
  const images = listed.map(([id, file_name]) => ({ id, file_name }));
  const annotations = listed.flatMap(([image_id, , ...captions]) =>
    captions.map((caption) => ({ image_id, caption })),
  );
  await writeFile(join(root, `${kind}_x.json`), JSON.stringify({ images, annotations }));
}

async function read(statements = false) {
  const notices: string[] = [];
  const data = await openData(root, "x").captions({ statements, onNotice: (line) => notices.push(line) });
  return { pictures: await sliceOf(data, 0, data.length), notices };
}

it("a file under several ids is one picture, however its name is spelt", async () => {
  const listed: Listed = [
    [1, "a.png", "one"],
    [2, "b.png", "two"],
    [3, "./a.png", "three", "one"],
    [4, join(root, "a.png"), "four"],
  ];
  await write("captions", listed);
  await write(
    "statements",
    listed.map(([id, file], i) => [id, file, `fact ${i}`]),
  );
  const { pictures, notices } = await read(true);
  expect(pictures).toMatchObject([
    { id: 1, captions: ["one", "three", "one", "four"], statements: ["fact 0", "fact 2", "fact 3"] },
    { id: 2, captions: ["two"], statements: ["fact 1"] },
  ]);
  expect(notices).toEqual([
    "2 of 4 pictures are files that stand under another id too: each file is taken once, with all its texts",
  ]);
});

it("lists without such files are as they were, and say nothing", async () => {
  await write("captions", [
    [1, "a.png", "one"],
    [2, "b.png", "one"],
  ]);
  const { pictures, notices } = await read();
  expect(pictures.map(({ id, captions }) => [id, captions])).toEqual([
    [1, ["one"]],
    [2, ["one"]],
  ]);
  expect(notices).toEqual([]);
});

it("texts of a picture that are the same are counted aloud, and stay", async () => {
  await write("captions", [[1, "a.png", "one", "one", " ", "two", "one"]]);
  const { pictures, notices } = await read();
  expect(pictures[0]!.captions).toEqual(["one", "one", "two", "one"]);
  expect(notices.join("\n")).toMatch(/1 empty text left out\n.*2 texts stand there more than once/);
});

it("an id of two files is refused by name", async () => {
  await write("captions", [
    [7, "a.png", "one"],
    [7, "b.png"],
  ]);
  const failed: unknown = await read().catch((error: unknown) => error);
  expect(failed).toBeInstanceOf(UserError);
  expect((failed as Error).message).toMatch(
    /captions_x\.json: 1 ids stand for several pictures each, .*: 7$/,
  );
});
