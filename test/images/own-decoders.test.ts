/** Our own decoders give back the pixels that a file was written from, whatever the size and the pixels. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { loadImage } from "../../src/images/load-image.js";
import type { RgbImage } from "../../src/images/rgb-image.js";
import { bmp, gif, png, pngChunk, ppm, tiff } from "./encoders.js";

const picture = (most = 40): fc.Arbitrary<RgbImage> =>
  fc
    .tuple(fc.integer({ min: 1, max: most }), fc.integer({ min: 1, max: most }), fc.integer(), fc.boolean())
    .map(([width, height, seed, flat]) => {
      const data = new Uint8Array(width * height * 3);
      for (let i = 0; i < data.length; i++)
        data[i] = Math.imul((flat ? i >> 6 : i) + seed, 2654435761) >>> 24;
      return { width, height, data };
    });

async function returns(image: RgbImage, file: Uint8Array): Promise<void> {
  const { width, height, data } = await loadImage(file);
  expect([width, height]).toEqual([image.width, image.height]);
  expect(Buffer.compare(Buffer.from(data), Buffer.from(image.data))).toBe(0);
}

const runs = { numRuns: 60 };

describe("known pixels come back from", () => {
  it("PNG with every filter, in many chunks", () =>
    fc.assert(
      fc.asyncProperty(picture(), (image) => returns(image, png(image))),
      runs,
    ));

  it("GIF", () =>
    fc.assert(
      fc.asyncProperty(picture(15), (image) => returns(image, gif(image))),
      runs,
    ));

  it("BMP from below and from above", () =>
    fc.assert(
      fc.asyncProperty(picture(), fc.boolean(), (image, fromAbove) => returns(image, bmp(image, fromAbove))),
      runs,
    ));

  it("PPM in bytes and in digits", () =>
    fc.assert(
      fc.asyncProperty(picture(), fc.boolean(), (image, plain) => returns(image, ppm(image, plain))),
      runs,
    ));

  it("TIFF in strips, tiles and planes, plain and packed", () =>
    fc.assert(
      fc.asyncProperty(
        picture(),
        fc.constantFrom(undefined, 16, 32),
        fc.boolean(),
        fc.boolean(),
        fc.boolean(),
        (image, tile, deflate, differences, planes) =>
          returns(image, tiff(image, { tile, deflate, differences: differences && deflate, planes })),
      ),
      { numRuns: 150 },
    ));
});

/** Where the pixel at column x and row y of a turned picture comes from, written out from the EXIF standard's table. */
const sources: Readonly<Record<number, (x: number, y: number, w: number, h: number) => [number, number]>> = {
  1: (x, y) => [x, y],
  2: (x, y, w) => [w - 1 - x, y],
  3: (x, y, w, h) => [w - 1 - x, h - 1 - y],
  4: (x, y, _, h) => [x, h - 1 - y],
  5: (x, y) => [y, x],
  6: (x, y, _, h) => [y, h - 1 - x],
  7: (x, y, w, h) => [w - 1 - y, h - 1 - x],
  8: (x, y, w) => [w - 1 - y, x],
};

describe("all eight orientations", () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8])("%i", (orientation) =>
    fc.assert(
      fc.asyncProperty(picture(12), async (image) => {
        const tags = Buffer.from("4d4d002a00000008000101120003000000010000000000000000", "hex");
        tags.writeUInt16BE(orientation, 18);
        const turned = await loadImage(png(image, pngChunk("eXIf", tags)));
        const { width, height } = image;
        expect([turned.width, turned.height]).toEqual(orientation < 5 ? [width, height] : [height, width]);
        for (let y = 0; y < turned.height; y++) {
          for (let x = 0; x < turned.width; x++) {
            const [fromX, fromY] = sources[orientation]!(x, y, width, height);
            const pixel = (of: RgbImage, column: number, row: number): number[] => {
              const at = (row * of.width + column) * 3;
              return [...of.data.subarray(at, at + 3)];
            };
            expect(pixel(turned, x, y)).toEqual(pixel(image, fromX, fromY));
          }
        }
      }),
      { numRuns: 10 },
    ),
  );
});
