import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { loadImage } from "../../src/images/load-image.js";
import { preprocess, preprocessConfig } from "../../src/images/preprocess.js";
import { resizeBicubic, resizeBicubicInTurns } from "../../src/images/resize-bicubic.js";
import { pattern } from "./pattern.js";

/** Made by reference/images.py with Pillow and transformers. */
const golden = JSON.parse(readFileSync("test/golden/images/golden.json", "utf8")) as {
  decoded: Record<string, { width: number; height: number; base64?: string; sha256?: string }>;
  resized: { from: [number, number]; to: [number, number]; sha256: string }[];
  processed: Record<string, { config: object; dims: number[]; sha256: string; first: number[] }>;
};

const digest = (data: { buffer: ArrayBufferLike; byteOffset: number; byteLength: number }) =>
  createHash("sha256")
    .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    .digest("hex");

/** Made by reference/pictures.py: what transformers' load_image makes of further kinds of file. */
const pictures = JSON.parse(readFileSync("test/golden/pictures/golden.json", "utf8")) as Record<
  string,
  { width: number; height: number; base64: string }
>;

describe("decoding equals transformers' load_image", () => {
  it.each(Object.keys(pictures))("%s", async (name) => {
    const expected = pictures[name]!;
    const { width, height, data } = await loadImage(`test/golden/pictures/${name}`);
    expect([width, height]).toEqual([expected.width, expected.height]);
    expect([...data]).toEqual([...Buffer.from(expected.base64, "base64")]);
  });
});

describe("decoding equals Pillow's convert('RGB')", () => {
  // As Pillow opens it, this one lies on its side; load_image turns it.
  const opened = Object.keys(golden.decoded).filter((name) => name !== "rotated.jpg");
  it("turns what Pillow leaves on its side", async () => {
    const stored = golden.decoded["rotated.jpg"]!;
    const { width, height, data } = await loadImage("test/golden/images/rotated.jpg");
    expect([width, height]).toEqual([stored.height, stored.width]);
    const asStored = Buffer.from(stored.base64!, "base64");
    // Orientation 6: the first row is the left column from below.
    const upright = Array.from({ length: height * width * 3 }, (_, i) => {
      const [x, y, channel] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width), i % 3];
      return asStored[((stored.height - 1 - x) * stored.width + y) * 3 + channel];
    });
    expect([...data]).toEqual(upright);
  });

  it.each(opened)("%s", async (name) => {
    const expected = golden.decoded[name]!;
    const { width, height, data } = await loadImage(`test/golden/images/${name}`);
    expect([width, height]).toEqual([expected.width, expected.height]);
    if (expected.base64) expect([...data]).toEqual([...Buffer.from(expected.base64, "base64")]);
    else expect(digest(data)).toBe(expected.sha256);
  });
});

/** Made by reference/picture_kinds.py: tall pictures, of which Pillow 13 resizes the vertical axis first. */
const { resized } = JSON.parse(readFileSync("test/golden/images/resized-13.json", "utf8")) as {
  resized: { from: [number, number]; to: [number, number]; input: string; output: string }[];
};

describe("resizing equals Pillow's bicubic", () => {
  it.each(resized)("$from to $to, as Pillow 13", async ({ from, to, input, output }) => {
    const picture = { width: from[0], height: from[1], data: Buffer.from(input, "base64") };
    const size = { width: to[0], height: to[1] };
    const expected = [...Buffer.from(output, "base64")];
    expect([...resizeBicubic(picture, size).data]).toEqual(expected);
    expect([...(await resizeBicubicInTurns(picture, size)).data]).toEqual(expected);
  });

  it.each(golden.resized)("$from to $to", ({ from, to, sha256 }) => {
    const resized = resizeBicubic(pattern(...from), { width: to[0], height: to[1] });
    expect(digest(resized.data)).toBe(sha256);
  });
});

describe("preprocessing equals transformers' PIL processor", () => {
  it.each(Object.keys(golden.processed))("%s", (name) => {
    const { config, dims, sha256, first } = golden.processed[name]!;
    const images = [pattern(61, 47), pattern(300, 200)].slice(0, dims[0]);
    const { dims: got, data } = preprocess(images, preprocessConfig(config));
    expect(got).toEqual(dims);
    expect([...data.subarray(0, 5)]).toEqual(first);
    expect(digest(data)).toBe(sha256);
  });
});
