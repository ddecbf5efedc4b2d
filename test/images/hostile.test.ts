/** Files that claim or take much, and work that is stopped. Values are never compared with a clock here. */
import { mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { deflateSync } from "node:zlib";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { InterruptedError, UserError } from "../../src/errors.js";
import { decodeSvg, svgLimits } from "../../src/images/formats/svg.js";
import { loadImage, type ImageSource } from "../../src/images/load-image.js";
import { pngChunk } from "./encoders.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "blip2-hostile-"));
});
afterAll(() => rm(folder, { recursive: true }));

const refusal = async (source: ImageSource): Promise<string> => {
  const error: unknown = await loadImage(source).then(
    () => new Error("was accepted"),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as Error).message;
};

const u32 = (...values: number[]): Buffer => Buffer.from(Uint32Array.from(values).buffer);
const u16 = (...values: number[]): Buffer => Buffer.from(Uint16Array.from(values).buffer);
const big = (...values: number[]): Buffer => u32(...values).swap32();

const headers: Readonly<Record<string, (width: number, height: number) => Buffer>> = {
  png: (width, height) =>
    Buffer.concat([
      Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
      pngChunk("IHDR", Buffer.concat([big(width, height), Buffer.from([8, 2, 0, 0, 0])])),
      pngChunk("IDAT", deflateSync(Buffer.alloc(20))),
      pngChunk("IEND", Buffer.alloc(0)),
    ]),
  bmp: (width, height) =>
    Buffer.concat([Buffer.from("BM"), u32(0, 0, 54, 40, width, height), u16(1, 24), u32(0, 0, 0, 0, 0, 0)]),
  ppm: (width, height) => Buffer.from(`P6 ${width} ${height} 255\nabc`),
  tiff: (width, height) =>
    Buffer.concat([
      Buffer.from("II*\0"),
      u32(8),
      u16(4),
      ...[256, 257, 262, 273].map((tag, i) =>
        Buffer.concat([u16(tag, 4), u32(1, [width, height, 1, 8][i]!)]),
      ),
      u32(0),
    ]),
  avif: (width, height) => {
    const box = (kind: string, ...parts: Buffer[]): Buffer => {
      const body = Buffer.concat(parts);
      return Buffer.concat([big(body.length + 8), Buffer.from(kind), body]);
    };
    const zero = big(0);
    const properties = box(
      "iprp",
      box("ipco", box("ispe", zero, big(width, height))),
      box("ipma", zero, big(1), Buffer.from([0, 1, 1, 1])),
    );
    return Buffer.concat([
      box("ftyp", Buffer.from("avif\0\0\0\0avif")),
      box("meta", zero, box("pitm", zero, Buffer.from([0, 1])), properties),
    ]);
  },
};

describe("sizes that are not taken on", () => {
  it.each(Object.keys(headers))("in the header of %s", async (kind) => {
    const most = kind === "avif" ? 30_000_000 : 100_000_000;
    expect(await refusal(headers[kind]!(30_000, 30_000))).toContain(
      `the picture has 30000 x 30000 pixels, at most ${most} are decoded; shrink it first`,
    );
    for (const [width, height] of [
      [100_000, 1],
      [1, 65_536],
    ] as const) {
      expect(await refusal(headers[kind]!(width, height))).toContain(
        `the picture has ${width} x ${height} pixels, at most 65535 a side are decoded; cut it first`,
      );
    }
  });

  it("of WebP, JPEG and GIF", async () => {
    const webp = Buffer.concat([
      Buffer.from("RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0"),
      Buffer.alloc(6, 0xff),
    ]);
    expect(await refusal(webp)).toContain("16777216 x 16777216 pixels");
    const jpeg = await readFile("test/golden/images/progressive.jpg");
    const frame = jpeg.indexOf(Buffer.from([0xff, 0xc2]));
    jpeg.writeUInt16BE(9_000, frame + 5);
    jpeg.writeUInt16BE(9_000, frame + 7);
    // Until its last scan libjpeg holds all of it, twice as large.
    expect(await refusal(jpeg)).toContain("9000 x 9000 pixels, at most 60000000 are decoded");
    const gif = await readFile("test/golden/images/palette.gif");
    gif.writeUInt16LE(60_000, 6);
    gif.writeUInt16LE(60_000, 8);
    expect(await refusal(gif)).toContain("60000 x 60000 pixels");
  });

  it("of short files that claim much", async () => {
    expect(await refusal("test/golden/picture-cases/png-1e8x1.png")).toContain("65535 a side");
    expect(await refusal("test/golden/picture-cases/gif-9999-short.gif")).toContain(
      "its pixels end too early",
    );
    for (const kind of ["png", "bmp", "ppm", "tiff"])
      expect(await refusal(headers[kind]!(9_000, 9_000))).toMatch(/damaged or incomplete/);
  });

  it("of files that are too long", async () => {
    const path = join(folder, "long.png");
    // A hole: no bytes are written.
    const file = await open(path, "w");
    await file.truncate(200_000_001);
    await file.close();
    expect(await refusal(path)).toBe(
      `${path}: the file has 200000001 bytes, at most 200000000 are read; shrink it first`,
    );
  });

  it("of pixels that the caller gives", async () => {
    const data = new Uint8Array(70_000);
    expect(await refusal({ width: 70_000, height: 1, channels: 1, data })).toContain(
      "65535 a side are accepted",
    );
  });
});

describe("PNG in pieces", () => {
  it("is read from chunks of a byte each, and refused where a wrong checksum could turn it", async () => {
    const rows = Buffer.concat(
      Array.from({ length: 40 }, (_, y) => Buffer.from([0, ...Buffer.alloc(120, y)])),
    );
    const header = Buffer.concat([big(40, 40), Buffer.from([8, 2, 0, 0, 0])]);
    const packed = deflateSync(rows, { level: 0 });
    const file = (extra: Buffer): Buffer =>
      Buffer.concat([
        Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
        pngChunk("IHDR", header),
        extra,
        ...Array.from(packed, (byte) => pngChunk("IDAT", Buffer.from([byte]))),
        pngChunk("IDAT", Buffer.alloc(0)),
        pngChunk("IEND", Buffer.alloc(0)),
      ]);
    const { data } = await loadImage(file(Buffer.alloc(0)));
    expect([...data]).toEqual(Array.from({ length: 40 * 120 }, (_, i) => Math.floor(i / 120)));
    const wrong = pngChunk("eXIf", Buffer.from("MM\0*\0\0\0\x08\0\0"));
    wrong[wrong.length - 1]! ^= 1;
    expect(await refusal(file(wrong))).toContain("the checksum of its eXIf is wrong");
  });
});

describe("names in messages", () => {
  it("are cut where they hold a picture, or are endless", async () => {
    const url = `data:image/png;base64,${"iVBORw0KGgo".repeat(9000)}`;
    expect(await refusal(url)).toBe(
      `data:image/png;base64,iVBORw0KGgoiVBORw0... (${url.length} characters): data: URLs are not read; decode it and pass the bytes, or write them to a file`,
    );
    for (const long of [
      url.slice(22),
      `/${"a/".repeat(10_000)}`,
      new URL(url),
      new URL(`http://a.b/${"c".repeat(9000)}`),
    ])
      expect((await refusal(long)).length).toBeLessThan(400);
    const error = (await loadImage(url.slice(22)).catch((thrown: unknown) => thrown)) as Error;
    expect((error.cause as Error).message.length).toBeLessThan(500);
    expect(await refusal(pathToFileURL(join(folder, "none.png")))).toContain(
      "none.png: this picture does not exist",
    );
  });
});

describe("SVG", () => {
  const svg = (inside: string, size = 60): Buffer =>
    Buffer.from(`<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${size}">${inside}</svg>`);
  // A minute of work.
  const slow = svg(
    `<filter id="f"><feTurbulence baseFrequency="0.01" numOctaves="1000"/></filter>${'<rect width="2000" height="2000" filter="url(#f)"/>'.repeat(20)}`,
    2000,
  );

  it("is drawn as before, in a process of its own", async () => {
    const drawing = svg(
      '<rect width="30" height="60" fill="#c33"/><circle cx="40" cy="30" r="12" fill="#00f8"/>',
    );
    const direct = await sharp(drawing).toColourspace("srgb").removeAlpha().raw().toBuffer();
    const { width, height, data } = await loadImage(drawing);
    expect([width, height]).toEqual([60, 60]);
    expect(Buffer.compare(Buffer.from(data), direct)).toBe(0);
  });

  it("is refused where it is large, or no drawing", async () => {
    expect(await refusal("test/golden/picture-cases/svg-2000-turb.svg")).toContain(
      "the drawing has 3000 x 3000 pixels, of SVG at most 4194304 are drawn",
    );
    expect(await refusal(Buffer.from("<svg nonsense"))).toMatch(/damaged or incomplete|not a picture/);
  });

  it("is given up when it takes too long or too much memory", async () => {
    await expect(decodeSvg(slow, undefined, { ...svgLimits, milliseconds: 400 })).rejects.toThrow(
      "drawing it takes more than 0.4 seconds; save it as PNG",
    );
    await expect(decodeSvg(slow, undefined, { ...svgLimits, bytes: 2 ** 20 })).rejects.toThrow(
      "drawing it takes more than 1 MB of memory; save it as PNG",
    );
  });

  it("ends with its process when it is stopped", async () => {
    const controller = new AbortController();
    // Settles when the process has ended.
    const work = decodeSvg(slow, controller.signal, { ...svgLimits, milliseconds: 10 * 60_000 });
    setTimeout(() => controller.abort(), 500);
    await expect(work).rejects.toBeInstanceOf(InterruptedError);
  });
});

describe("a signal", () => {
  it("stops a decoding before, and while it goes on", async () => {
    const reason = new Error("enough");
    const stopped = (error: unknown): boolean => error instanceof InterruptedError && error.cause === reason;
    const before = loadImage("test/golden/images/rgb.png", { signal: AbortSignal.abort(reason) });
    await expect(before).rejects.toSatisfy(stopped);
    const large = join(folder, "large.jpg");
    await writeFile(
      large,
      await sharp({ create: { width: 3000, height: 3000, channels: 3, background: "#c33" } })
        .jpeg({ progressive: true })
        .toBuffer(),
    );
    for (const source of [large, "test/golden/picture-cases/transparent.gif", await readFile(large)]) {
      const controller = new AbortController();
      const work = loadImage(source, { signal: controller.signal });
      controller.abort(reason);
      await expect(work).rejects.toSatisfy(stopped);
    }
  });
});
