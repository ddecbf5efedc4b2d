import { describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import {
  attentionMaps,
  choiceProblems,
  matchingMaps,
  meanMap,
  peakOf,
  type AttentionMap,
  type MatchingAttention,
} from "../../src/models/attention-maps.js";

const rows = (layers: readonly number[][]) => Float32Array.from(layers.flat());

// Two layers, two heads, two queries, a class position and a grid of 1 x 2. Binary fractions, so that sums are exact.
const attention: MatchingAttention = {
  probabilities: rows([
    [0.5, 0.25, 0.25, /**/ 0, 1, 0, /* head 1 */ 0, 0.5, 0.5, /**/ 1, 0, 0],
    [0.25, 0.25, 0.5, /**/ 0, 0, 1, /* head 1 */ 0.25, 0, 0.75, /**/ 0.5, 0.5, 0],
  ]),
  gradients: rows([
    [1, 2, -4, /**/ 1, -1, 1, /* head 1 */ 8, -1, 4, /**/ -1, 1, 1],
    [4, 0, 2, /**/ 1, 1, -2, /* head 1 */ -1, 1, 4, /**/ -2, -8, 1],
  ]),
  dims: [2, 2, 2, 3],
  layers: [0, 3],
  grid: { rows: 1, columns: 2, covered: 0.75 },
  firstPatch: 1,
  text: "a cat",
  itmLogit: 0,
  itmProbability: 0.5,
};
const numbers = (maps: readonly AttentionMap[]) =>
  maps.map(({ classValue, values }) => [classValue, ...values]);

describe("maps of attention", () => {
  it("are of one layer and head, or means of them", () => {
    const maps = attentionMaps(attention, { layer: 3, head: 1 });
    expect(numbers(maps)).toEqual([
      [0.25, 0, 0.75],
      [0.5, 0.5, 0],
    ]);
    expect(maps[0]).toMatchObject({ rows: 1, columns: 2, covered: 0.75 });
    expect(numbers(attentionMaps(attention, { layer: 0 }))[0]).toEqual([0.25, 0.375, 0.375]);
    expect(numbers(attentionMaps(attention, { head: 0 }))[1]).toEqual([0, 0.5, 0.5]);
    expect(numbers(attentionMaps(attention))).toEqual([
      [0.25, 0.25, 0.5],
      [0.375, 0.375, 0.25],
    ]);
  });

  it("weigh by gradients above zero for a text", () => {
    expect(numbers(matchingMaps(attention, { layer: 0, head: 0 }))).toEqual([
      [0.5, 0.5, 0],
      [0, 0, 0],
    ]);
    expect(numbers(matchingMaps(attention, { layer: 3 }))[0]).toEqual([0.5, 0, 2]);
    expect(numbers([meanMap(matchingMaps(attention))])[0]).toEqual([0.1875, 0.0625, 0.75]);
  });

  it("have a peak, with its share of the whole", () => {
    const [, second] = attentionMaps(attention, { layer: 0, head: 0 });
    expect(peakOf(second!)).toEqual({ row: 0, column: 0, share: 1 });
    expect(peakOf(attentionMaps(attention)[0]!)).toEqual({ row: 0, column: 1, share: 0.5 });
    expect(peakOf({ ...second!, rows: 2, columns: 1, values: Float32Array.of(0.25, 0.5) })?.row).toBe(1);
    expect(peakOf(matchingMaps(attention, { layer: 0, head: 0 })[1]!)).toBeUndefined();
    // All of it on the class position.
    expect(peakOf(attentionMaps(attention, { layer: 0, head: 1 })[1]!)).toBeUndefined();
  });

  it("refuse what the model does not have, and say what it has", () => {
    const run = () => attentionMaps(attention, { layer: 1, head: 2 });
    expect(run).toThrow(UserError);
    expect(run).toThrow(
      "attention: layer 1 is not there: the queries look at the picture in layers 0, 3; head 2 is not there: 0 to 1 are",
    );
    const sizes = { layers: [0], heads: 2, queries: 4 };
    expect(choiceProblems(sizes, { layer: 0, head: 1, query: 3 })).toEqual([]);
    expect(choiceProblems(sizes, { query: 4 })).toEqual(["query 4 is not there: 0 to 3 are"]);
    expect(choiceProblems(sizes, { layer: 1, query: 0.5 })).toHaveLength(2);
    expect(() => meanMap([])).toThrow(UserError);
  });
});
