/** Random numbers in the graph: reproducible, independent by stream and seed, evenly spread. */
import { afterAll, describe, expect, test } from "vitest";
import { gradients, input, ops } from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import type { HostTensor } from "../../src/host-tensor.js";
import { numbers, randomTensor } from "./check-op.js";

const device = openDevice({ threads: 1 });
const wide = openDevice({ threads: 2 });
afterAll(() => Promise.all([device.close(), wide.close()]));

const seedInput = input("seed", "uint64", []);
const seedOf = (value: bigint): HostTensor => ({ dtype: "uint64", dims: [], data: BigUint64Array.of(value) });
const count = 100_000;

async function draw(seed: bigint, stream = 0, on = device, size = count): Promise<number[]> {
  const program = await on.compile({ u: ops.uniform(seedInput, stream, [size]) });
  const { u } = await program.run({ seed: seedOf(seed) });
  await program.release();
  return numbers(u!);
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** Pearson's correlation. */
function correlation(a: readonly number[], b: readonly number[]): number {
  const [ma, mb] = [mean(a), mean(b)];
  const product = mean(a.map((value, i) => (value - ma) * (b[i]! - mb)));
  return product / Math.sqrt(mean(a.map((v) => (v - ma) ** 2)) * mean(b.map((v) => (v - mb) ** 2)));
}

describe("uniform", () => {
  test("replays exactly, whatever the thread count and the length", async () => {
    const first = await draw(42n);
    expect(await draw(42n)).toEqual(first);
    expect(await draw(42n, 0, wide)).toEqual(first);
    expect((await draw(42n, 0, device, 1000)).slice(0, 1000)).toEqual(first.slice(0, 1000));
  });

  test("is the published hash of seed, stream and place", async () => {
    const word = (value: bigint): bigint => BigInt.asUintN(64, value);
    const golden = 0x9e3779b97f4a7c15n;
    const hash = (state: bigint): bigint => {
      let z = word((state ^ (state >> 30n)) * 0xbf58476d1ce4e5b9n);
      z = word((z ^ (z >> 27n)) * 0x94d049bb133111ebn);
      return z ^ (z >> 31n);
    };
    const origin = hash(word(42n + golden * 4n));
    const expected = [0n, 1n, 2n, 3n].map((i) => Number(hash(word(origin + i * golden)) >> 40n) / 2 ** 24);
    expect(await draw(42n, 3, device, 4)).toEqual(expected);
  });

  test.each([0n, 1n, 0xffffffffffffffffn])("seed %s: moments and spread", async (seed) => {
    const values = await draw(seed);
    expect(Math.min(...values.slice(0, 50_000))).toBeGreaterThanOrEqual(0);
    expect(Math.max(...values.slice(0, 50_000))).toBeLessThan(1);
    // Four standard errors of the mean and of the variance.
    expect(Math.abs(mean(values) - 0.5)).toBeLessThan(4 * Math.sqrt(1 / 12 / count));
    expect(Math.abs(mean(values.map((v) => (v - 0.5) ** 2)) - 1 / 12)).toBeLessThan(
      4 * Math.sqrt(1 / 180 / count),
    );
    const bins = Array.from({ length: 256 }, () => 0);
    for (const value of values) bins[Math.floor(value * 256)]! += 1;
    const expected = count / 256;
    const chiSquare = bins.reduce((sum, found) => sum + (found - expected) ** 2 / expected, 0);
    // 255 degrees of freedom: mean 255, standard deviation 22.6.
    expect(chiSquare).toBeGreaterThan(255 - 4 * 22.6);
    expect(chiSquare).toBeLessThan(255 + 4 * 22.6);
  });

  test("neighbours, streams and seeds are not correlated", async () => {
    const base = await draw(7n, 0);
    const limit = 4 / Math.sqrt(count);
    expect(Math.abs(correlation(base.slice(0, -1), base.slice(1)))).toBeLessThan(limit);
    for (const other of [
      await draw(7n, 1),
      await draw(8n, 0),
      await draw(7n, 1000),
      await draw(1n << 40n, 0),
    ]) {
      expect(Math.abs(correlation(base, other))).toBeLessThan(limit);
      expect(Math.abs(correlation(base.slice(0, -1), other.slice(1)))).toBeLessThan(limit);
    }
  });

  test("has the shape asked for, also a named one", async () => {
    const x = input("x", "float32", ["B", 3]);
    const program = await device.compile({ y: ops.mul(x, ops.uniform(seedInput, 0, ["B", 3])) });
    const ones: HostTensor = { dtype: "float32", dims: [5, 3], data: new Float32Array(15).fill(1) };
    const { y } = await program.run({ x: ones, seed: seedOf(9n) });
    expect(numbers(y!)).toEqual(await draw(9n, 0, device, 15));
  });
});

describe("keepMask", () => {
  const rows = 400;
  const columns = 250;

  async function mask(seed: bigint, rate: number, stream = 0, on = device): Promise<number[]> {
    const program = await on.compile({ m: ops.keepMask(seedInput, stream, rate, [8, rows / 8, columns]) });
    const { m } = await program.run({ seed: seedOf(seed) });
    await program.release();
    return numbers(m!);
  }

  test("replays exactly, differs by seed and stream", async () => {
    const first = await mask(1n, 0.3);
    expect(await mask(1n, 0.3)).toEqual(first);
    expect(await mask(1n, 0.3, 0, wide)).toEqual(first);
    for (const other of [await mask(2n, 0.3), await mask(1n, 0.3, 1)]) {
      expect(Math.abs(correlation(first, other))).toBeLessThan(4 / Math.sqrt(rows * columns));
    }
  });

  test.each([0.1, 0.5])("rate %s: every pair of rows and of columns is independent", async (rate) => {
    const values = await mask(5n, rate);
    expect(new Set(values)).toEqual(new Set([0, Math.fround(1 / (1 - rate))]));
    const dropped = values.map((value) => ((value === 0 ? 1 : 0) - rate) / Math.sqrt(rate * (1 - rate)));
    expect(Math.abs(mean(dropped))).toBeLessThan(4 / Math.sqrt(rows * columns));

    const row = (r: number): number[] => dropped.slice(r * columns, (r + 1) * columns);
    const column = (c: number): number[] => Array.from({ length: rows }, (_, r) => dropped[r * columns + c]!);
    for (const lines of [
      Array.from({ length: rows }, (_, r) => row(r)),
      Array.from({ length: columns }, (_, c) => column(c)),
    ]) {
      const length = lines[0]!.length;
      // Standardised products of every pair: mean 0, variance 1, and no pair far out.
      const products = lines.flatMap((a, i) =>
        lines
          .slice(i + 1)
          .map((b) => a.reduce((sum, value, k) => sum + value * b[k]!, 0) / Math.sqrt(length)),
      );
      expect(Math.abs(mean(products))).toBeLessThan(0.03);
      expect(mean(products.map((p) => p ** 2))).toBeCloseTo(1, 1);
      // Products of rare drops have a long tail: about 7 for independent draws at rate 0.1.
      expect(Math.max(...products.map(Math.abs))).toBeLessThan(9);
    }
  });

  test("has the shape asked for, also a named one", async () => {
    const x = input("x", "float32", ["B", "T"]);
    const program = await device.compile({ y: ops.mul(x, ops.keepMask(seedInput, 0, 0.5, ["B", "T"])) });
    for (const dims of [
      [3, 5],
      [1, 8],
    ]) {
      const { y } = await program.run({ x: randomTensor(dims, 1), seed: seedOf(9n) });
      expect(y!.dims).toEqual(dims);
    }
    const vector = await device.compile({
      y: ops.keepMask(seedInput, 0, 0.5, [50]),
      z: ops.keepMask(seedInput, 0, 0.5, []),
    });
    const { y, z } = await vector.run({ seed: seedOf(9n) });
    expect([y!.dims, z!.dims]).toEqual([[50], []]);
  });

  test("refuses a rate that is no share", () => {
    expect(() => ops.keepMask(seedInput, 0, 1, [2])).toThrow(
      "keepMask: rate must lie between 0 and 1, got 1",
    );
  });
});

describe("dropout", () => {
  const x = input("x", "float32", [300, 300]);
  const feeds = { x: randomTensor([300, 300], 4), seed: seedOf(11n) };

  test.each([0.1, 0.5])("rate %s keeps the share and the expectation", async (rate) => {
    const program = await device.compile({ y: ops.dropout(x, rate, seedInput, 2) });
    const ones = { ...feeds, x: { ...feeds.x, data: new Float32Array(90_000).fill(1) } };
    const values = numbers((await program.run(ones)).y!);
    expect(new Set(values)).toEqual(new Set([0, Math.fround(1 / (1 - rate))]));
    expect(Math.abs(mean(values) - 1)).toBeLessThan(4 * Math.sqrt(rate / (1 - rate) / 90_000));
  });

  test("its gradient passes the same mask", async () => {
    const y = ops.dropout(x, 0.3, seedInput, 0);
    const program = await device.compile({ y, g: gradients(ops.reduceSum(y), [x])[0]! });
    const found = await program.run(feeds);
    const [ys, gs, xs] = [numbers(found.y!), numbers(found.g!), numbers(feeds.x)];
    const scale = Math.fround(1 / 0.7);
    expect(gs.every((g, i) => (g === 0) === (ys[i] === 0) && (g === 0 || g === scale))).toBe(true);
    expect(ys.every((v, i) => v === Math.fround(gs[i]! * xs[i]!))).toBe(true);
  });
});
