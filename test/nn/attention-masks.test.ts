/** Every mask against the matrix in its description, written out: 1 may look. */
import { afterAll, describe, expect, it } from "vitest";
import { input, type Tensor } from "../../src/engine/index.js";
import { int64Tensor } from "../../src/host-tensor.js";
import * as masks from "../../src/nn/attention-masks.js";
import { evaluate, nested, testDevice } from "./evaluate.js";

const device = testDevice();
afterAll(() => device.close());

const mask = input("mask", "int64", ["B", "T"]);

/** The mask for these rows of ones and zeros as [B, rows, columns]: 1 where it adds nothing, 0 where it hides. */
async function visible(built: Tensor, rows: readonly (readonly number[])[]): Promise<unknown> {
  const feeds = { mask: int64Tensor(rows.flat(), [rows.length, rows[0]!.length]) };
  const { dims, data } = (await evaluate(device, { found: built }, feeds))["found"]!;
  expect(dims[1]).toBe(1);
  const seen = Array.from(data as Float32Array, (value) => {
    expect([0, masks.masked]).toContain(value);
    return Number(value === 0);
  });
  return nested(int64Tensor(seen, [dims[0]!, ...dims.slice(2)]));
}

describe("attention masks", () => {
  it("padding: one row of columns for all rows", async () => {
    const found = await visible(masks.paddingMask(mask), [
      [1, 1, 0],
      [1, 1, 1],
      [0, 1, 1],
    ]);
    expect(found).toEqual([[[1, 1, 0]], [[1, 1, 1]], [[0, 1, 1]]]);
  });

  it("causal", async () => {
    const found = await visible(masks.causalMask(mask), [
      [1, 1, 1],
      [1, 1, 0],
      [0, 1, 1],
    ]);
    expect(found).toEqual([
      [
        [1, 0, 0],
        [1, 1, 0],
        [1, 1, 1],
      ],
      [
        [1, 0, 0],
        [1, 1, 0],
        [1, 1, 0],
      ],
      [
        [0, 0, 0],
        [0, 1, 0],
        [0, 1, 1],
      ],
    ]);
  });

  it("causal, the last rows only", async () => {
    const four = input("mask", "int64", ["B", 4]);
    expect(
      await visible(masks.causalMask(four, 2), [
        [1, 1, 1, 1],
        [0, 1, 1, 1],
      ]),
    ).toEqual([
      [
        [1, 1, 1, 0],
        [1, 1, 1, 1],
      ],
      [
        [0, 1, 1, 0],
        [0, 1, 1, 1],
      ],
    ]);
  });

  it("bidirectional: queries and real text for all rows", async () => {
    const found = await visible(masks.bidirectionalMask(mask, 2), [
      [1, 0],
      [1, 1],
    ]);
    expect(found).toEqual([[[1, 1, 1, 0]], [[1, 1, 1, 1]]]);
  });

  it("unimodal", async () => {
    expect(await visible(masks.unimodalMask(mask, 2), [[1, 0]])).toEqual([
      [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 0],
      ],
    ]);
  });

  it("multimodal causal", async () => {
    expect(
      await visible(masks.multimodalCausalMask(mask, 2), [
        [1, 1],
        [1, 0],
      ]),
    ).toEqual([
      [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 1],
      ],
      [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 0],
      ],
    ]);
  });

  it("cached multimodal causal: the text rows of the same", async () => {
    expect(
      await visible(masks.cachedMultimodalCausalMask(mask, 2), [
        [1, 1],
        [1, 0],
      ]),
    ).toEqual([
      [
        [1, 1, 1, 0],
        [1, 1, 1, 1],
      ],
      [
        [1, 1, 1, 0],
        [1, 1, 1, 0],
      ],
    ]);
  });

  it("ones for queries before a text mask", async () => {
    const feeds = { mask: int64Tensor([1, 1, 0], [1, 3]) };
    const { found } = await evaluate(device, { found: masks.withQueries(mask, 2) }, feeds);
    expect(nested(found!)).toEqual([[1, 1, 1, 1, 0]]);
  });
});
