import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import { loadImage, type ImageSource } from "../../src/images/load-image.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "blip2-images-"));
});
afterAll(() => rm(folder, { recursive: true }));

const refusal = async (source: unknown): Promise<string> => {
  const error = await loadImage(source as ImageSource).then(
    () => new Error("was accepted"),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  const { message } = error as Error;
  expect(message).not.toContain("\n");
  return message.replaceAll(folder, "DIR");
};

const golden = "test/golden/images/rgb.png";

describe("sources", () => {
  it("are equal as path, file: URL, and bytes", async () => {
    const image = await loadImage(golden);
    expect([image.width, image.height, image.data.length]).toEqual([21, 13, 21 * 13 * 3]);
    expect(await loadImage(pathToFileURL(golden))).toEqual(image);
    expect(await loadImage(await readFile(golden))).toEqual(image);
    expect(await loadImage({ ...image, channels: 3 })).toEqual(image);
  });

  it("may be pixels of one to four channels", async () => {
    const pixels = (channels: 1 | 2 | 3 | 4, ...data: number[]) =>
      loadImage({ width: 2, height: 1, channels, data: Uint8ClampedArray.from(data) });
    expect([...(await pixels(1, 5, 6)).data]).toEqual([5, 5, 5, 6, 6, 6]);
    expect([...(await pixels(2, 5, 0, 6, 9)).data]).toEqual([5, 5, 5, 6, 6, 6]);
    expect([...(await pixels(3, 1, 2, 3, 4, 5, 6)).data]).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...(await pixels(4, 1, 2, 3, 0, 4, 5, 6, 9)).data]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it("are read anew each time", async () => {
    const path = join(folder, "changes.png");
    await writeFile(path, await readFile(golden));
    const before = await loadImage(path);
    await writeFile(path, await readFile("test/golden/images/grey.png"));
    expect(await loadImage(path)).not.toEqual(before);
  });
});

describe("what is refused", () => {
  it("says where and why", async () => {
    const path = join(folder, "x.png");
    expect(await refusal(join(folder, "none.png"))).toBe("DIR/none.png: this picture does not exist");
    expect(await refusal(folder)).toBe("DIR: a picture file is required, this is a folder or a device");
    expect(await refusal(new URL("https://example.org/a.png"))).toMatchInlineSnapshot(
      `"https://example.org/a.png: only file: URLs are read; download the picture and pass its bytes"`,
    );
    await writeFile(path, "");
    expect(await refusal(path)).toMatchInlineSnapshot(`"DIR/x.png: a picture is required, this is empty"`);
    await writeFile(path, "plainly no picture");
    expect(await refusal(path)).toMatchInlineSnapshot(
      `"DIR/x.png: not a picture, or of a kind that is not supported (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, PBM, PGM, PPM, ICO and SVG are)"`,
    );
    expect(await refusal(new Uint8Array(3))).toMatchInlineSnapshot(
      `"picture of 3 bytes: not a picture, or of a kind that is not supported (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, PBM, PGM, PPM, ICO and SVG are)"`,
    );
  });

  it.each(["rgb.png", "rgb.jpg", "progressive.jpg", "lossless.webp", "rgb.tif", "palette.gif"])(
    "a truncated %s",
    async (name) => {
      const bytes = await readFile(`test/golden/images/${name}`);
      const path = join(folder, name);
      await writeFile(path, bytes.subarray(0, Math.floor(bytes.length * 0.6)));
      expect(await refusal(path)).toMatch(
        new RegExp(`^DIR/${name}: (this picture is damaged or incomplete \\(|not a picture)`),
      );
    },
  );

  it("a header that claims too many pixels, without decoding", async () => {
    const png = await readFile(golden);
    for (const [width, height] of [
      [20_000, 20_000],
      [1_000_000, 1_000_000],
    ] as const) {
      png.writeUInt32BE(width, 16);
      png.writeUInt32BE(height, 20);
      png.writeUInt32BE(crc32(png.subarray(12, 29)), 29);
      const path = join(folder, "bomb.png");
      await writeFile(path, png);
      expect(await refusal(path)).toBe(
        `DIR/bomb.png: the picture has ${width} x ${height} pixels, at most 100000000 are decoded; shrink it first`,
      );
    }
  });

  it("pixels that do not fit", async () => {
    expect(await refusal({ width: 2, height: 2, channels: 3, data: new Uint8Array(11) })).toBe(
      "image: 2 x 2 pixels of 3 channels need 12 bytes of data, got 11",
    );
    const wrong = [undefined, null, 3, {}, { width: 2, height: 1, channels: 5, data: new Uint8Array(10) }];
    for (const source of [
      ...wrong,
      { width: 0, height: 1, channels: 3, data: new Uint8Array(0) },
      { width: 1, height: 1, channels: 3, data: [1, 2, 3] },
    ]) {
      expect(await refusal(source)).toMatch(/^image: a path, a file: URL, the bytes/);
    }
  });

  it("nothing worse than a UserError for any damaged file", async () => {
    const originals = await Promise.all(
      ["rgb.png", "rgb.jpg", "palette.gif", "lossless.webp", "cmyk.tif"].map((name) =>
        readFile(`test/golden/images/${name}`),
      ),
    );
    const damage = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...originals),
        damage,
        fc.double({ min: 0, max: 1, noNaN: true }),
        async (original, flips, keep) => {
          const bytes = Uint8Array.from(original.subarray(0, Math.ceil(original.length * Math.sqrt(keep))));
          for (const [at, value] of flips) if (bytes.length > 0) bytes[at % bytes.length] = value;
          try {
            const { width, height, data } = await loadImage(bytes);
            expect(data.length).toBe(width * height * 3);
          } catch (error) {
            expect(error).toBeInstanceOf(UserError);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});
