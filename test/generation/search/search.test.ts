import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { InterruptedError, UserError } from "../../../src/errors.js";
import { generateTokens, generationSteps } from "../../../src/generation/search/generate.js";
import { logSoftmax } from "../../../src/generation/search/logits.js";
import { BeamSearch } from "../../../src/generation/search/beam.js";
import { GreedySearch } from "../../../src/generation/search/greedy.js";
import type { Search } from "../../../src/generation/search/search.js";
import { FakeStepper, find, logitsOf, promptOf, usual } from "../fake-stepper.js";

describe("searching", () => {
  it("gives each prompt of a batch what it finds for it alone", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(1000),
        fc.array(
          fc.nat(5).map((id) => [id]),
          { minLength: 1, maxLength: 4 },
        ),
        fc.integer({ min: 1, max: 4 }),
        fc.constantFrom(-1, 0, 0.5, 2),
        fc.constantFrom(false, true, "never" as const),
        fc.integer({ min: 0, max: 4 }),
        async (seed, rows, numBeams, lengthPenalty, earlyStopping, minNewTokens) => {
          const settings = {
            ...usual,
            numBeams,
            numReturnSequences: numBeams,
            lengthPenalty,
            earlyStopping,
            minNewTokens,
          };
          const together = await find(seed, rows, 6, settings);
          for (const [b, row] of rows.entries()) {
            const [alone] = await find(seed, [row], 6, settings);
            expect(together[b]).toEqual(alone);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it("with one beam is greedy search", () => {
    fc.assert(
      fc.property(
        fc.nat(1000),
        fc.constantFrom(-1, 0, 1, 2),
        fc.integer({ min: 0, max: 3 }),
        (seed, lengthPenalty, minNewTokens) => {
          const settings = { ...usual, lengthPenalty, minNewTokens };
          const run = (search: Search): readonly number[] => {
            let ids: number[] = [];
            for (;;) {
              const [next] = search.next([logitsOf(seed, ids, 6)]);
              if (next === undefined) return search.results[0]!.tokenIds;
              ids = [...ids, next.token];
            }
          };
          expect(run(new BeamSearch(settings, []))).toEqual(run(new GreedySearch(settings, [])));
        },
      ),
    );
  });

  it("with enough beams finds the most likely of all sequences", async () => {
    const vocabulary = 3;
    const length = 3;
    for (let seed = 0; seed < 20; seed++) {
      let best = { ids: [] as number[], sum: -Infinity };
      const visit = (ids: number[], sum: number): void => {
        if (ids.at(-1) === 0 || ids.length === length) {
          if (sum > best.sum) best = { ids, sum };
          return;
        }
        const logProbabilities = logSoftmax(logitsOf(seed, [1, ...ids], vocabulary));
        for (let token = 0; token < vocabulary; token++)
          visit([...ids, token], sum + logProbabilities[token]!);
      };
      visit([], 0);
      const settings = { ...usual, maxNewTokens: length, numBeams: vocabulary ** length, lengthPenalty: 0 };
      const [[found] = []] = await find(seed, [[1]], vocabulary, settings);
      expect(found!.tokenIds).toEqual(best.ids);
      expect(found!.logProbability).toBeCloseTo(best.sum, 4);
      expect(found!.score).toBeCloseTo(best.sum, 4);
    }
  });

  it("reports the model's log-probability, whatever the search ranks by", async () => {
    for (const settings of [
      { ...usual, repetitionPenalty: 1.4, minNewTokens: 3 },
      { ...usual, repetitionPenalty: 1.4, minNewTokens: 3, numBeams: 3, lengthPenalty: 2 },
    ]) {
      const [[found] = []] = await find(5, [[2]], 6, settings);
      let [ids, sum] = [[2], 0];
      for (const token of found!.tokenIds) {
        sum += logSoftmax(logitsOf(5, ids, 6))[token]!;
        ids = [...ids, token];
      }
      expect(found!.logProbability).toBeCloseTo(sum, 4);
    }
  });

  it("keeps to the shortest and the longest length", async () => {
    for (let seed = 0; seed < 10; seed++) {
      for (const numBeams of [1, 3]) {
        const [[found] = []] = await find(seed, [[1]], 4, {
          ...usual,
          numBeams,
          minNewTokens: 4,
          maxNewTokens: 5,
        });
        expect(found!.tokenIds.slice(0, 3)).not.toContain(0);
        expect(found!.tokenIds.length).toBeGreaterThanOrEqual(4);
        expect(found!.tokenIds.length).toBeLessThanOrEqual(5);
      }
    }
  });

  it("knows several end tokens, and none", async () => {
    const ends = [0, 1, 2, 3, 4];
    const [[short] = []] = await find(1, [[1]], 5, { ...usual, numBeams: 2, endIds: ends });
    expect(short!.tokenIds).toHaveLength(1);
    const [[long] = []] = await find(1, [[1]], 5, { ...usual, numBeams: 2, endIds: [] });
    expect(long!.tokenIds).toHaveLength(usual.maxNewTokens);
  });

  it("says so when the logits are not numbers", async () => {
    const broken = new Float32Array(4).fill(NaN);
    expect(() => new GreedySearch(usual, []).next([broken])).toThrow(UserError);
    expect(() => new BeamSearch({ ...usual, numBeams: 2 }, []).next([broken])).toThrow(UserError);
  });
});

describe("the end of a generation", () => {
  const settings = { ...usual, endIds: [] };

  it("disposes of the stepper once, when it is done", async () => {
    const stepper = new FakeStepper(1, 5);
    await generateTokens(stepper, promptOf([[1]]), settings);
    expect(stepper.disposals).toBe(1);
  });

  it("disposes of it after an abort, which ends the work before the next token", async () => {
    const controller = new AbortController();
    let advances = 0;
    const stepper = new FakeStepper(1, 5, () => {
      if (++advances === 2) controller.abort();
    });
    const run = generateTokens(stepper, promptOf([[1]]), settings, controller.signal);
    await expect(run).rejects.toThrow(InterruptedError);
    expect([advances, stepper.disposals]).toEqual([2, 1]);
  });

  it("disposes of it after an error, and when the caller has heard enough", async () => {
    const failing = new FakeStepper(1, 5, () => {
      throw new Error("broken");
    });
    await expect(generateTokens(failing, promptOf([[1]]), settings)).rejects.toThrow("broken");
    expect(failing.disposals).toBe(1);
    const left = new FakeStepper(1, 5);
    for await (const [search] of generationSteps(left, promptOf([[1]]), settings)) {
      if (search!.results[0]!.tokenIds.length === 2) break;
    }
    expect(left.disposals).toBe(1);
  });
});
