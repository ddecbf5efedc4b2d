/** Stage 2 with a T5 against the PyTorch of reference/stage2_t5.py: loss, logits and every gradient of the bridge. */
import { afterAll, describe, expect, it } from "vitest";
import { input, ops, trainableParameters } from "../../src/engine/index.js";
import { int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { SecondStage } from "../../src/models/blip-2-bridge.js";
import { T5, t5ConfigSchema } from "../../src/models/language/t5.js";
import { withQueries } from "../../src/nn/attention-masks.js";
import { Parameters } from "../../src/nn/parameters.js";
import { prefixLanguageModelLoss } from "../../src/objectives/stage-2.js";
import { textToTextLogits } from "../../src/objectives/text-to-text.js";
import { expectClose, goldenNames, readGoldenCase, type GoldenCase, type Tensors } from "../golden-case.js";
import { evaluate, rowsOf, sliceOf, testDevice } from "../nn/evaluate.js";
import { expectGradients, gradientOutputs, qFormerConfig, type QFormerFields } from "./golden-stage.js";

const device = testDevice();
afterAll(() => device.close());

interface Config {
  readonly qformer: QFormerFields;
  readonly t5: object;
  readonly pad: number;
  readonly start: number;
}

const isFrozen = (name: string): boolean => name.startsWith("language_model.");

function build({ config, weights }: GoldenCase<Config, unknown>) {
  const { qformer } = config;
  const parameters = new Parameters((name) => !isFrozen(name));
  const model = new T5(t5ConfigSchema.parse(config.t5), parameters.scope("language_model"), weights);
  const bridge = new SecondStage(
    {
      qformer: qFormerConfig(qformer),
      visionNormEpsilon: qformer.post_layernorm_eps,
      queryCount: qformer.queries,
      languageSize: model.embeddingSize,
    },
    parameters.scope(),
  );
  const batch = {
    features: input("image_features", "float32", ["B", "P", qformer.image_width]),
    prefixIds: input("prefix_ids", "int64", ["B", "S"]),
    prefixMask: input("prefix_mask", "int64", ["B", "S"]),
    labels: input("labels", "int64", ["B", "T"]),
  };
  const loss = prefixLanguageModelLoss(bridge, model, batch, config);
  return { parameters, bridge, model, batch, loss };
}

const names = goldenNames("stage2-t5", "stage2-t5");

it("has cases of one pair and of several", () => expect(names.length).toBeGreaterThanOrEqual(3));

describe.each(names)("%s", async (name) => {
  const golden = await readGoldenCase<Config>("stage2-t5", name);
  const { parameters, bridge, model, batch, loss } = build(golden);
  const { inputs, weights } = golden;
  const lossOf = async (feeds: Tensors): Promise<number> =>
    Number((await evaluate(device, { loss }, feeds, weights))["loss"]!.data[0]);

  it("has the reference's parameters, the language model's frozen", () => {
    const stored = [...weights].map(([key, { dims }]) => [key, dims]);
    expect(Object.fromEntries(parameters.shapes)).toEqual(Object.fromEntries(stored));
    expect([...trainableParameters([loss]).keys()].sort()).toEqual(Object.keys(golden.gradients).sort());
    expect(parameters.frozen.every((declared) => isFrozen(declared.name))).toBe(true);
  });

  it("has the reference's soft prompt and logits", async () => {
    const { queryOutput, softPrompt } = bridge.forward(batch.features);
    const read = {
      inputsEmbeds: ops.concat([softPrompt, model.embed(batch.prefixIds)], 1),
      encoderMask: withQueries(batch.prefixMask, golden.config.qformer.queries),
      labels: batch.labels,
    };
    const outputs = {
      query_output: queryOutput,
      language_projection: softPrompt,
      logits: textToTextLogits(model, read, golden.config),
    };
    const found = await evaluate(device, outputs, inputs, weights);
    for (const key of Object.keys(outputs)) {
      expectClose(`${name} ${key}`, found[key], golden.outputs[key], { within: 1e-4 });
    }
  });

  it("has the reference's loss and gradients", async () => {
    const outputs = { loss, ...gradientOutputs(loss, trainableParameters([loss])) };
    const found = await evaluate(device, outputs, inputs, weights);
    const off = Math.abs(Number(found["loss"]!.data[0]) - golden.scalars["loss"]!);
    if (process.env["BLIP2_SHOW_DIFFERENCES"] !== undefined) console.log(`${name} loss: absolute ${off}`);
    expect(off).toBeLessThanOrEqual(1e-5);
    expectGradients(name, found, golden.gradients);
  });

  it("is the mean over all labels of what each pair has alone, without its padding", async () => {
    const [count] = inputs["labels"]!.dims as [number];
    const real = (tensor: HostTensor, isReal: (value: number) => boolean) =>
      [...tensor.data].map(Number).filter(isReal).length;
    let [sum, labelled] = [0, 0];
    for (let row = 0; row < count; row++) {
      const own = (key: string): HostTensor => rowsOf(inputs[key]!, row, row + 1);
      const [prefix, target] = [
        real(own("prefix_mask"), (value) => value === 1),
        real(own("labels"), (value) => value !== -100),
      ];
      const alone = await lossOf({
        image_features: own("image_features"),
        prefix_ids: sliceOf(own("prefix_ids"), 1, 0, prefix),
        prefix_mask: sliceOf(own("prefix_mask"), 1, 0, prefix),
        labels: sliceOf(own("labels"), 1, 0, target),
      });
      sum += alone * target;
      labelled += target;
    }
    expect(sum / labelled).toBeCloseTo(golden.scalars["loss"]!, 5);
  });
});

describe("the prefix", async () => {
  const golden = await readGoldenCase<Config>("stage2-t5", "stage2-t5-batch1");
  const { loss } = build(golden);
  const { inputs, weights } = golden;
  const lossOf = async (prefix: readonly number[]): Promise<number> => {
    const feeds = {
      ...inputs,
      prefix_ids: int64Tensor(prefix, [1, prefix.length]),
      prefix_mask: int64Tensor(
        prefix.map(() => 1),
        [1, prefix.length],
      ),
    };
    return Number((await evaluate(device, { loss }, feeds, weights))["loss"]!.data[0]);
  };

  it("may be of any length, none included, and is read", async () => {
    const losses = [await lossOf([]), await lossOf([1]), await lossOf([7, 1]), await lossOf([9, 1])];
    expect(losses[1]).toBeCloseTo(golden.scalars["loss"]!, 5);
    expect(losses.every(Number.isFinite)).toBe(true);
    expect(new Set(losses.map((value) => value.toFixed(4))).size).toBe(4);
  });
});
