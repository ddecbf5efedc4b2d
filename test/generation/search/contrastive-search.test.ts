import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { generateTokens } from "../../../src/generation/search/generate.js";
import { UserError } from "../../../src/errors.js";
import { FakeStepper, find, logitsOf, promptOf, stateOf, usual } from "../fake-stepper.js";

/** The paper's rule as it reads: all states anew for every candidate of every token. */
function slowSearch(
  model: number,
  prompt: readonly number[],
  vocabulary: number,
  { alpha, topK, length }: { alpha: number; topK: number; length: number },
): number[] {
  const cosine = (a: Float32Array, b: Float32Array): number => {
    let [product, left, right] = [0, 0, 0];
    for (const [i, x] of a.entries()) {
      product += x * b[i]!;
      left += x * x;
      right += b[i]! ** 2;
    }
    return product / Math.sqrt(left * right);
  };
  let ids = [...prompt];
  while (ids.length < prompt.length + length && (ids.length === prompt.length || ids.at(-1) !== 0)) {
    const scores = Array.from(logitsOf(model, ids, vocabulary));
    const total = scores.reduce((sum, score) => sum + Math.exp(score), 0);
    const candidates = scores
      .map((score, token) => ({ token, probability: Math.exp(score) / total }))
      .sort((a, b) => b.probability - a.probability || a.token - b.token)
      .slice(0, topK);
    const values = candidates.map(({ token, probability }) => {
      const own = stateOf(model, [...ids, token]);
      const resemblance = ids.map((_, t) => cosine(own, stateOf(model, ids.slice(0, t + 1))));
      return (1 - alpha) * probability - alpha * Math.max(...resemblance);
    });
    ids = [...ids, candidates[values.indexOf(Math.max(...values))]!.token];
  }
  return ids.slice(prompt.length);
}

describe("contrastive search", () => {
  it("finds what the paper's rule finds, in a batch too", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(1000),
        fc.array(fc.array(fc.nat(6), { minLength: 3, maxLength: 3 }), { minLength: 1, maxLength: 3 }),
        fc.constantFrom(0.2, 0.6, 1),
        fc.integer({ min: 2, max: 7 }),
        async (model, rows, penaltyAlpha, topK) => {
          const found = await find(model, rows, 7, { ...usual, contrastive: { penaltyAlpha, topK } });
          for (const [b, row] of rows.entries()) {
            const expected = slowSearch(model, row, 7, {
              alpha: penaltyAlpha,
              topK,
              length: usual.maxNewTokens,
            });
            expect(found[b]![0]!.tokenIds).toEqual(expected);
          }
        },
      ),
      { numRuns: 80 },
    );
  });

  it("with hardly a penalty is greedy search", async () => {
    for (let model = 0; model < 10; model++) {
      const contrastive = { penaltyAlpha: 1e-9, topK: 4 };
      const [[found] = []] = await find(model, [[1, 2]], 9, { ...usual, contrastive });
      const [[greedy] = []] = await find(model, [[1, 2]], 9, usual);
      expect(found!.tokenIds).toEqual(greedy!.tokenIds);
      expect(found!.logProbability).toBeCloseTo(greedy!.logProbability, 5);
    }
  });

  it("takes one step for each token", async () => {
    let steps = 0;
    const stepper = new FakeStepper(1, 9, () => steps++, true);
    const settings = { ...usual, endIds: [], maxNewTokens: 5, contrastive: { penaltyAlpha: 0.6, topK: 3 } };
    await generateTokens(stepper, promptOf([[1]]), settings);
    expect(steps).toBe(5);
  });

  it("is refused where there are no states", async () => {
    const stepper = new FakeStepper(1, 9);
    const settings = { ...usual, contrastive: { penaltyAlpha: 0.6, topK: 3 } };
    const run = generateTokens(stepper, promptOf([[1]]), settings);
    await expect(run).rejects.toThrow(UserError);
    await expect(run).rejects.toThrow(/penaltyAlpha: contrastive search needs hidden states/);
    expect(stepper.disposals).toBe(1);
  });
});
