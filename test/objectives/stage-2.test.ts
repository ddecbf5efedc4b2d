import { afterAll, describe, expect, it } from "vitest";
import { topologicalOrder } from "../../src/engine/autodiff.js";
import type { Node } from "../../src/engine/graph.js";
import { gradients, input, ops, trainableParameters } from "../../src/engine/index.js";
import { float32Tensor, int64Tensor } from "../../src/host-tensor.js";
import { SecondStage } from "../../src/models/blip-2-bridge.js";
import { Opt, optConfigSchema } from "../../src/models/language/opt.js";
import { withQueries } from "../../src/nn/attention-masks.js";
import { Parameters } from "../../src/nn/parameters.js";
import { promptScalePenalty, softPromptLoss } from "../../src/objectives/stage-2.js";
import { expectClose, goldenNames, readGoldenCase, type GoldenCase } from "../golden-case.js";
import { evaluate, testDevice } from "../nn/evaluate.js";
import { expectGradients, gradientOutputs, qFormerConfig, type QFormerFields } from "./golden-stage.js";

const device = testDevice();
afterAll(() => device.close());

interface Config {
  readonly qformer: QFormerFields;
  readonly opt: {
    readonly vocab: number;
    readonly hidden: number;
    readonly layers: number;
    readonly heads: number;
    readonly ffn: number;
    readonly positions: number;
    readonly pre_norm: boolean;
  };
}
interface Options {
  readonly prompt_length: number;
}

const isFrozen = (name: string): boolean => name.startsWith("language_model.");

function build(
  { config: { qformer, opt } }: GoldenCase<Config, Options>,
  isTrainable: (name: string) => boolean,
) {
  const parameters = new Parameters(isTrainable);
  const bridge = new SecondStage(
    {
      qformer: qFormerConfig(qformer),
      visionNormEpsilon: qformer.post_layernorm_eps,
      queryCount: qformer.queries,
      languageSize: opt.hidden,
    },
    parameters.scope(),
  );
  const languageModel = new Opt(
    optConfigSchema.parse({
      vocab_size: opt.vocab,
      hidden_size: opt.hidden,
      num_hidden_layers: opt.layers,
      num_attention_heads: opt.heads,
      ffn_dim: opt.ffn,
      max_position_embeddings: opt.positions,
      do_layer_norm_before: opt.pre_norm,
    }),
    parameters.scope("language_model"),
  );
  const batch = {
    features: input("image_features", "float32", ["B", "P", qformer.image_width]),
    ids: input("input_ids", "int64", ["B", "T"]),
    mask: input("attention_mask", "int64", ["B", "T"]),
    labels: input("labels", "int64", ["B", "T"]),
  };
  return { parameters, bridge, languageModel, batch, loss: softPromptLoss(bridge, languageModel, batch) };
}

describe.each(goldenNames("stages", "stage2"))("%s", async (name) => {
  const golden = await readGoldenCase<Config, Options>("stages", name);
  const { parameters, bridge, languageModel, batch, loss } = build(golden, (key) => !isFrozen(key));

  it("has the reference's parameters, the language model's frozen", () => {
    const stored = [...golden.weights].map(([key, { dims }]) => [key, dims]);
    expect(Object.fromEntries(parameters.shapes)).toEqual(Object.fromEntries(stored));
    expect([...trainableParameters([loss]).keys()].sort()).toEqual(Object.keys(golden.gradients).sort());
    expect(parameters.frozen.every((declared) => isFrozen(declared.name))).toBe(true);
  });

  it("has the reference's soft prompt and logits", async () => {
    const { queryOutput, softPrompt } = bridge.forward(batch.features);
    const { lastHiddenState } = languageModel.forward({
      inputsEmbeds: ops.concat([softPrompt, languageModel.embed(batch.ids)], 1),
      attentionMask: withQueries(batch.mask, golden.config.qformer.queries),
    });
    const outputs = {
      query_output: queryOutput,
      language_projection: softPrompt,
      logits: languageModel.logits(lastHiddenState),
      rows: withQueries(batch.mask, golden.config.qformer.queries),
    };
    const found = await evaluate(device, outputs, golden.inputs, golden.weights);
    for (const key of ["query_output", "language_projection", "logits"]) {
      const rows = key === "logits" ? found["rows"] : undefined;
      expectClose(`${name} ${key}`, found[key], golden.outputs[key], { within: 1e-4, rows });
    }
  });

  it("has the reference's loss and gradients", async () => {
    const outputs = { loss, ...gradientOutputs(loss, trainableParameters([loss])) };
    const found = await evaluate(device, outputs, golden.inputs, golden.weights);
    const off = Math.abs(Number(found["loss"]!.data[0]) - golden.scalars["loss"]!);
    if (process.env["BLIP2_SHOW_DIFFERENCES"] !== undefined) console.log(`${name} loss: absolute ${off}`);
    expect(off).toBeLessThanOrEqual(1e-5);
    expectGradients(name, found, golden.gradients);
  });

  it("learns from the labels alone, and not from what is masked in them", async () => {
    const labels = golden.inputs["labels"]!;
    const { prompt_length: prompt } = golden.options;
    const length = labels.dims[1]!;
    const values = [...labels.data].map(Number);
    // A prompt and padding are masked; the first label of a text without prompt is kept.
    expect(values.every((label, i) => i % length >= prompt || label === -100)).toBe(true);
    expect(values[0] === -100).toBe(prompt > 0);
    // Labels of the first text only: the loss is that of the first text alone.
    const firstOnly = int64Tensor(
      values.map((label, i) => (i < length ? label : -100)),
      labels.dims,
    );
    const cut = (key: string) => {
      const whole = golden.inputs[key]!;
      const [, ...rest] = whole.dims;
      const count = rest.reduce((a, b) => a * b, 1);
      return { ...whole, dims: [1, ...rest], data: whole.data.slice(0, count) };
    };
    const alone = Object.fromEntries(Object.keys(golden.inputs).map((key) => [key, cut(key)]));
    const [masked, single] = [
      await evaluate(device, { loss }, { ...golden.inputs, labels: firstOnly }, golden.weights),
      await evaluate(device, { loss }, alone, golden.weights),
    ];
    expect(Number(masked["loss"]!.data[0])).toBeCloseTo(Number(single["loss"]!.data[0]), 5);
  });
});

describe("the penalty on the scale of a soft prompt", () => {
  it("is nothing up to the limit, and grows with the square of what is above it", async () => {
    const softPrompt = input("soft", "float32", ["B", "Q", 4]);
    const penalty = promptScalePenalty(softPrompt, 2);
    const [gradient] = gradients(penalty, [softPrompt]);
    // Root mean squares 0, 2 and 5: of three positions, one is 1.5 times the limit above it.
    const soft = float32Tensor([0, 0, 0, 0, 2, -2, 2, -2, 3, 4, -6, Math.sqrt(39)], [1, 3, 4]);
    const found = await evaluate(device, { penalty, gradient: gradient! }, { soft });
    expect(found["penalty"]!.data[0]).toBeCloseTo(1.5 ** 2 / 3, 6);
    // d/dx of (rms / 2 - 1)^2 / 3 is 2 (rms / 2 - 1) / 3 / 2 * x / (4 rms).
    const expected = [3, 4, -6, Math.sqrt(39)].map((x) => (1.5 / 3) * (x / 20));
    const values = [...found["gradient"]!.data].map(Number);
    expect(values.slice(0, 8).every((value) => value === 0)).toBe(true);
    for (const [i, value] of expected.entries()) expect(values[8 + i]).toBeCloseTo(value, 6);
  });

  it("is added to the loss where a limit is given", async () => {
    const golden = await readGoldenCase<Config, Options>("stages", "stage2-padded");
    const { bridge, languageModel, batch, loss } = build(golden, () => true);
    const limit = 1e-3;
    const whole = softPromptLoss(bridge, languageModel, batch, undefined, limit);
    const penalty = promptScalePenalty(bridge.forward(batch.features).softPrompt, limit);
    const found = await evaluate(device, { loss, penalty, whole }, golden.inputs, golden.weights);
    const [base, extra, sum] = ["loss", "penalty", "whole"].map((key) => Number(found[key]!.data[0]));
    expect(extra).toBeGreaterThan(0);
    expect(sum! / (base! + extra!)).toBeCloseTo(1, 5);
  });
});

describe("frozen weights", async () => {
  const golden = await readGoldenCase<Config, Options>("stages", "stage2-padded");
  const { bridge, opt } = { bridge: golden.config.qformer, opt: golden.config.opt };

  /** Shapes that only a language model's weight has here, and nodes of such a shape that are not leaves. */
  const weightGradients = (isTrainable: (name: string) => boolean): Node[] => {
    const { parameters, loss } = build(golden, isTrainable);
    const bridgeShapes = new Set(
      parameters.all.flatMap(({ name, shape }) => (isFrozen(name) ? [] : [shape.join()])),
    );
    const shapes = new Set(
      parameters.all.flatMap(({ name, shape }) => (isFrozen(name) ? [shape.join()] : [])),
    );
    for (const shape of bridgeShapes) shapes.delete(shape);
    expect(shapes).toContain(`${opt.vocab},${opt.hidden}`);
    expect(shapes).toContain(`${opt.ffn},${opt.hidden}`);
    const targets = [...trainableParameters([loss])].flatMap(([name, tensor]) =>
      isFrozen(name) ? [] : [tensor],
    );
    const found = gradients(
      loss,
      isTrainable("language_model.") ? [...trainableParameters([loss]).values()] : targets,
    );
    return topologicalOrder(found).filter(
      ({ kind, outputs }) =>
        !["frozen", "parameter", "constant"].includes(kind) &&
        outputs.some(({ shape }) => shapes.has(shape.join())),
    );
  };

  it("have no gradient in the graph", () => {
    expect(weightGradients((name) => !isFrozen(name))).toEqual([]);
    // The same search finds them when the language model is trained too.
    expect(weightGradients(() => true).length).toBeGreaterThan(10);
    expect(bridge.text).toBe(false);
  });

  it("cost one product per matrix on the way back, trained ones two", () => {
    const products = (isTrainable: (name: string) => boolean) => {
      const { loss } = build(golden, isTrainable);
      const roots = [loss, ...gradients(loss, [...trainableParameters([loss]).values()])];
      return topologicalOrder(roots).filter(({ kind }) => kind === "gemm").length;
    };
    // Six matrices a layer, and the head.
    expect(products(() => true) - products((name) => !isFrozen(name))).toBe(6 * opt.layers + 1);
  });
});
