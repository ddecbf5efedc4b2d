import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compare, comparePaired, summarise, type Verdict } from "../../bench/experiments/statistics.js";

it("knows mean, spread and deviation", () => {
  expect(summarise([2, 4, 9])).toEqual({ count: 3, mean: 5, min: 2, max: 9, deviation: Math.sqrt(13) });
  expect(summarise([7])).toEqual({ count: 1, mean: 7, min: 7, max: 7, deviation: 0 });
});

describe("compare", () => {
  it.each<[string, number[], number[], Verdict]>([
    ["far above", [10, 11, 12], [1, 2, 3], "above"],
    ["far below", [1, 2, 3], [10, 11, 12], "below"],
    ["the same", [1, 2, 3], [1, 2, 3], "within the spread"],
    ["overlapping", [1, 2, 6], [5, 9, 10], "within the spread"],
    ["just apart", [0, 0, 2], [3, 3, 3.5], "below"],
    ["apart by less than the spread", [0, 9, 9], [10, 10, 10.5], "within the spread"],
    ["too few on one side", [10, 11], [1, 2, 3], "too few seeds"],
    ["too few on the other", [10, 11, 12], [1], "too few seeds"],
    ["without any spread", [2, 2, 2], [1, 1, 1], "above"],
    ["equal without any spread", [2, 2, 2], [2, 2, 2], "within the spread"],
  ])("%s", (_, first, second, verdict) => {
    expect(compare(first, second).verdict).toBe(verdict);
  });

  it("turns round with its arguments, and never claims less than every seed", () => {
    const values = fc.array(fc.double({ min: -9, max: 9, noNaN: true }), { minLength: 3, maxLength: 5 });
    const turned: { readonly [V in Verdict]: Verdict } = {
      above: "below",
      below: "above",
      "within the spread": "within the spread",
      "too few seeds": "too few seeds",
    };
    fc.assert(
      fc.property(values, values, (a, b) => {
        const [there, back] = [compare(a, b), compare(b, a)];
        expect(back.verdict).toBe(turned[there.verdict]);
        expect(back.difference).toBeCloseTo(-there.difference, 12);
        if (there.verdict === "above") expect(Math.min(...a)).toBeGreaterThan(Math.max(...b));
      }),
    );
  });
});

it.each<[string, number[], number[], Verdict]>([
  ["all higher", [2, 3, 9], [1, 2, 8], "above"],
  ["all lower", [1, 2, 8], [2, 3, 9], "below"],
  ["one equal", [2, 3, 8], [1, 2, 8], "within the spread"],
  ["two seeds", [2, 3], [1, 2], "too few seeds"],
])("pairs seeds: %s", (_, first, second, verdict) => {
  expect(comparePaired(first, second).verdict).toBe(verdict);
});
