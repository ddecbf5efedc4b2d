/** Pictures of other sizes than the position table's, against PyTorch's interpolation and transformers' models. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readModelFolder, writeModelFolder } from "../../src/checkpoints/model-folder.js";
import type { JsonObject } from "../../src/files/json-file.js";
import { input } from "../../src/engine/index.js";
import { Blip2 } from "../../src/index.js";
import { sizedVision } from "../../src/loading/picture-size.js";
import { resizePositions } from "../../src/models/vision/position-table.js";
import { parseVisionConfig, visionEncoder } from "../../src/models/vision/vision-encoder.js";
import { Parameters } from "../../src/nn/parameters.js";
import { temporaryFolder, writeGoldenModel } from "../generation/tiny-model.js";
import { expectClose, goldenNames, readGoldenCase } from "../golden-case.js";
import { evaluate, testDevice } from "../nn/evaluate.js";

let root: string;
const device = testDevice();
beforeAll(async () => {
  root = await temporaryFolder();
});
afterAll(async () => {
  await device.close();
  await rm(root, { recursive: true });
});

describe("position tables equal torch.nn.functional.interpolate", async () => {
  const { inputs, outputs } = await readGoldenCase("retrieval", "positions-1");
  it.each(Object.keys(inputs))("%s", (name) => {
    const [from, to] = name.split("-").map(Number) as [number, number];
    const plain = resizePositions(inputs[name]!, from, to, false);
    expectClose(name, plain, outputs[name], { within: 5e-6 });
    const aligned = resizePositions(inputs[name]!, from, to, true);
    expectClose(`${name} aligned`, aligned, outputs[`${name}-aligned`], { within: 5e-6 });
  });
});

describe.each(goldenNames("models", "blip-2-vision"))("%s", (name) => {
  it("agrees with transformers on a picture of another size", async () => {
    const golden = await readGoldenCase<JsonObject>("models", name);
    const pixels = golden.inputs["interpolated_pixel_values"]!;
    const side = pixels.dims[2]!;
    const tensors = new Map([...golden.weights].map(([key, value]) => [`vision_model.${key}`, value]));
    const files = { "preprocessor_config.json": { size: { height: side, width: side } } };
    await writeModelFolder(join(root, name), { config: golden.config, tensors, dtype: "float32", files });
    const folder = await readModelFolder(join(root, name));
    // Once because the file says so, once because the caller does.
    for (const asked of [undefined, side]) {
      const { vision, weights, preprocessing } = sizedVision(
        folder,
        parseVisionConfig(golden.config, name),
        asked,
      );
      expect([vision.image_size, preprocessing.size]).toEqual([side, { width: side, height: side }]);
      const parameters = new Parameters(() => false);
      const encoder = visionEncoder(vision, parameters);
      const hidden = encoder.features(input("pixel_values", "float32", ["B", 3, side, side]));
      const outputs = { found: encoder.normalise(hidden) };
      const stored = await weights.readAll(parameters.shapes.keys());
      const { found } = await evaluate(device, outputs, { pixel_values: pixels }, stored);
      expectClose(name, found, golden.outputs["interpolated_last_hidden_state"], { within: 1e-4 });
    }
  });
});

describe("CLIP inside BLIP-2", async () => {
  const golden = await readGoldenCase<JsonObject>("retrieval", "clip-1");

  it.each([
    ["at its own size", undefined, ""],
    ["at a size that leaves a rest beside the patches", 27, "larger_"],
  ])("agrees with the reference %s", async (_, imageSize, prefix) => {
    const folder = await writeGoldenModel(join(root, `clip-${prefix}`), golden);
    await using model = await Blip2.load(folder, { threads: 1, imageSize });
    const found = await model.forward({
      pixelValues: golden.inputs[`${prefix}pixel_values`]!,
      inputIds: golden.inputs["input_ids"]!,
      attentionMask: golden.inputs["attention_mask"]!,
    });
    const compare = (key: string, tensor: (typeof found)["logits"], rows?: (typeof found)["logits"]) =>
      expectClose(key, tensor, golden.outputs[prefix + key], { within: 1e-4, rows });
    compare("vision", found.visionFeatures);
    compare("query_output", found.queryOutput);
    compare("language_projection", found.languageProjection);
    compare("logits", found.logits, golden.inputs["attention_mask"]);
  });

  it("needs no last block", async () => {
    const weights = new Map(
      [...golden.weights].filter(([name]) => !name.startsWith("vision_model.encoder.layers.2.")),
    );
    expect(weights.size).toBe(golden.weights.size - 16);
    const folder = await writeGoldenModel(join(root, "clip-cut"), { ...golden, weights });
    await using model = await Blip2.load(folder, { threads: 1 });
    expect(model.config.vision_config.model_type).toBe("clip_vision_model");
  });
});
