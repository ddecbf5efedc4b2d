import { describe, expect, it } from "vitest";
import { initialise } from "../../src/nn/initialise.js";
import { Parameters, normal, ones, zeros, type Initialiser } from "../../src/nn/parameters.js";

const start = (
  initialiser: Initialiser,
  shape: readonly number[],
  seed = 1,
  name = "weight",
): Float32Array => {
  const parameters = new Parameters(() => true);
  parameters.scope().tensor(name, shape, initialiser);
  return initialise(parameters.all, seed).get(name)!.data as Float32Array;
};

const moment = (values: Float32Array, power: number, centre = 0): number =>
  values.reduce((sum, value) => sum + (value - centre) ** power, 0) / values.length;

const correlation = (a: Float32Array, b: Float32Array): number =>
  a.reduce((sum, value, i) => sum + value * b[i]!, 0) / a.length / Math.sqrt(moment(a, 2) * moment(b, 2));

describe("starting values", () => {
  it("are constants where constants are asked for", () => {
    expect([...start(zeros, [3])]).toEqual([0, 0, 0]);
    expect([...start(ones, [2])]).toEqual([1, 1]);
    expect([...start({ kind: "constant", value: 0.25 }, [])]).toEqual([0.25]);
  });

  it("have the shape asked for", () => {
    const parameters = new Parameters(() => true);
    parameters.scope().tensor("a", [3, 4], normal(1));
    const value = initialise(parameters.all, 1).get("a")!;
    expect(value.dims).toEqual([3, 4]);
    expect(value.dtype).toBe("float32");
    expect(value.data).toHaveLength(12);
  });

  it("are normal in the named rows of a table and zero in the others", () => {
    const values = start({ kind: "rows", std: 2, rows: [0, 3] }, [4, 3]);
    expect([...values].map((value) => value !== 0)).toEqual(
      [true, false, false, true].flatMap((drawn) => [drawn, drawn, drawn]),
    );
  });

  it("are normal with the given spread", () => {
    const std = 0.02;
    const values = start(normal(std), [200, 500]);
    // Within five standard errors of the moments of a normal distribution.
    const error = 5 / Math.sqrt(values.length);
    expect(Math.abs(moment(values, 1) / std)).toBeLessThan(error);
    expect(Math.abs(moment(values, 2) / std ** 2 - 1)).toBeLessThan(error * Math.SQRT2);
    expect(Math.abs(moment(values, 3) / std ** 3)).toBeLessThan(error * Math.sqrt(15));
    expect(Math.abs(moment(values, 4) / std ** 4 - 3)).toBeLessThan(error * Math.sqrt(96));
    const within = values.filter((value) => Math.abs(value) < std).length / values.length;
    expect(within).toBeCloseTo(0.6827, 2);
    expect(values.every(Number.isFinite)).toBe(true);
  });

  it("are uniform between the given bounds", () => {
    const values = start({ kind: "uniform", bound: 0.5 }, [100_000]);
    const error = 5 / Math.sqrt(values.length);
    expect(Math.max(...values)).toBeLessThanOrEqual(0.5);
    expect(Math.min(...values)).toBeGreaterThanOrEqual(-0.5);
    expect(Math.abs(moment(values, 1))).toBeLessThan(error * 0.5);
    expect(Math.abs(moment(values, 2) - 1 / 12)).toBeLessThan(error * 0.1);
    const counts = Array.from(
      { length: 10 },
      (_, i) => values.filter((x) => Math.min(9, Math.floor((x + 0.5) * 10)) === i).length,
    );
    // Chi-square with nine degrees of freedom passes this once in 10000 times.
    expect(counts.reduce((sum, seen) => sum + (seen - 10_000) ** 2 / 10_000, 0)).toBeLessThan(33.7);
  });

  it("are sines and cosines by position", () => {
    const values = start({ kind: "sinusoids", amplitude: 2 }, [3, 4]);
    const expected = [0, 1, 2].flatMap((position) => [
      2 * Math.sin(position),
      2 * Math.cos(position),
      2 * Math.sin(position / 100),
      2 * Math.cos(position / 100),
    ]);
    for (const [i, value] of values.entries()) expect(value).toBeCloseTo(expected[i]!, 6);
  });

  it("take another base for sines and cosines", () => {
    const values = start({ kind: "sinusoids", amplitude: 1, base: 16 }, [2, 4]);
    for (const [i, value] of [Math.sin(1), Math.cos(1), Math.sin(1 / 4), Math.cos(1 / 4)].entries()) {
      expect(values[4 + i]).toBeCloseTo(value, 6);
    }
  });

  it("tell a patch's row and column, and are zero for the class position", () => {
    const values = start({ kind: "gridSinusoids", amplitude: 0.5 }, [1, 10, 8]);
    const code = (place: number) => [
      0.5 * Math.sin(place),
      0.5 * Math.cos(place),
      0.5 * Math.sin(place / 100),
      0.5 * Math.cos(place / 100),
    ];
    const expected = [0, 1, 2].flatMap((row) =>
      [0, 1, 2].flatMap((column) => [...code(row), ...code(column)]),
    );
    for (const [i, value] of [...Array.from({ length: 8 }, () => 0), ...expected].entries()) {
      expect(values[i]).toBeCloseTo(value, 6);
    }
  });

  it("are the same for the same seed and name, whatever else there is", () => {
    const alone = start(normal(1), [50], 3, "b");
    const parameters = new Parameters(() => true);
    parameters.scope().tensor("a", [1000], normal(1));
    parameters.scope().tensor("b", [50], normal(1));
    expect(initialise(parameters.all, 3).get("b")!.data).toEqual(alone);
    expect(start(normal(1), [50], 3, "b")).toEqual(alone);
  });

  it("are unlike for other seeds and for other names", () => {
    const size = [20_000];
    const base = start(normal(1), size, 1, "layer.0.weight");
    const limit = 5 / Math.sqrt(size[0]!);
    for (const other of [
      start(normal(1), size, 2, "layer.0.weight"),
      start(normal(1), size, 1, "layer.1.weight"),
      start(normal(1), size, 1, "layer.0.bias"),
    ]) {
      expect(Math.abs(correlation(base, other))).toBeLessThan(limit);
    }
    // Nor is one draw like the next.
    expect(Math.abs(correlation(base.subarray(1), base.subarray(0, -1)))).toBeLessThan(limit);
  });
});
