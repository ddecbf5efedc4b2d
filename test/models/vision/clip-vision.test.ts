import { afterAll, describe, expect, it } from "vitest";
import { input } from "../../../src/engine/index.js";
import { ClipVisionModel, clipVisionConfigSchema } from "../../../src/models/vision/clip-vision.js";
import { Parameters } from "../../../src/nn/parameters.js";
import { expectClose, goldenNames, readGoldenCase } from "../../golden-case.js";
import { evaluate, rowsOf, testDevice } from "../../nn/evaluate.js";

const device = testDevice();
afterAll(() => device.close());

describe.each(goldenNames("models", "clip-vision"))("%s", async (name) => {
  const golden = await readGoldenCase("models", name);
  const config = clipVisionConfigSchema.parse(golden.config);
  const parameters = new Parameters(() => false);
  const model = new ClipVisionModel(config, parameters.scope());
  const pixels = input("pixel_values", "float32", ["B", 3, config.image_size, config.image_size]);
  const { hiddenStates, lastHiddenState } = model.forward(pixels);
  const states = Object.fromEntries(hiddenStates.map((state, i) => [`hidden_states.${i}`, state]));
  const outputs = {
    ...states,
    last_hidden_state: lastHiddenState,
    pooler_output: model.pool(lastHiddenState),
  };

  it("has the checkpoint's parameters", () => {
    const stored = [...golden.weights].map(([key, { dims }]) => [key, dims]);
    expect(Object.fromEntries(parameters.shapes)).toEqual(Object.fromEntries(stored));
  });

  it("agrees with transformers at every block", async () => {
    const found = await evaluate(device, outputs, golden.inputs, golden.weights);
    for (const key of Object.keys(outputs)) {
      expectClose(`${name} ${key}`, found[key], golden.outputs[key], { within: 1e-4 });
    }
  });

  it("gives a picture the same features alone as in its batch", async () => {
    const first = { pixel_values: rowsOf(golden.inputs["pixel_values"]!, 0, 1) };
    const found = await evaluate(device, { features: lastHiddenState }, first, golden.weights);
    const reference = rowsOf(golden.outputs["last_hidden_state"]!, 0, 1);
    expectClose(`${name} alone`, found["features"], reference, { within: 1e-4 });
  });
});
