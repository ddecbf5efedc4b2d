import { describe, expect, it } from "vitest";
import { trainableParameters, ops } from "../../src/engine/index.js";
import { Embedding, LayerNorm, Linear, torchLinearInit } from "../../src/nn/layers.js";
import { Parameters, normal, ones, zeros } from "../../src/nn/parameters.js";

describe("parameters", () => {
  it("stand under the path of their scope", () => {
    const parameters = new Parameters(() => true);
    const scope = parameters.scope("a").at("b", 0, "", "c");
    scope.tensor("weight", [2, 3], zeros);
    parameters.scope().tensor("temp", [], zeros);
    expect(scope.path).toBe("a.b.0.c");
    expect([...parameters.shapes]).toEqual([
      ["a.b.0.c.weight", [2, 3]],
      ["temp", []],
    ]);
  });

  it("are frozen or trainable by name", () => {
    const parameters = new Parameters((name) => !name.startsWith("encoder."));
    const frozen = parameters.scope("encoder").tensor("weight", [2], zeros);
    const trained = parameters.scope("bridge").tensor("weight", [2], zeros);
    expect(frozen.node.kind).toBe("frozen");
    expect(trained.node.kind).toBe("parameter");
    expect(parameters.trainable.map(({ name }) => name)).toEqual(["bridge.weight"]);
    expect(parameters.frozen.map(({ name }) => name)).toEqual(["encoder.weight"]);
    expect([...trainableParameters([ops.add(frozen, trained)]).keys()]).toEqual(["bridge.weight"]);
  });

  it("of one name are one tensor, so that a tied weight is one weight", () => {
    const parameters = new Parameters(() => true);
    const words = new Embedding(parameters.scope("words"), 5, 3, normal(0.1));
    const head = new Linear(parameters.scope("words"), 3, 5, { bias: false });
    expect(head.weight).toBe(words.weight);
    expect(parameters.all).toHaveLength(1);
    // The first declaration says how it starts.
    expect(parameters.all[0]!.initialiser).toEqual(normal(0.1));
  });

  it("of one name and two shapes are refused, with both", () => {
    const parameters = new Parameters(() => true);
    parameters.scope("layer").tensor("weight", [2, 3], zeros);
    expect(() => parameters.scope("layer").tensor("weight", [3, 2], zeros)).toThrow(
      "parameter layer.weight is declared as [2, 3] and [3, 2]",
    );
  });

  it("of two sets do not meet", () => {
    const make = () => new Parameters(() => true).scope().tensor("weight", [2], zeros);
    expect(make()).not.toBe(make());
  });
});

describe("layers", () => {
  it("declare PyTorch's names and shapes, and start as BERT's or as PyTorch's own", () => {
    const parameters = new Parameters(() => true);
    const at = (path: string) => parameters.scope(path);
    const layers = [
      new Linear(at("linear"), 4, 6),
      new Linear(at("bare"), 4, 6, { bias: false }),
      new Linear(at("torch"), 4, 6, torchLinearInit(4)),
      new LayerNorm(at("norm"), 4, 1e-5),
      new Embedding(at("table"), 7, 4),
    ];
    expect(layers).toHaveLength(5);
    const uniform = { kind: "uniform", bound: 0.5 };
    expect(parameters.all.map(({ name, shape, initialiser }) => [name, shape, initialiser])).toEqual([
      ["linear.weight", [6, 4], normal(0.02)],
      ["linear.bias", [6], zeros],
      ["bare.weight", [6, 4], normal(0.02)],
      ["torch.weight", [6, 4], uniform],
      ["torch.bias", [6], uniform],
      ["norm.weight", [4], ones],
      ["norm.bias", [4], zeros],
      ["table.weight", [7, 4], normal(0.02)],
    ]);
  });
});
