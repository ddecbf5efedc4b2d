import { mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { temporaryFolder, writeTinyModel } from "../generation/tiny-model.js";
import { readGoldenCase } from "../golden-case.js";
import { writeRetrievalModel, type RetrievalGolden } from "../retrieval/retrieval-model.js";
import { blip2 } from "./captured.js";

let root: string;
let captioner: string;
let retriever: string;
let picture: string;
const at = (name: string): string => join(root, name);

beforeAll(async () => {
  root = await temporaryFolder();
  captioner = await writeTinyModel(at("captioner"));
  const golden = await readGoldenCase<RetrievalGolden>("retrieval", "retrieval-4");
  retriever = await writeRetrievalModel(at("retriever"), golden);
  picture = at("red.png");
  await sharp({ create: { width: 40, height: 20, channels: 3, background: "#c33" } })
    .png()
    .toFile(picture);
});
afterAll(() => rm(root, { recursive: true }));

interface Line {
  readonly image: string;
  readonly out: string;
  readonly grid: { readonly rows: number; readonly columns: number };
  readonly peaks: readonly { readonly query: number; readonly row: number; readonly share: number }[];
  readonly [key: string]: unknown;
}

/** Runs the verb with --json, and gives its line and the size of its drawing. */
async function attend(...words: string[]): Promise<{ line: Line; size: readonly number[]; bytes: Buffer }> {
  const out = at("drawing.png");
  const found = await blip2(["attend", picture, "--out", out, "--json", ...words]);
  expect([found.code, found.stderr]).toEqual([0, ""]);
  expect(found.stdout.trim().split("\n")).toHaveLength(1);
  const bytes = await readFile(out);
  const { width, height, format } = await sharp(bytes).metadata();
  expect(format).toBe("png");
  return { line: JSON.parse(found.stdout) as Line, size: [width, height], bytes };
}

// A picture of 40 x 20 is drawn 384 x 192.
const large = [3 * 12 + 2 * 384, 2 * 12 + 192];

describe("blip2 attend", () => {
  it("draws every query of a captioner, and says where each looks", async () => {
    const { line, size } = await attend("--model", captioner);
    // One row of three small ones.
    expect(size).toEqual([large[0], large[1]! + 48 + 12]);
    const { peaks, classShare, ...rest } = line;
    expect(rest).toEqual({
      image: picture,
      out: at("drawing.png"),
      layers: [0],
      heads: 2,
      queries: 3,
      layer: null,
      head: null,
      query: null,
      grid: { rows: 2, columns: 2 },
    });
    expect(peaks.map(({ query }) => query)).toEqual([0, 1, 2]);
    for (const peak of peaks) {
      expect(Object.keys(peak)).toEqual(["query", "row", "column", "share"]);
      expect(peak.share).toBeGreaterThan(0);
      expect(peak.share).toBeLessThanOrEqual(1);
    }
    expect(classShare).toBeGreaterThan(0);
    expect(classShare).toBeLessThan(1);
  });

  it("draws one query of one head and layer", async () => {
    const chosen = await attend("--model", retriever, "--query", "4", "--layer", "3", "--head", "1");
    expect(chosen.size).toEqual(large);
    expect(chosen.line).toMatchObject({ layers: [0, 3], heads: 2, queries: 7, layer: 3, head: 1, query: 4 });
    expect(chosen.line.peaks.map(({ query }) => query)).toEqual([4]);
    const other = await attend("--model", retriever, "--query", "4", "--layer", "0", "--head", "1");
    expect(other.bytes.equals(chosen.bytes)).toBe(false);
    // A model that reads texts may look without one, too.
    expect((await attend("--model", retriever)).size).toEqual([large[0], large[1]! + 48 + 12]);
  });

  it("draws what speaks for a text", async () => {
    const { line, size } = await attend("--model", retriever, "--text", "w2 w9");
    expect(size).toEqual(large);
    expect(line["text"]).toBe("w2 w9");
    const scored = await blip2(["match", picture, "w2 w9", "--model", retriever, "--json"]);
    const score = JSON.parse(scored.stdout) as Record<string, number>;
    expect(line["itmLogit"]).toBeCloseTo(score["itmLogit"]!, 4);
    expect(line["itmProbability"]).toBeCloseTo(score["itmProbability"]!, 5);
    expect(line.peaks).toHaveLength(7);
  });

  it("reads well, and replaces an older drawing", async () => {
    const out = at("old.png");
    await writeFile(out, "old");
    const { stdout } = await blip2(["attend", picture, "--out", out, "--model", retriever]);
    expect(stdout).toMatch(
      /^[^\n]*old\.png: looks most at row \d, column \d of 4 x 4 patches \(\d+\.\d %\); the class position has \d+\.\d %\n$/,
    );
    expect((await sharp(await readFile(out)).metadata()).format).toBe("png");
    const words = ["attend", picture, "--out", out, "--model", retriever, "--text", "w2 w9"];
    expect((await blip2(words)).stdout).toMatch(
      /: a match by \d+\.\d %; "w2 w9" is found (most at row \d.*|nowhere)\n$/,
    );
    expect((await readdir(root)).filter((name) => name.startsWith("old"))).toEqual(["old.png"]);
  });

  it.each<[string[], 1 | 2, string]>([
    [["attend", "x.png"], 2, "attend: --out FILE is required"],
    [["attend", "none.png", "--out", "a.png"], 1, "none.png: this picture does not exist"],
    [["attend", "PICTURE", "--out", "NO", "--model", "/no/such"], 1, "/no/such: this folder does not exist"],
    [
      ["attend", "PICTURE", "--out", "NO", "--model", "CAPTIONER", "--text", "a cat"],
      1,
      "give a folder of Blip2ForImageTextRetrieval, such as Salesforce/blip2-itm-vit-g",
    ],
    [
      [
        "attend",
        "PICTURE",
        "--out",
        "NO",
        "--model",
        "RETRIEVER",
        "--layer",
        "1",
        "--head",
        "2",
        "--query",
        "7",
      ],
      2,
      "attend: layer 1 is not there: the queries look at the picture in layers 0, 3; head 2 is not there: 0 to 1 are; query 7 is not there: 0 to 6 are",
    ],
    [["attend", "PICTURE", "--out", "NO", "--layer", "-1"], 2, "--layer must be an integer of at least 0"],
    [
      ["attend", "PICTURE", "--out", "PICTURE", "--model", "CAPTIONER"],
      2,
      "is the picture itself and would replace it",
    ],
    [
      ["attend", "PICTURE", "--out", "LINK", "--model", "CAPTIONER"],
      2,
      "is the picture itself and would replace it",
    ],
    [
      ["attend", "PICTURE", "--out", "x.jpg", "--model", "CAPTIONER"],
      2,
      "--out x.jpg: the drawing is a PNG file",
    ],
    [["attend", "data:image/png;base64,LONG", "--out", "NO"], 1, "data: URLs are not read"],
    [["attend", "PICTURE", "--out", "FOLDER", "--model", "CAPTIONER"], 1, "a folder"],
  ])("%j ends with a sentence", async (words, code, message) => {
    await mkdir(at("folder.png"), { recursive: true });
    await symlink(picture, at("link.png")).catch(() => undefined);
    const names: Readonly<Record<string, string>> = {
      PICTURE: picture,
      NO: at("no.png"),
      FOLDER: at("folder.png"),
      LINK: at("link.png"),
      "data:image/png;base64,LONG": `data:image/png;base64,${"iVBORw0KGgo".repeat(5000)}`,
      CAPTIONER: captioner,
      RETRIEVER: retriever,
    };
    const found = await blip2(words.map((word) => names[word] ?? word));
    expect([found.code, found.stdout]).toEqual([code, ""]);
    expect(found.stderr).toContain(message);
    expect(await readdir(root)).not.toContain("no.png");
  });

  it("can be interrupted", async () => {
    const words = ["attend", picture, "--out", at("no.png"), "--model", captioner];
    const found = await blip2(words, { signal: AbortSignal.abort() });
    expect([found.code, found.stdout]).toEqual([130, ""]);
  });
});
