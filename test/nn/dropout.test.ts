import { afterAll, describe, expect, it } from "vitest";
import { gradients, input, ops, type Tensor } from "../../src/engine/index.js";
import { float32Tensor, type HostTensor } from "../../src/host-tensor.js";
import { Dropout, noDropout } from "../../src/nn/dropout.js";
import { evaluate, testDevice } from "./evaluate.js";

const device = testDevice();
afterAll(() => device.close());

const size = 20_000;
const x = input("x", "float32", ["N"]);
const seed = input("seed", "uint64", []);
const values = float32Tensor(new Float32Array(size).fill(3), [size]);
const seedOf = (value: number): HostTensor => ({
  dtype: "uint64",
  dims: [],
  data: BigUint64Array.of(BigInt(value)),
});

const run = async (outputs: Record<string, Tensor>, at: number): Promise<Record<string, Float32Array>> => {
  const found = await evaluate(device, outputs, { x: values, seed: seedOf(at) });
  return Object.fromEntries(Object.entries(found).map(([key, value]) => [key, value.data as Float32Array]));
};

const dropped = (found: Float32Array): number => found.filter((value) => value === 0).length / found.length;

describe("dropout", () => {
  it("does nothing without a seed or at rate 0", () => {
    expect(noDropout.apply(x, 0.5)).toBe(x);
    expect(new Dropout(seed).apply(x, 0)).toBe(x);
  });

  it.each([0.1, 0.5])("drops a share of %d and scales the rest", async (rate) => {
    const { found } = await run({ found: new Dropout(seed).apply(x, rate) }, 5);
    expect(Math.abs(dropped(found!) - rate)).toBeLessThan(5 * Math.sqrt((rate * (1 - rate)) / size));
    const kept = found!.filter((value) => value !== 0);
    expect(kept.every((value) => Math.abs(value - 3 / (1 - rate)) < 1e-5)).toBe(true);
  });

  it("draws anew at each application and for each seed", async () => {
    const dropout = new Dropout(seed);
    const outputs = { first: dropout.apply(x, 0.5), second: dropout.apply(x, 0.5) };
    const [one, two] = [await run(outputs, 1), await run(outputs, 2)];
    const agreement = (a: Float32Array, b: Float32Array) =>
      a.filter((value, i) => (value === 0) === (b[i] === 0)).length / size;
    const limit = 5 * Math.sqrt(0.25 / size);
    expect(Math.abs(agreement(one["first"]!, one["second"]!) - 0.5)).toBeLessThan(limit);
    expect(Math.abs(agreement(one["first"]!, two["first"]!) - 0.5)).toBeLessThan(limit);
    // The second stream of one seed is not the first of the next.
    expect(Math.abs(agreement(one["second"]!, two["first"]!) - 0.5)).toBeLessThan(limit);
  });

  it("replays in an equal graph with the same seed", async () => {
    const build = () => {
      const dropout = new Dropout(seed);
      return { first: dropout.apply(x, 0.3), second: dropout.apply(x, 0.3) };
    };
    const [one, two] = [await run(build(), 9), await run(build(), 9)];
    expect(one["first"]).toEqual(two["first"]);
    expect(one["second"]).toEqual(two["second"]);
  });

  it("sends gradients through what was kept", async () => {
    const found = new Dropout(seed).apply(x, 0.25);
    const [gradient] = gradients(ops.reduceSum(found), [x]);
    const { value, way } = await run({ value: found, way: gradient! }, 3);
    for (const [i, one] of way!.entries()) expect(one).toBeCloseTo(value![i]! / 3, 5);
  });
});
