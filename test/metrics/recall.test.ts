import { describe, expect, it } from "vitest";
import { bestOf, rankOf, recallAt } from "../../src/metrics/recall.js";

const of = (scores: readonly number[]) => (candidate: number) => scores[candidate]!;
const right =
  (...places: readonly number[]) =>
  (candidate: number) =>
    places.includes(candidate);

describe("rankOf", () => {
  it("counts the wrong candidates before the best right one, and those that are its equals", () => {
    expect(rankOf(4, of([3, 1, 2, 0]), right(1, 2))).toBe(1);
    expect(rankOf(3, of([1, 1, 1]), right(0))).toBe(2);
    expect(rankOf(3, of([1, 1, 1]), right(0, 1, 2))).toBe(0);
    expect(rankOf(3, of([1, 1, 1]), right())).toBe(Infinity);
    expect(rankOf(3, of([NaN, NaN, -5]), right(0))).toBe(2);
  });
});

describe("bestOf", () => {
  it("has the order that rankOf counts in, wherever the candidates stand", () => {
    expect(bestOf(5, of([1, 4, 2, 4, 3]), right(1), 3)).toEqual([3, 1, 4]);
    expect(bestOf(3, of([1, 1, 1]), right(0), 2)).toEqual([1, 2]);
    expect(bestOf(3, of([NaN, 0, NaN]), right(1), 5)).toEqual([1, 0, 2]);
    // Every list of small scores, with every right one.
    for (let code = 0; code < 3 ** 4; code++) {
      const scores = [0, 1, 2, 3].map((place) => Math.floor(code / 3 ** place) % 3);
      for (const place of [0, 1, 2, 3]) {
        const rank = rankOf(4, of(scores), right(place));
        expect(bestOf(4, of(scores), right(place), 4).indexOf(place)).toBe(rank);
        expect(bestOf(4, of(scores), right(place), 2).includes(place)).toBe(rank < 2);
      }
    }
  });
});

it("recallAt is the share of ranks that are deep enough", () => {
  expect(recallAt([0, 1, 4, Infinity], 2)).toBe(0.5);
  expect(recallAt([], 1)).toBe(0);
});
