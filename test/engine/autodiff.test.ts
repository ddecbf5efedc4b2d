/** Reverse-mode differentiation: what is built, what is not, and what is refused. */
import { afterAll, describe, expect, test } from "vitest";
import {
  emit,
  gradients,
  input,
  ops,
  parameter,
  trainableParameters,
  frozen,
  type Tensor,
} from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import { topologicalOrder } from "../../src/engine/autodiff.js";
import { float32Tensor, type HostTensor } from "../../src/host-tensor.js";
import { numbers, randomTensor } from "./check-op.js";

const device = openDevice({ threads: 1 });
afterAll(() => device.close());

const vector = (...values: number[]): HostTensor => float32Tensor(values, [values.length]);

/** The gradient of sum(y) with respect to `x`, computed. */
async function slope(y: Tensor, x: Tensor, feeds: Readonly<Record<string, HostTensor>>): Promise<number[]> {
  const program = await device.compile({ g: gradients(ops.reduceSum(y), [x])[0]! });
  const used = new Set(program.inputs.map(({ name }) => name));
  const { g } = await program.run(
    Object.fromEntries(Object.entries(feeds).filter(([name]) => used.has(name))),
  );
  return numbers(g!);
}

/** The forward nodes, then those that the gradients add, as text. */
function show(outputs: readonly Tensor[]): string {
  const order = topologicalOrder(outputs);
  const label = new Map(
    order.map((node, i) => [node, "name" in node.attributes ? node.attributes.name : `v${i}`]),
  );
  return order
    .filter((node) => node.inputs.length > 0)
    .map(
      (node) => `${label.get(node)} = ${node.kind}(${node.inputs.map((x) => label.get(x.node)).join(", ")})`,
    )
    .join("\n");
}

describe("what is built", () => {
  const x = input("x", "float32", ["B", 4]);
  const w = parameter("w", [3, 4]);
  const bias = parameter("bias", [3]);
  const loss = ops.reduceSum(ops.tanh(ops.gemm(x, w, { transB: true }, bias)));

  test("a backward program", () => {
    expect(show([loss, ...gradients(loss, [w, bias])])).toMatchInlineSnapshot(`
      "v3 = gemm(x, w, bias)
      v4 = tanh(v3)
      v5 = reduceSum(v4)
      v6 = reshape(v5)
      v8 = reshape(v7)
      v10 = mul(v4, v4)
      v11 = sub(v9, v10)
      v12 = mul(v8, v11)
      v13 = gemm(v12, x)
      v15 = expand(v14)
      v16 = matmul(v15, v12)
      v17 = reshape(v16)"
    `);
  });

  test("only what the targets need", () => {
    const count = (targets: readonly Tensor[]): Record<string, number> => {
      const types: Record<string, number> = {};
      const made = gradients(loss, targets);
      const { nodeTypes } = emit(Object.fromEntries(made.map((g, i) => [`g${i}`, g])));
      for (const type of nodeTypes) types[type] = (types[type] ?? 0) + 1;
      return types;
    };
    // The forward product, then one for each gradient; that of the bias is a product with ones.
    expect(count([bias])).toMatchObject({ Gemm: 1, MatMul: 1 });
    expect(count([w])).toMatchObject({ Gemm: 2 });
    expect(count([w])).not.toHaveProperty("MatMul");
    expect(count([w, bias])).toMatchObject({ Gemm: 2, MatMul: 1 });
    expect(count([w, bias, x])).toMatchObject({ Gemm: 3, MatMul: 1 });
  });

  test("no gradient of a frozen weight, only the one through it", () => {
    const first = parameter("first", [4, 4]);
    const big = frozen("big", [4, 4]);
    const below = ops.reduceSum(ops.gemm(ops.tanh(ops.gemm(x, first)), big));
    const weights = new Map([["big", randomTensor([4, 4], 1)]]);
    const { nodeTypes } = emit({ g: gradients(below, [first])[0]! }, weights);
    // Forward of the first, back through the second, gradient of the first.
    expect(nodeTypes.filter((type) => type === "Gemm")).toHaveLength(3);

    const above = ops.reduceSum(ops.gemm(ops.tanh(ops.gemm(x, big)), first));
    const shallow = emit({ g: gradients(above, [first])[0]! }, weights);
    // Forward of the frozen part, gradient of the second: nothing goes back through the first.
    expect(shallow.nodeTypes.filter((type) => type === "Gemm")).toHaveLength(2);
  });

  test("trainable parameters in the order of use", () => {
    expect([...trainableParameters([loss]).keys()]).toEqual(["w", "bias"]);
    const twin = ops.add(loss, ops.reduceSum(parameter("w", [3, 4])));
    expect(() => trainableParameters([twin])).toThrow("two parameters are called w");
  });
});

describe("how gradients add up", () => {
  const x = input("x", "float32", [3]);
  const feeds = { x: vector(1, -2, 3) };

  test("a diamond: y = x^2 * (x^2 + x)", async () => {
    const square = ops.mul(x, x);
    const y = ops.mul(square, ops.add(square, x));
    expect(await slope(y, x, feeds)).toEqual([1, -2, 3].map((v) => 4 * v ** 3 + 3 * v ** 2));
  });

  test("one tensor used many times", async () => {
    const y = [x, x, x, ops.neg(x)].reduce((a, b) => ops.add(a, b));
    expect(await slope(y, x, feeds)).toEqual([2, 2, 2]);
  });

  test("a target between another target and the loss", async () => {
    const square = ops.mul(x, x);
    const [gx, gy, gl] = gradients(ops.reduceSum(ops.mul(square, 3)), [x, square, x]);
    const program = await device.compile({ gx: gx!, gy: gy!, gl: gl! });
    const found = await program.run(feeds);
    expect(numbers(found.gx!)).toEqual([6, -12, 18]);
    expect(numbers(found.gy!)).toEqual([3, 3, 3]);
    expect(numbers(found.gl!)).toEqual([6, -12, 18]);
  });

  test("the loss itself as the target", async () => {
    const loss = ops.reduceSum(x);
    const program = await device.compile({ g: gradients(loss, [loss])[0]! });
    expect(numbers((await program.run({})).g!)).toEqual([1]);
  });

  test("nothing passes stopGradient", async () => {
    expect(await slope(ops.mul(x, ops.stopGradient(x)), x, feeds)).toEqual([1, -2, 3]);
    const { nodeTypes } = emit({ y: ops.exp(ops.stopGradient(x)) });
    expect(nodeTypes).toEqual(["Exp"]);
  });

  test("a deep chain does not overflow the stack", () => {
    let y = x;
    for (let i = 0; i < 20_000; i++) y = ops.neg(y);
    expect(topologicalOrder(gradients(ops.reduceSum(y), [x]))).not.toHaveLength(0);
  });
});

describe("what is refused", () => {
  const x = input("x", "float32", ["B", 4]);
  const w = parameter("layer.weight", [4]);

  test("a loss that is not a scalar", () => {
    expect(() => gradients(ops.mul(x, w), [w])).toThrowErrorMatchingInlineSnapshot(
      `[InternalError: gradients: the loss must be a scalar, got mul float32[B, 4]]`,
    );
  });

  test("a target that the loss does not depend on", () => {
    expect(() => gradients(ops.reduceSum(x), [w])).toThrowErrorMatchingInlineSnapshot(
      `[InternalError: gradients: the loss does not depend on layer.weight]`,
    );
    expect(() => gradients(ops.reduceSum(x), [ops.exp(w)])).toThrowErrorMatchingInlineSnapshot(
      `[InternalError: gradients: the loss does not depend on exp float32[4]]`,
    );
  });

  test("a target behind stopGradient", () => {
    expect(() => gradients(ops.reduceSum(ops.stopGradient(w)), [w])).toThrow(
      "does not depend on layer.weight",
    );
  });

  test("a path through an index", () => {
    const place = ops.cast(ops.argmax(ops.mul(x, w)), "float32");
    expect(() => gradients(ops.reduceSum(place), [w])).toThrowErrorMatchingInlineSnapshot(
      `[InternalError: gradients: argmax lies between the loss and a target, but its result is an index]`,
    );
  });

  test("an index beside a differentiable path", async () => {
    const y = ops.maxLast(ops.mul(x, w));
    const feeds = { x: float32Tensor([1, 2, 3, 4, 8, 7, 6, 5], [2, 4]), "layer.weight": vector(1, 1, 1, 1) };
    expect(await slope(y, w, feeds)).toEqual([8, 0, 0, 4]);
  });
});
