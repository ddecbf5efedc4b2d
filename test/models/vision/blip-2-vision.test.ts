import { afterAll, describe, expect, it } from "vitest";
import { input } from "../../../src/engine/index.js";
import { Blip2VisionModel, blip2VisionConfigSchema } from "../../../src/models/vision/blip-2-vision.js";
import { Parameters } from "../../../src/nn/parameters.js";
import { difference, expectClose, goldenNames, readGoldenCase } from "../../golden-case.js";
import { evaluate, rowsOf, testDevice } from "../../nn/evaluate.js";

const device = testDevice();
afterAll(() => device.close());

describe.each(goldenNames("models", "blip-2-vision"))("%s", async (name) => {
  const golden = await readGoldenCase("models", name);
  const config = blip2VisionConfigSchema.parse(golden.config);
  const build = (epsilon: number) => {
    const parameters = new Parameters(() => false);
    const model = new Blip2VisionModel({ ...config, layer_norm_eps: epsilon }, parameters.scope());
    const pixels = input("pixel_values", "float32", ["B", 3, config.image_size, config.image_size]);
    return { parameters, ...model.forward(pixels) };
  };
  const { parameters, hiddenStates, lastHiddenState } = build(config.layer_norm_eps);
  const states = Object.fromEntries(hiddenStates.map((state, i) => [`hidden_states.${i}`, state]));
  const outputs = { ...states, last_hidden_state: lastHiddenState };

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

  it("reads the norms' epsilon from the config", async () => {
    const { lastHiddenState: other } = build(0.1);
    const found = await evaluate(device, { other }, golden.inputs, golden.weights);
    expect(difference(found["other"]!, golden.outputs["last_hidden_state"]!).absolute).toBeGreaterThan(1e-2);
  });

  it("gives a picture the same features alone as in its batch", async () => {
    const last = golden.inputs["pixel_values"]!.dims[0]! - 1;
    const alone = { pixel_values: rowsOf(golden.inputs["pixel_values"]!, last, last + 1) };
    const found = await evaluate(device, { features: lastHiddenState }, alone, golden.weights);
    const reference = rowsOf(golden.outputs["last_hidden_state"]!, last, last + 1);
    expectClose(`${name} alone`, found["features"], reference, { within: 1e-4 });
  });
});
