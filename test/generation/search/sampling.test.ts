import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { generateTokens } from "../../../src/generation/search/generate.js";
import { logSoftmax } from "../../../src/generation/search/logits.js";
import { idAt, tokenDraw } from "../../../src/generation/search/sampling.js";
import { BeamSearch } from "../../../src/generation/search/beam.js";
import type { Sampling } from "../../../src/generation/search/search.js";
import { FakeStepper, find, logitsOf, promptOf, usual } from "../fake-stepper.js";

const plain: Sampling = { temperature: 1, topK: 0, topP: 1, seed: 0 };
const logits = Float32Array.from([1.2, 0.3, -0.5, 0, 2, -3, 0.9]);
const probabilities = Array.from(logSoftmax(logits), Math.exp);

/**
 * The sum of squared deviations over their expectations. With n - 1 degrees of freedom it exceeds n - 1 + 5 sqrt(2 (n - 1))
 * less than once in ten thousand; the seeds are fixed, so this holds or does not hold forever.
 */
function expectCounts(counts: readonly number[], expected: readonly number[]): void {
  const total = counts.reduce((sum, count) => sum + count, 0);
  let chiSquare = 0;
  for (const [i, probability] of expected.entries()) {
    if (probability === 0) expect(counts[i]).toBe(0);
    else chiSquare += (counts[i]! - total * probability) ** 2 / (total * probability);
  }
  const freedom = expected.filter((probability) => probability > 0).length - 1;
  expect(chiSquare).toBeLessThan(freedom + 5 * Math.sqrt(2 * freedom));
  // A generator that keeps too close to the expectation is none.
  expect(chiSquare).toBeGreaterThan(0.01);
}

const count = (ids: Iterable<number>, size = logits.length): number[] => {
  const counts = Array<number>(size).fill(0);
  for (const id of ids) counts[id]!++;
  return counts;
};

describe("draws", () => {
  const range = Array.from({ length: 4000 }, (_, n) => n);

  it.each([
    ["over seeds", (n: number) => tokenDraw(n, 0, 0)],
    ["over the sequences of a prompt", (n: number) => tokenDraw(1, n, 3)],
    ["over the places of a text", (n: number) => tokenDraw(2, 1, n)],
  ])("follow the probabilities %s", (_, draw) => {
    expectCounts(count(range.map((n) => idAt(logits, draw(n)))), probabilities);
  });

  it("do not depend on the draw before", () => {
    const pairs = range.map((n) => {
      const [a, b] = [idAt(logits, tokenDraw(5, 0, n)), idAt(logits, tokenDraw(5, 0, n + 1))];
      return a * logits.length + b;
    });
    const joint = probabilities.flatMap((a) => probabilities.map((b) => a * b));
    // Cells in which hardly anything is expected say nothing.
    const large = joint.map((_, cell) => cell).filter((cell) => joint[cell]! > 0.002);
    const total = large.reduce((sum, cell) => sum + joint[cell]!, 0);
    const counts = count(pairs, joint.length);
    expectCounts(
      large.map((cell) => counts[cell]!),
      large.map((cell) => joint[cell]! / total),
    );
  });

  it("reach the first and the last possible id, and nothing impossible", () => {
    const some = Float32Array.from([-Infinity, 0, -Infinity, 0, -Infinity]);
    expect([idAt(some, 0), idAt(some, 0.4999), idAt(some, 0.5001), idAt(some, 1 - 2 ** -32)]).toEqual([
      1, 1, 3, 3,
    ]);
    expect(idAt(new Float32Array(3).fill(-Infinity), 0.5)).toBe(-1);
    expect(idAt(new Float32Array(3).fill(NaN), 0.5)).toBe(-1);
  });
});

describe("sampling", () => {
  it("draws each of many texts by the processed probabilities", async () => {
    const texts = 3000;
    const settings = {
      ...usual,
      maxNewTokens: 1,
      numReturnSequences: texts,
      endIds: [],
      sampling: { temperature: 0.8, topK: 5, topP: 0.8, seed: 4 },
    };
    const [found] = await find(8, [[1, 2]], 9, settings);
    const scores = logitsOf(8, [1, 2], 9).map((value) => value / 0.8);
    const order = [...scores.keys()].sort((a, b) => scores[b]! - scores[a]!).slice(0, 5);
    const weights = order.map((id) => Math.exp(scores[id]!));
    const sum = weights.reduce((a, b) => a + b);
    let [above, kept] = [0, 0];
    while (above < 0.8 * sum) above += weights[kept++]!;
    const expected = Array<number>(9).fill(0);
    for (let n = 0; n < kept; n++) expected[order[n]!] = weights[n]! / above;
    expect(kept).toBeLessThan(5);
    expectCounts(
      count(
        found!.map(({ tokenIds }) => tokenIds[0]!),
        9,
      ),
      expected,
    );
  });

  it("gives equal texts for equal seeds, others for others, and the model's own log-probabilities", async () => {
    const of = (seed: number, numReturnSequences = 1) =>
      find(3, [[1]], 8, { ...usual, endIds: [], numReturnSequences, sampling: { ...plain, seed } });
    expect(await of(1)).toEqual(await of(1));
    expect(await of(1)).not.toEqual(await of(2));
    const [several] = await of(1, 6);
    expect(several!.length).toBe(6);
    expect(new Set(several!.map(({ tokenIds }) => tokenIds.join())).size).toBeGreaterThan(3);
    // The first of several is what there is of one.
    const [[alone] = []] = await of(1);
    expect(several).toContainEqual(alone);
    for (const [i, text] of several!.entries()) {
      expect(text.score).toBeLessThanOrEqual(several![i - 1]?.score ?? 0);
      let ids = [1];
      for (const [t, token] of text.tokenIds.entries()) {
        expect(text.tokenLogProbabilities[t]).toBeCloseTo(logSoftmax(logitsOf(3, ids, 8))[token]!, 5);
        ids = [...ids, token];
      }
      const sum = text.tokenLogProbabilities.reduce((a, b) => a + b);
      expect(text.logProbability).toBeCloseTo(sum, 5);
    }
  });

  it("with a temperature near 0, or one token to draw from, is greedy search", async () => {
    const [[greedy] = []] = await find(5, [[2]], 7, usual);
    for (const sampling of [
      { ...plain, temperature: 1e-4 },
      { ...plain, topK: 1 },
      { ...plain, topP: 1e-6 },
    ]) {
      const [[found] = []] = await find(5, [[2]], 7, { ...usual, sampling });
      expect(found!.tokenIds).toEqual(greedy!.tokenIds);
    }
  });

  it("gives each prompt of a batch what it draws for it alone, in all searches", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(1000),
        fc.array(
          fc.nat(5).map((id) => [id]),
          { minLength: 1, maxLength: 4 },
        ),
        fc.integer({ min: 1, max: 3 }),
        fc.constantFrom(0.5, 1, 3),
        fc.constantFrom(0, 3),
        fc.constantFrom(0.7, 1),
        fc.nat(50),
        async (model, rows, width, temperature, topK, topP, seed) => {
          const sampling = { temperature, topK, topP, seed };
          for (const numBeams of new Set([1, width])) {
            const settings = { ...usual, numBeams, numReturnSequences: width, sampling };
            const together = await find(model, rows, 6, settings);
            for (const [b, row] of rows.entries()) {
              expect(together[b]).toEqual((await find(model, [row], 6, settings))[0]);
            }
          }
        },
      ),
      { numRuns: 40 },
    );
  });

  it("says that its rules leave nothing to draw", async () => {
    const forbidden = [[0], [1], [2], [3]];
    await expect(find(1, [[1]], 4, { ...usual, forbidden, sampling: plain })).rejects.toThrow(
      /leave no token that may come next/,
    );
  });

  it("shares the prompt's row between the texts", async () => {
    const rows: number[] = [];
    const stepper = new FakeStepper(2, 6);
    const advance = stepper.advance.bind(stepper);
    stepper.advance = (parents, tokens) => {
      rows.push(parents.length);
      return advance(parents, tokens);
    };
    await generateTokens(stepper, promptOf([[1]]), {
      ...usual,
      endIds: [],
      maxNewTokens: 3,
      numReturnSequences: 5,
      sampling: plain,
    });
    expect(rows).toEqual([5, 5]);
  });
});

describe("beams drawn at random", () => {
  it("are drawn by their probability, without putting back", () => {
    const vocabulary = 5;
    const start = logitsOf(9, [], vocabulary);
    const p = Array.from(logSoftmax(start), Math.exp);
    // With two beams and no end four candidates are drawn; the best two of them run on.
    const pairs = new Map<string, number>();
    const runs = 3000;
    for (let seed = 0; seed < runs; seed++) {
      const search = new BeamSearch({ ...usual, numBeams: 2, endIds: [], sampling: { ...plain, seed } }, []);
      const tokens = search.next([start]).map(({ token }) => token);
      const key = tokens.sort((a, b) => a - b).join();
      pairs.set(key, (pairs.get(key) ?? 0) + 1);
    }
    const expected = new Map<string, number>();
    const visit = (drawn: readonly number[], probability: number): void => {
      if (drawn.length === 4) {
        const kept = [...drawn].sort((a, b) => p[b]! - p[a]!).slice(0, 2);
        const key = kept.sort((a, b) => a - b).join();
        expected.set(key, (expected.get(key) ?? 0) + probability);
        return;
      }
      const left = 1 - drawn.reduce((sum, token) => sum + p[token]!, 0);
      for (let token = 0; token < vocabulary; token++) {
        if (!drawn.includes(token)) visit([...drawn, token], (probability * p[token]!) / left);
      }
    };
    visit([], 1);
    const keys = [...expected.keys()].sort();
    expectCounts(
      keys.map((key) => pairs.get(key) ?? 0),
      keys.map((key) => expected.get(key)!),
    );
  });

  it("keep an id that is no end, however few may be drawn from", async () => {
    for (let seed = 0; seed < 20; seed++) {
      const [found] = await find(seed, [[1]], 6, {
        ...usual,
        numBeams: 2,
        minNewTokens: 0,
        sampling: { ...plain, topK: 1, seed },
      });
      expect(found!.length).toBe(1);
    }
  });
});
