import sharp from "sharp";
import { describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import { drawAttention } from "../../src/images/draw-attention.js";
import type { PatchMap } from "../../src/images/patch-map.js";
import type { RawImage } from "../../src/images/load-image.js";

const grey = (width: number, height: number): RawImage => ({
  data: new Uint8Array(width * height).fill(128),
  width,
  height,
  channels: 1,
});

/** Zeros but for one patch. */
function spot(rows: number, columns: number, row: number, column: number, covered = 1): PatchMap {
  const values = new Float32Array(rows * columns);
  values[row * columns + column] = 0.3;
  return { rows, columns, covered, values };
}

async function decoded(png: Uint8Array) {
  const metadata = await sharp(png).metadata();
  const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true });
  expect([metadata.format, info.channels]).toEqual(["png", 3]);
  const at = (x: number, y: number): number[] => [...data.subarray((y * info.width + x) * 3).subarray(0, 3)];
  return { width: info.width, height: info.height, at };
}
const sum = (colour: readonly number[]): number => colour.reduce((a, b) => a + b);

describe("the drawing", () => {
  it("has the picture as it is, and beside it the heat where it belongs", async () => {
    const { width, height, at } = await decoded(await drawAttention(grey(96, 96), { map: spot(4, 4, 1, 2) }));
    expect([width, height]).toEqual([3 * 12 + 2 * 384, 2 * 12 + 384]);
    for (const [x, y] of [
      [12, 12],
      [200, 100],
      [395, 395],
    ] as const) {
      expect(at(x, y)).toEqual([128, 128, 128]);
    }
    expect(at(11, 12)).toEqual([246, 246, 246]);
    // Middles of patches of 96 pixels.
    const middle = (row: number, column: number) => at(408 + column * 96 + 48, 12 + row * 96 + 48);
    const hot = middle(1, 2);
    expect(hot[0]).toBeGreaterThan(210);
    for (const [row, column] of [
      [0, 0],
      [1, 0],
      [2, 1],
      [3, 3],
    ] as const) {
      expect(sum(middle(row, column))).toBeLessThan(sum(hot) - 250);
    }
    // The lines between patches are darker.
    expect(sum(at(408 + 96, 12 + 336))).toBeLessThan(sum(at(408 + 92, 12 + 336)) - 20);
  });

  it("keeps the shape of the picture", async () => {
    const wide = await decoded(await drawAttention(grey(200, 50), { map: spot(2, 2, 0, 1) }));
    expect([wide.width, wide.height]).toEqual([36 + 768, 24 + 96]);
    expect(wide.at(408 + 288, 12 + 24)[0]).toBeGreaterThan(200);
    expect(wide.at(408 + 96, 12 + 72)[0]).toBeLessThan(110);
    const narrow = await decoded(
      await drawAttention(grey(1, 500), { map: spot(2, 2, 0, 1), panels: [spot(2, 2, 0, 1)] }),
    );
    expect([narrow.width, narrow.height]).toEqual([44, 24 + 384 + 96 + 12]);
  });

  it("has small ones below, eight in a row, each with a scale of its own", async () => {
    const faint = { ...spot(4, 4, 3, 0), values: spot(4, 4, 3, 0).values.map((value) => value / 1000) };
    const panels = [spot(4, 4, 0, 0), ...Array.from({ length: 8 }, () => faint)];
    const { width, height, at } = await decoded(
      await drawAttention(grey(96, 96), { map: panels[0]!, panels }),
    );
    expect([width, height]).toEqual([804, 24 + 384 + 2 * 96 + 4 + 12]);
    const middle = (panel: number, row: number, column: number) =>
      at(4 + (panel % 8) * 100 + column * 24 + 12, 408 + Math.floor(panel / 8) * 100 + row * 24 + 12);
    expect(middle(0, 0, 0)[0]).toBeGreaterThan(210);
    expect(middle(0, 3, 0)[0]).toBeLessThan(110);
    for (const panel of [1, 7, 8]) {
      expect(middle(panel, 3, 0)[0]).toBeGreaterThan(210);
      expect(middle(panel, 0, 0)[0]).toBeLessThan(110);
    }
    expect(at(4 + 150, 408 + 100 + 50)).toEqual([246, 246, 246]);
  });

  it("leaves what no patch covers as it is", async () => {
    const { at } = await decoded(await drawAttention(grey(96, 96), { map: spot(3, 3, 2, 2, 0.75) }));
    expect(at(408 + 300, 12 + 300)).toEqual([128, 128, 128]);
    expect(at(408 + 240, 12 + 240)[0]).toBeGreaterThan(210);
  });

  it("has no heat where there is no attention", async () => {
    const nothing = { rows: 2, columns: 2, covered: 1, values: new Float32Array(4) };
    const { at } = await decoded(await drawAttention(grey(96, 96), { map: nothing }));
    expect(Math.max(...at(408 + 100, 12 + 100))).toBeLessThan(128);
  });

  it("refuses maps that are none", async () => {
    const draw = (map: PatchMap) => drawAttention(grey(8, 8), { map });
    const fine = spot(2, 2, 0, 0);
    await expect(draw({ ...fine, rows: 3 })).rejects.toThrow(UserError);
    await expect(draw({ ...fine, rows: 3 })).rejects.toThrow(/got 4 values for 3 x 2 patches/);
    await expect(draw({ ...fine, covered: 0 })).rejects.toThrow(/cover 0$/);
    await expect(draw({ ...fine, values: Float32Array.of(0, 1, NaN, 0) })).rejects.toThrow(/at least 0/);
    await expect(drawAttention("/no/such.png", { map: fine })).rejects.toThrow(/does not exist/);
  });
});
