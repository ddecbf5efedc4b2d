/** Descriptions with several words at a position, and the graph that reads them. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/random.js";
import { input, ops } from "../../src/engine/index.js";
import { T5, t5ConfigSchema } from "../../src/models/language/t5.js";
import { initialise } from "../../src/nn/initialise.js";
import { Parameters } from "../../src/nn/parameters.js";
import {
  condense,
  condensedFeeds,
  condensedInputs,
  plainPositions,
} from "../../src/recipes/scenes-parts/condensed.js";
import { paddedIds } from "../../src/training/token-rows.js";
import { testDevice } from "../nn/evaluate.js";

const breaks = new Set([0, 1]);
const texts = fc.array(fc.nat({ max: 9 }), { maxLength: 40 });
const seeds = fc.nat();
const condensed = (words: readonly number[], seed: number, scale = 1) =>
  condense(words, breaks, scale, new Random("test", seed));

describe("condense", () => {
  it("keeps every word that is no break, in order", () => {
    fc.assert(
      fc.property(texts, seeds, (words, seed) => {
        const kept = condensed(words, seed).flatMap(({ ids }) => ids);
        expect(kept.filter((id) => !breaks.has(id))).toEqual(words.filter((id) => !breaks.has(id)));
      }),
    );
  });

  it("lets no two phrases share a position, and no break stand with a word", () => {
    fc.assert(
      fc.property(texts, seeds, (words, seed) => {
        // Numbered, so that each word says which phrase it is of.
        let phrase = 0;
        const numbered = words.map((word) =>
          breaks.has(word) ? (phrase++, word) : 10 + phrase * 100 + word,
        );
        for (const { ids } of condensed(numbered, seed)) {
          expect(ids.length).toBeGreaterThan(0);
          if (ids.some((id) => breaks.has(id))) expect(ids).toHaveLength(1);
          else expect(new Set(ids.map((id) => Math.floor((id - 10) / 100))).size).toBe(1);
        }
      }),
    );
  });

  it("goes from a word at each position to a phrase at each", () => {
    const lengths = Array.from(
      { length: 200 },
      (_, seed) => condensed([5, 6, 7, 8, 1, 5, 6, 7], seed).length,
    );
    expect(Math.min(...lengths)).toBe(2);
    expect(Math.max(...lengths)).toBeGreaterThanOrEqual(7);
  });

  it("draws one size for a description, in equal shares of each doubling", () => {
    const sizes = Array.from({ length: 2000 }, (_, seed) => {
      const found = new Set(condensed([5, 6, 1, 7], seed, 16).map(({ size }) => size));
      expect(found.size).toBe(1);
      return [...found][0]!;
    });
    expect(Math.min(...sizes)).toBeGreaterThanOrEqual(1);
    expect(Math.max(...sizes)).toBeLessThan(16);
    for (const from of [1, 2, 4, 8]) {
      const share = sizes.filter((size) => size >= from && size < 2 * from).length / sizes.length;
      expect(share, `${from} to ${2 * from}`).toBeGreaterThan(0.2);
      expect(share, `${from} to ${2 * from}`).toBeLessThan(0.3);
    }
  });
});

describe("the encoder's inputs", () => {
  const device = testDevice();
  const parameters = new Parameters(() => false);
  const model = new T5(
    t5ConfigSchema.parse({
      model_type: "t5",
      vocab_size: 12,
      d_model: 4,
      d_kv: 2,
      d_ff: 6,
      num_layers: 1,
      num_heads: 2,
      relative_attention_num_buckets: 8,
      relative_attention_max_distance: 20,
      dropout_rate: 0,
    }),
    parameters.scope(),
  );
  const weights = initialise(parameters.all, 4);
  const table = weights.get("shared.weight")!;
  const word = (id: number): number[] => [...(table.data as Float32Array).subarray(4 * id, 4 * id + 4)];

  it("are the plain embeddings where each word has a position of its own", async () => {
    const rows = [
      [3, 4, 5],
      [6, 7],
    ];
    const program = await device.compile(
      { ...condensedInputs(model), plain: ops.add(model.embed(input("plainIds", "int64", ["B", "S"])), 0) },
      { weights },
    );
    const plain = paddedIds(rows, 0);
    const found = await program.run({ ...condensedFeeds(rows.map(plainPositions), 0), plainIds: plain.ids });
    expect(found["encoderMask"]!.data).toEqual(plain.mask.data);
    const [sums, words] = [found["inputsEmbeds"]!, found["plain"]!];
    expect(sums.dims).toEqual(words.dims);
    // Behind a row's end nothing stands, where the plain row has padding that the mask hides.
    for (const [row, { length }] of rows.entries()) {
      const from = row * 3 * 4;
      const own = (values: unknown) => [...(values as Float32Array).subarray(from, from + length * 4)];
      expect(own(sums.data)).toEqual(own(words.data));
    }
  });

  it("are the sums of a position's words, times its size", async () => {
    const program = await device.compile(condensedInputs(model), { weights });
    const rows = [
      [
        { ids: [3, 4, 5], size: 2 },
        { ids: [6], size: 1 },
      ],
      [{ ids: [7, 8], size: 0.5 }],
    ];
    const { inputsEmbeds, encoderMask } = await program.run(condensedFeeds(rows, 0));
    expect(inputsEmbeds!.dims).toEqual([2, 2, 4]);
    expect([...(encoderMask!.data as BigInt64Array)]).toEqual([1n, 1n, 1n, 0n]);
    const added = (ids: readonly number[], size: number) =>
      ids
        .map(word)
        .reduce((a, b) => a.map((x, i) => x + b[i]!))
        .map((x) => x * size);
    const expected = [...added([3, 4, 5], 2), ...word(6), ...added([7, 8], 0.5), 0, 0, 0, 0];
    [...(inputsEmbeds!.data as Float32Array)].forEach((x, i) => expect(x).toBeCloseTo(expected[i]!, 5));
  });
});
