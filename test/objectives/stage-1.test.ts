import { afterAll, describe, expect, it } from "vitest";
import { topologicalOrder } from "../../src/engine/autodiff.js";
import { emit } from "../../src/engine/emit.js";
import type { Node } from "../../src/engine/graph.js";
import { gradients, input, ops, trainableParameters, type Tensor } from "../../src/engine/index.js";
import { Dropout } from "../../src/nn/dropout.js";
import { negativeChances } from "../../src/objectives/hard-negatives.js";
import { expectClose, goldenNames, readGoldenCase } from "../golden-case.js";
import { evaluate, nested, testDevice } from "../nn/evaluate.js";
import {
  expectGradients,
  gradientOutputs,
  stage1Graph,
  type Stage1CaseOptions,
  type Stage1Fields,
} from "./golden-stage.js";

const device = testDevice();
afterAll(() => device.close());

const read = (name: string) => readGoldenCase<Stage1Fields, Stage1CaseOptions>("stages", name);

describe.each(goldenNames("stages", "stage1"))("%s", async (name) => {
  const golden = await read(name);
  const { parameters, model, features, ids, mask, losses } = stage1Graph(golden);
  const { image_features: _, ...weightGradients } = golden.gradients;

  it("has the reference's parameters, each reached by the loss", () => {
    const stored = [...golden.weights].map(([key, { dims }]) => [key, dims]);
    expect(Object.fromEntries(parameters.shapes)).toEqual(Object.fromEntries(stored));
    expect([...trainableParameters([losses.loss]).keys()].sort()).toEqual([...golden.weights.keys()].sort());
  });

  it("has the reference's losses", async () => {
    const { loss, itc, itm, itg } = losses;
    const found = await evaluate(device, { total: loss, itc, itm, itg }, golden.inputs, golden.weights);
    for (const key of ["total", "itc", "itm", "itg"]) {
      const value = Number(found[key]!.data[0]);
      if (process.env["BLIP2_SHOW_DIFFERENCES"] !== undefined) {
        console.log(`${name} ${key}: absolute ${Math.abs(value - golden.scalars[key]!).toExponential(1)}`);
      }
      expect(Math.abs(value - golden.scalars[key]!), key).toBeLessThanOrEqual(1e-5);
    }
  });

  it("has the reference's similarities and chances of negatives", async () => {
    const { imageToText, textToImage } = losses.similarities;
    const size = Number(imageToText.shape[0]);
    const id =
      golden.inputs["image_ids"] === undefined ? ops.range(size) : input("image_ids", "int64", [size]);
    const own = ops.equal(ops.reshape(id, [size, 1]), ops.reshape(id, [1, size]));
    const image = model.branch.imageKeyValues(features);
    const outputs = {
      sim_i2t: imageToText,
      sim_t2i: textToImage,
      weights_i2t: negativeChances(imageToText, own),
      weights_t2i: negativeChances(textToImage, own),
      image_embeds: model.imageEmbeds(model.branch.queries(size, image).lastHiddenState),
      text_embeds: model.textEmbeds(ids, mask),
    };
    const found = await evaluate(device, outputs, golden.inputs, golden.weights);
    for (const key of Object.keys(outputs)) {
      // Similarities are as large as 1 / temperature.
      const within = key.startsWith("sim") ? 1e-4 : 1e-5;
      expectClose(`${name} ${key}`, found[key], golden.outputs[key], { within });
    }
  });

  it("has the reference's share of right decisions", async () => {
    const found = await evaluate(device, { right: losses.itmAccuracy }, golden.inputs, golden.weights);
    const logits = nested(golden.outputs["itm_logits"]!) as number[][];
    const size = golden.inputs["input_ids"]!.dims[0]!;
    const right = logits.filter(([first = 0, second], i) => {
      const matches = second === undefined ? first > 0 : second > first;
      return matches === i < size;
    });
    expect(Number(found["right"]!.data[0])).toBeCloseTo(right.length / logits.length, 6);
  });

  it("has the reference's gradients", async () => {
    const targets = new Map([...trainableParameters([losses.loss]), ["image_features", features]]);
    const outputs = gradientOutputs(losses.loss, targets);
    const found = await evaluate(device, outputs, golden.inputs, golden.weights);
    expect(Object.keys(weightGradients).sort()).toEqual([...golden.weights.keys()].sort());
    expectGradients(name, found, golden.gradients);
  });
});

describe("parts of the stage-1 loss", async () => {
  const golden = await read("stage1-batch3");

  it.each([[["itc"] as const], [["itm"] as const], [["itc", "itg"] as const]])(
    "sums %j only, and trains on no other",
    async (objectives) => {
      const { losses } = stage1Graph(golden, { objectives });
      const { loss, itc, itm, itg } = losses;
      const found = await evaluate(device, { loss, itc, itm, itg }, golden.inputs, golden.weights);
      const value = (key: string) => Number(found[key]!.data[0]);
      expect(value("loss")).toBeCloseTo(
        objectives.reduce((sum, key) => sum + value(key), 0),
        5,
      );
      const reached = [...trainableParameters([loss]).keys()];
      expect(reached.includes("itm_head.weight")).toBe((objectives as readonly string[]).includes("itm"));
      expect(reached.includes("cls.predictions.bias")).toBe(
        (objectives as readonly string[]).includes("itg"),
      );
      expect(reached.includes("temp")).toBe((objectives as readonly string[]).includes("itc"));
    },
  );

  it("needs a seed when negatives are not given, and a fixed batch size", () => {
    expect(() => stage1Graph(golden, { negatives: undefined! })).toThrow("hard negatives need a seed");
  });

  it("lets no gradient pass the draw of negatives", async () => {
    const seed = input("seed", "uint64", []);
    const { losses } = stage1Graph(golden, { negatives: undefined!, seed });
    // The matching loss alone does not depend on the contrastive heads except through the draw.
    expect(trainableParameters([losses.itm]).has("temp")).toBe(true);
    expect(() => gradients(losses.itm, [trainableParameters([losses.itm]).get("temp")!])).toThrow(
      "the loss does not depend on temp",
    );
  });

  it("replays dropout and draws from the seed, and changes with it", async () => {
    const graph = () => {
      const seed = input("seed", "uint64", []);
      return stage1Graph(golden, { negatives: undefined!, seed, dropout: new Dropout(seed) }).losses.loss;
    };
    const at = async (seed: bigint) => {
      const feeds = {
        ...golden.inputs,
        seed: { dtype: "uint64", dims: [], data: BigUint64Array.of(seed) } as const,
      };
      return Number((await evaluate(device, { loss: graph() }, feeds, golden.weights))["loss"]!.data[0]);
    };
    const [first, again, other] = [await at(1n), await at(1n), await at(2n)];
    expect(again).toBe(first);
    expect(other).not.toBe(first);
  });

  it("gives every draw a stream of its own", () => {
    const seed = input("seed", "uint64", []);
    const { losses } = stage1Graph(golden, { negatives: undefined!, seed, dropout: new Dropout(seed) });
    const streams = topologicalOrder([losses.loss]).flatMap((node) =>
      node.kind === "uniform" || node.kind === "keepMask"
        ? [(node as Node<"uniform" | "keepMask">).attributes.stream]
        : [],
    );
    expect(streams.length).toBeGreaterThan(30);
    expect(new Set(streams).size).toBe(streams.length);
  });
});

describe("work that the stage-1 losses share", async () => {
  const golden = await read("stage1-batch3");
  const { parameters, losses } = stage1Graph(golden);
  const tensors = new Map(parameters.all.map(({ name, tensor }) => [name, tensor]));
  /** Matrix products with a weight in the graph of all three losses. */
  const products = (name: string, roots = [losses.loss]): Node[] =>
    topologicalOrder(roots).filter(({ kind, inputs }) => kind === "gemm" && inputs[1] === tensors.get(name));
  const layer = (i: number, rest: string) => `qformer.encoder.layer.${i}.${rest}.weight`;

  it("projects an image's keys and values once per cross-attention layer", () => {
    for (const i of [0, 2]) {
      expect(products(layer(i, "crossattention.attention.key"))).toHaveLength(1);
      expect(products(layer(i, "crossattention.attention.value"))).toHaveLength(1);
      // The query-only run and the matching run look at it.
      expect(products(layer(i, "crossattention.attention.query"))).toHaveLength(2);
    }
    expect(tensors.has(layer(1, "crossattention.attention.key"))).toBe(false);
    // Over the batch of three and not over the nine pairs of matching.
    const [keys] = products(layer(0, "crossattention.attention.key"));
    expect(keys!.outputs[0]!.shape).toEqual(["3*P", golden.config.hidden]);
  });

  it("runs the queries alone once: contrast and generation share it", () => {
    for (let i = 0; i < golden.config.layers; i++) {
      // Queries alone, text alone, both together, text after cached queries.
      expect(products(layer(i, "attention.attention.key"))).toHaveLength(4);
      expect(products(layer(i, "attention.attention.query"))).toHaveLength(4);
      expect(products(layer(i, "intermediate_query.dense"))).toHaveLength(2);
      // Matching reads the queries' outputs alone, so its last layer leaves out the text.
      expect(products(layer(i, "intermediate.dense"))).toHaveLength(i === golden.config.layers - 1 ? 2 : 3);
    }
    const keys = (root: Tensor) => products(layer(0, "attention.attention.key"), [root]);
    expect(keys(losses.itc).filter((node) => keys(losses.itg).includes(node))).toHaveLength(1);
  });

  it("emits no matrix product beyond those", () => {
    const { nodeTypes } = emit({ loss: losses.loss });
    const { layers, cross_attention_frequency: frequency } = golden.config;
    const crossLayers = Math.ceil(layers / frequency);
    const perRun = 4;
    const selfAttention = 4 * perRun * layers;
    const cross = crossLayers * (2 + 2 * 2);
    const feedForward = 2 * (2 + 3) * layers - 2;
    // Projections 2, similarities 2, matching head 1, generation 2.
    expect(nodeTypes.filter((type) => type === "Gemm")).toHaveLength(selfAttention + cross + feedForward + 7);
  });

  it("computes no forward product a second time for the gradients", () => {
    const targets = [...trainableParameters([losses.loss]).values()];
    const all = [losses.loss, ...gradients(losses.loss, targets)];
    // A forward product reads the weight transposed, the way back reads it as it is.
    const forward = products(layer(0, "crossattention.attention.key"), all).filter(
      (node) => (node as Node<"gemm">).attributes.transB,
    );
    expect(forward).toHaveLength(1);
  });
});
