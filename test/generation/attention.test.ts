import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { JsonObject } from "../../src/files/json-file.js";
import { readModelFolder, writeModelFolder } from "../../src/checkpoints/model-folder.js";
import { InterruptedError, UserError } from "../../src/errors.js";
import { Blip2Runner } from "../../src/generation/blip-2-runner.js";
import { float32Tensor } from "../../src/host-tensor.js";
import { Blip2, type ImageAttention } from "../../src/index.js";
import { blip2Config } from "../../src/models/blip-2.js";
import { expectClose, goldenNames, readGoldenCase } from "../golden-case.js";
import { pattern } from "../images/pattern.js";
import { sliceOf, testDevice } from "../nn/evaluate.js";
import { temporaryFolder, writeTinyModel } from "./tiny-model.js";
import { writeTinyT5 } from "./tiny-t5.js";

const device = testDevice();
let root: string;
beforeAll(async () => {
  root = await temporaryFolder();
});
afterAll(async () => {
  await device.close();
  await rm(root, { recursive: true });
});

const cases = [
  ...goldenNames("models", "blip2-opt").map((name) => ["models", name] as const),
  ...goldenNames("t5", "blip2-t5").map((name) => ["t5", name] as const),
];

function expectRowsOfOne({ probabilities, dims }: ImageAttention): void {
  const [layers, heads, queries, positions] = dims;
  expect(probabilities).toHaveLength(layers * heads * queries * positions);
  for (let row = 0; row < layers * heads * queries; row++) {
    const values = probabilities.subarray(row * positions, (row + 1) * positions);
    expect(values.reduce((a, b) => a + b)).toBeCloseTo(1, 5);
    expect(Math.min(...values)).toBeGreaterThanOrEqual(0);
  }
}

describe.each(cases)("attention of %s/%s", (group, name) => {
  it("agrees with transformers in each layer and head", async () => {
    const { config: json, weights, inputs } = await readGoldenCase<JsonObject>(group, name);
    const { outputs } = await readGoldenCase("attention", name);
    const folder = join(root, name);
    await writeModelFolder(folder, { config: json, tensors: weights, dtype: "float32" });
    const config = blip2Config(json);
    const file = (await readModelFolder(folder)).weights;
    const runner = await Blip2Runner.load(device, config, file, { parts: ["vision"] });
    const pixels = inputs["pixel_values"]!;
    const { cross_attention_frequency: frequency } = config.qformer_config;
    const side = config.vision_config.image_size / config.vision_config.patch_size;
    for (let b = 0; b < pixels.dims[0]!; b++) {
      const found = await runner.attention(sliceOf(pixels, 0, b, b + 1));
      const reference = sliceOf(outputs["probabilities"]!, 0, b, b + 1);
      const ours = float32Tensor(found.probabilities, [1, ...found.dims]);
      expectClose(name, ours, reference, { within: 1e-5 });
      expectRowsOfOne(found);
      expect(found.layers).toEqual([0, 1, 2].slice(0, found.dims[0]).map((i) => i * frequency));
      expect(found.grid).toEqual({ rows: side, columns: side, covered: 1 });
      expect(found.dims[3]).toBe(found.firstPatch + side ** 2);
    }
  });
});

describe.each([
  ["OPT", writeTinyModel],
  ["T5", writeTinyT5],
] as const)("Blip2.attention with %s", (name, write) => {
  const image = { ...pattern(23, 31), channels: 3 } as const;
  const other = { ...pattern(40, 17), channels: 3 } as const;
  let folder: string;
  let model: Blip2;
  beforeAll(async () => {
    folder = await write(join(root, `tiny-${name}`));
    model = await Blip2.load(folder, { threads: 1 });
  });
  afterAll(() => model.close());

  it("is the same whenever it is asked, and another for another picture", async () => {
    const found = await model.attention(image);
    expectRowsOfOne(found);
    expect([found.dims, found.layers]).toEqual([[1, 2, 3, 5], [0]]);
    const { tokenIds } = await model.generate({ image, maxNewTokens: 3 });
    expect(await model.attention(image)).toEqual(found);
    expect((await model.generate({ image, maxNewTokens: 3 })).tokenIds).toEqual(tokenIds);
    expect((await model.attention(other)).probabilities).not.toEqual(found.probabilities);
  });

  it("needs no language model", async () => {
    await using part = await Blip2.load(folder, { threads: 1, attentionOnly: true });
    expect(await part.attention(image)).toEqual(await model.attention(image));
    const run = part.generate({ image });
    await expect(run).rejects.toThrow(UserError);
    await expect(run).rejects.toThrow(/has not been loaded.*without attentionOnly/);
  });

  it("is near the exact numbers in 8 bits", async () => {
    await using coarse = await Blip2.load(folder, { threads: 1, attentionOnly: true, precision: "int8" });
    const [exact, found] = [await model.attention(image), await coarse.attention(image)];
    expectRowsOfOne(found);
    expect(found.probabilities).not.toEqual(exact.probabilities);
    for (const [i, value] of found.probabilities.entries()) {
      expect(Math.abs(value - exact.probabilities[i]!)).toBeLessThan(0.1);
    }
  });

  it("is refused by name", async () => {
    await expect(model.attention(image, { signals: 1 } as object)).rejects.toThrow(
      /attention: unknown option signals; did you mean signal/,
    );
    await expect(model.attention(image, { signal: AbortSignal.abort() })).rejects.toThrow(InterruptedError);
    await expect(model.attention("/no/such.png")).rejects.toThrow(/this picture does not exist/);
  });
});

it("says where the patches end that do not fill the picture", async () => {
  const folder = await writeTinyModel(join(root, "uneven"));
  await using model = await Blip2.load(folder, { threads: 1, attentionOnly: true, imageSize: 30 });
  const { grid, dims } = await model.attention({ ...pattern(23, 31), channels: 3 });
  expect(grid).toEqual({ rows: 3, columns: 3, covered: 24 / 30 });
  expect(dims[3]).toBe(10);
});
