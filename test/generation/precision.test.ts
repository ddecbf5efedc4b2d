import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { openDevice } from "../../src/engine/node.js";
import { WorkerDevice } from "../../src/engine/session.js";
import { UserError } from "../../src/errors.js";
import { Blip2 } from "../../src/generation/blip-2.js";
import type { ForwardOutputs } from "../../src/generation/calls.js";
import { Blip2Runner, blip2Parts } from "../../src/generation/blip-2-runner.js";
import { float32Tensor, int64Tensor } from "../../src/host-tensor.js";
import { blip2Config } from "../../src/models/blip-2.js";
import { heldForm, type Precision } from "../../src/loading/precision.js";
import { temporaryFolder, writeTinyModel } from "./tiny-model.js";

let root: string;
let folder: string;
beforeAll(async () => {
  root = await temporaryFolder();
  folder = await writeTinyModel(join(root, "tiny"));
});
afterAll(() => rm(root, { recursive: true }));

const pixels = float32Tensor(
  Float32Array.from({ length: 2 * 3 * 16 * 16 }, (_, i) => Math.sin(i * 0.37)),
  [2, 3, 16, 16],
);

async function forward(precision: Precision): Promise<ForwardOutputs> {
  await using model = await Blip2.load(folder, { precision, threads: 1 });
  const image = model.config.image_token_index!;
  const row = [image, image, image, 2, 5, 9, 30];
  return await model.forward({
    pixelValues: pixels,
    inputIds: int64Tensor([...row, ...row], [2, row.length]),
  });
}

/** The difference's root mean square over that of the exact values. */
function error(
  found: ForwardOutputs,
  exact: ForwardOutputs,
  key: "visionFeatures" | "languageProjection" | "logits",
): number {
  const [ours, theirs] = [found[key].data, exact[key].data].map((data) => [...(data as Float32Array)]);
  const square = (list: readonly number[]): number => list.reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(square(ours!.map((value, i) => value - theirs![i]!)) / square(theirs!));
}

describe("a model in few bits", () => {
  it("is near the exact one, and int8 nearer than int4", async () => {
    const exact = await forward("fp32");
    const [int8, int4] = [await forward("int8"), await forward("int4")];
    for (const key of ["visionFeatures", "languageProjection"] as const) {
      expect(error(int8, exact, key)).toBeLessThan(0.03);
      expect(error(int8, exact, key)).toBeGreaterThan(0);
      expect(int4[key].data).toEqual(int8[key].data);
    }
    expect(error(int8, exact, "logits")).toBeLessThan(0.03);
    expect(error(int4, exact, "logits")).toBeLessThan(0.25);
    expect(error(int4, exact, "logits")).toBeGreaterThan(error(int8, exact, "logits"));
    expect((await readdir(folder)).filter((name) => name.startsWith("blip2-"))).toEqual([
      "blip2-int4.safetensors",
      "blip2-int8.safetensors",
    ]);
  });

  it("loads from the copy that is there, and tells how far it is", async () => {
    await forward("int8");
    const copy = join(folder, "blip2-int8.safetensors");
    const { mtimeMs } = await stat(copy);
    const seen: string[] = [];
    await using model = await Blip2.load(folder, {
      precision: "int8",
      threads: 1,
      onProgress: ({ detail, step, total }) => {
        if (step === total) seen.push(detail);
      },
    });
    expect(model.config.model_type).toBe("blip-2");
    expect(seen).toEqual(["check", "load"]);
    expect((await stat(copy)).mtimeMs).toBe(mtimeMs);
  });

  it("serves pictures of another size from the same copy", async () => {
    const remarks: string[] = [];
    const onNotice = (notice: string): unknown => remarks.push(notice);
    await using exact = await Blip2.load(folder, { imageSize: 32, threads: 1 });
    await using rounded = await Blip2.load(folder, {
      imageSize: 32,
      threads: 1,
      precision: "int8",
      onNotice,
    });
    const inputs = {
      pixelValues: float32Tensor(
        Float32Array.from({ length: 3 * 32 * 32 }, (_, i) => Math.sin(i * 0.37)),
        [1, 3, 32, 32],
      ),
      inputIds: int64Tensor([...Array<number>(3).fill(exact.config.image_token_index!), 2, 5], [1, 5]),
    };
    const found = await rounded.forward(inputs);
    expect(error(found, await exact.forward(inputs), "visionFeatures")).toBeLessThan(0.03);
    expect(remarks).toEqual([]);
  });

  it.each(["int8", "int4"] as const)(
    "is as near in the form for processors that saturate: %s",
    async (precision) => {
      const exact = await forward("fp32");
      const open = WorkerDevice.open.bind(WorkerDevice);
      const forced = vi
        .spyOn(WorkerDevice, "open")
        .mockImplementation((options) => open({ ...options, byteProducts: "unsigned" }));
      const safe = await forward(precision);
      expect(forced).toHaveBeenCalled();
      forced.mockRestore();
      const own = await forward(precision);
      for (const key of ["visionFeatures", "languageProjection", "logits"] as const) {
        expect(error(safe, exact, key)).toBeLessThan(1.1 * error(own, exact, key));
        // The whole numbers are the same on both ways.
        expect(error(safe, own, key)).toBeLessThan(1e-3);
      }
    },
  );

  it("refuses a precision that does not exist, by name", async () => {
    const options = { precision: "int3" as unknown as Precision };
    await expect(Blip2.load(folder, options)).rejects.toThrow(UserError);
    await expect(Blip2.load(folder, options)).rejects.toThrow(
      /load: precision is "int3": one of fp32, int8, int4 is required/,
    );
  });
});

describe.each(blip2Parts)("the part %s", (part) => {
  it("loads alone, and others say that they are missing", async () => {
    await using device = openDevice({ threads: 1 });
    const { config, weights } = await readModelFolder(folder);
    const runner = await Blip2Runner.load(device, blip2Config(config), weights, { parts: [part] });
    if (part === "languageModel") expect(runner.languageModel.maximumLength).toBe(64);
    else
      expect(() => runner.languageModel).toThrow(/the part languageModel of this model has not been loaded/);
    await expect(runner.softPrompts(pixels)).rejects.toThrow(
      /the part (vision|bridge) .* has not been loaded/,
    );
  });
});

it("chooses bits by name", () => {
  const form = (name: string, dims = [8, 8], tied = true): unknown => heldForm("int4", name, dims, tied);
  const [eight, four] = [
    { bits: 8, table: false },
    { bits: 4, table: false },
  ];
  expect(form("vision_model.encoder.layers.0.mlp.fc1.weight")).toEqual(eight);
  expect(form("qformer.encoder.layer.0.attention.attention.query.weight")).toEqual(eight);
  expect(form("language_model.model.decoder.layers.0.fc1.weight")).toEqual(four);
  expect(form("language_model.lm_head.weight")).toEqual(eight);
  expect(form("language_model.model.decoder.embed_tokens.weight")).toEqual({ bits: 8, table: true });
  expect(form("language_model.shared.weight", [8, 8], false)).toBeUndefined();
  for (const name of [
    "language_model.model.decoder.embed_positions.weight",
    "language_model.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "language_projection.weight",
    "query_tokens",
    "language_model.model.decoder.layers.0.fc1.bias",
  ]) {
    expect(form(name)).toBeUndefined();
  }
  expect(form("vision_model.embeddings.patch_embedding.weight", [8, 3, 2, 2])).toBeUndefined();
  expect(heldForm("int8", "language_model.model.decoder.layers.0.fc1.weight", [8, 8], true)).toEqual(eight);
});
