import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Blip2Retriever } from "../../src/index.js";
import { blip2 } from "../cli/captured.js";
import { temporaryFolder, writeTinyModel } from "./tiny-model.js";

let root: string;
let model: string;
let small: readonly string[];
const at = (name: string): string => join(root, name);

beforeAll(async () => {
  root = await temporaryFolder();
  model = await writeTinyModel(at("tiny"), { files: { "generation_config.json": { max_new_tokens: 4 } } });
  small = ["--model", model, "--max-new-tokens", "2"];
  const square = { create: { width: 20, height: 20, channels: 3, background: "#c33" } } as const;
  await sharp(square).png().toFile(at("red.png"));
  await sharp({ create: { ...square.create, background: "#33c" } })
    .jpeg()
    .toFile(at("blue.jpg"));
  const png = await readFile(at("red.png"));
  await writeFile(at("broken.png"), png.subarray(0, png.length - 30));
  await writeFile(at("text.png"), "this is not a picture");
  await writeFile(at("empty.png"), "");
  // A header that claims 60000 x 60000 pixels.
  const huge = Buffer.from(png);
  huge.writeUInt32BE(60_000, 16);
  huge.writeUInt32BE(60_000, 20);
  await writeFile(at("huge.png"), huge);
  await mkdir(at("folder.png"));
});
afterAll(() => rm(root, { recursive: true }));

const lines = (text: string) =>
  text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe("blip2 caption", () => {
  it("prints a line for each picture", async () => {
    const images = [at("red.png"), at("blue.jpg")];
    const words = ["caption", ...images, "--model", model];
    const { code, stdout, stderr } = await blip2([...words, "--json"]);
    expect([code, stderr]).toEqual([0, ""]);
    const found = lines(stdout);
    expect(found.map(({ image }) => image)).toEqual(images);
    for (const line of found) expect(Object.keys(line)).toEqual(["image", "caption", "logProbability"]);
    const spoken = await blip2(words);
    expect(spoken.stdout).toBe(
      found.map(({ image, caption }) => `${String(image)}: ${String(caption)}\n`).join(""),
    );
  });

  it("passes its options on", async () => {
    const of = async (...options: string[]) => {
      const { stdout } = await blip2(["caption", at("red.png"), "--model", model, "--json", ...options]);
      return lines(stdout)[0]!["logProbability"] as number;
    };
    const short = ["--max-new-tokens", "3", "--min-new-tokens", "3"];
    const found = [
      await of(...short),
      await of(...short, "--beams", "1"),
      await of(...short, "--prompt", "a red"),
    ];
    // A wide search finds nothing less likely than a greedy one does.
    expect(found[0]).toBeGreaterThanOrEqual(found[1]! - 1e-6);
    expect(found[2]).not.toBe(found[0]);
  });

  it("keeps the captions that a second model finds nearest to the picture", async () => {
    const ranked = ["--rank-by", "models/scenes-retrieval", "--candidates", "4", "--num-captions", "3"];
    const words = ["caption", at("red.png"), ...small, "--prompt", "a", "--json"];
    const { code, stdout, stderr } = await blip2([...words, ...ranked]);
    expect([code, stderr]).toEqual([0, ""]);
    const kept = lines(stdout);
    expect(kept).toHaveLength(3);
    const cosines = kept.map(({ itc }) => itc as number);
    expect(cosines).toEqual(cosines.toSorted((a, b) => b - a));
    // Nothing but the order and the number comes from the second model.
    const all = lines((await blip2([...words, "--beams", "4", "--num-captions", "4"])).stdout);
    for (const { itc: _, ...line } of kept) expect(all).toContainEqual(line);
    await using retriever = await Blip2Retriever.load("models/scenes-retrieval");
    const whole = all.map(({ caption }) => `a ${String(caption)}`);
    const [best] = await retriever.rankTexts(at("red.png"), whole);
    expect(kept[0]!["itc"]).toBeCloseTo(best!.itc, 5);
  });

  it("goes on after pictures that cannot be read, names each, and fails in the end", async () => {
    const broken = {
      "missing.png": "this picture does not exist",
      "broken.png": "this picture is damaged or incomplete",
      "text.png": "not a picture",
      "empty.png": "a picture is required, this is empty",
      "huge.png": "60000 x 60000 pixels, at most",
      "folder.png": "this is a folder",
    };
    const images = [...Object.keys(broken).map(at), at("red.png")];
    const { code, stdout, stderr } = await blip2(["caption", ...images, ...small, "--json"]);
    expect(code).toBe(1);
    const [complaints, found] = [stderr.split("\n"), lines(stdout)];
    for (const [i, message] of Object.values(broken).entries()) {
      expect(complaints[i]).toContain(`blip2: ${images[i]}: `);
      expect(complaints[i]).toContain(message);
      expect(found[i]).toEqual({ image: images[i], error: expect.stringContaining(message) as string });
    }
    expect(complaints).toHaveLength(images.length);
    expect(found.at(-1)!["caption"]).toBeTypeOf("string");
  });

  it("prints no line for a broken picture unless asked for JSON", async () => {
    const { code, stdout } = await blip2(["caption", at("missing.png"), at("red.png"), ...small]);
    expect([code, stdout]).toEqual([1, expect.stringMatching(/^[^\n]*red\.png: [^\n]*\n$/)]);
  });

  it.each([
    [["caption"], 2, "caption: IMAGE is required"],
    [["caption", "x.png", "--beams", "0"], 2, "--beams must be an integer from 1 to 1000"],
    [
      ["caption", "x.png", "--min-new-tokens", "5", "--max-new-tokens", "3"],
      2,
      "is more than --max-new-tokens 3",
    ],
    [
      ["caption", "x.png", "--candidates", "4"],
      2,
      "--candidates is an option of ranking; give --rank-by too",
    ],
    [["caption", "x.png", "--rank-by", "m", "--beams", "4"], 2, "--candidates 8 is more than --beams 4"],
    [["caption", "x.png", "--rank-by", "m", "--num-captions", "9"], 2, "is more than --candidates 8"],
    [["caption", "x.png", "--rank-by", "/no/such/folder"], 1, "/no/such/folder: this folder does not exist"],
    [["caption", "x.png", "--beam", "3"], 2, "did you mean --beams?"],
    [["caption", "x.png", "--model", "/no/such/folder"], 1, "/no/such/folder: this folder does not exist"],
  ])("%j ends with a sentence", async (words, code, message) => {
    const found = await blip2(words);
    expect([found.code, found.stdout]).toEqual([code, ""]);
    expect(found.stderr).toContain(message);
  });

  it("can be interrupted", async () => {
    const found = await blip2(["caption", at("red.png"), "--model", model], { signal: AbortSignal.abort() });
    expect([found.code, found.stdout]).toEqual([130, ""]);
  });
});

describe("blip2 demo", () => {
  it("shows both bundled families side by side", async () => {
    const out = at("pages/both.html");
    const { code, stdout } = await blip2(["demo", "--out", out, "--json"]);
    expect(code).toBe(0);
    const rows = lines(stdout);
    const models = ["scenes-opt", "scenes-t5"];
    expect(rows.map(({ model }) => model)).toEqual(rows.map((_, i) => models[i % 2]));
    const page = await readFile(out, "utf8");
    expect(page.match(/<img src="data:image\/png;base64,/g)).toHaveLength(1.5 * rows.length);
    for (const row of rows) expect(page).toContain(String(row["caption"]));
  });

  it("captions the samples with a model that is named, asks, matches, and writes a page that needs no other file", async () => {
    const out = at("pages/demo.html");
    const { code, stdout, stderr } = await blip2(["demo", "--model", model, "--out", out, "--json"]);
    expect(code).toBe(0);
    expect(stderr).toContain(out);
    const rows = lines(stdout);
    expect(rows.length).toBeGreaterThanOrEqual(8);
    for (const row of rows) {
      expect(Object.keys(row)).toEqual([
        "picture",
        "model",
        "caption",
        "answers",
        "itmProbability",
        "seconds",
      ]);
      expect(row["answers"]).toHaveLength(3);
      expect(row["itmProbability"]).toBeGreaterThanOrEqual(0);
      expect(row["itmProbability"]).toBeLessThanOrEqual(1);
    }
    const page = await readFile(out, "utf8");
    expect(page.match(/<img src="data:image\/png;base64,/g)).toHaveLength(2 * rows.length);
    expect(page.replaceAll(/data:image[^"]*/g, "")).not.toMatch(/(?:src|href)="[^"]/);
  });
});
