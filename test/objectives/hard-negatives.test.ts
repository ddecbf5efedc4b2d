import { afterAll, describe, expect, it } from "vitest";
import { input, type HostTensors, type Program } from "../../src/engine/index.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { drawNegatives, negativeChances } from "../../src/objectives/hard-negatives.js";
import { readGoldenCase } from "../golden-case.js";
import { nested, testDevice } from "../nn/evaluate.js";
import { stage1Graph, type Stage1CaseOptions, type Stage1Fields } from "./golden-stage.js";

const device = testDevice();
afterAll(() => device.close());

const seedOf = (value: number): HostTensor => ({
  dtype: "uint64",
  dims: [],
  data: BigUint64Array.of(BigInt(value)),
});

/** Draws twice per run, from two streams, and gives the chances. */
const compile = (rows: number, columns: number): Promise<Program> => {
  const similarity = input("similarity", "float32", [rows, columns]);
  const own = input("own", "bool", [rows, columns]);
  const seed = input("seed", "uint64", []);
  return device.compile({
    drawn: drawNegatives(similarity, own, seed, 1),
    other: drawNegatives(similarity, own, seed, 2),
    chances: negativeChances(similarity, own),
  });
};

const feedsOf = (similarity: readonly number[][], own: readonly (readonly number[])[]): HostTensors => {
  const dims = [similarity.length, similarity[0]!.length];
  return {
    similarity: float32Tensor(similarity.flat(), dims),
    own: { dtype: "bool", dims, data: Uint8Array.from(own.flat()) },
  };
};

const diagonal = (size: number) =>
  Array.from({ length: size }, (_, i) => Array.from({ length: size }, (_, j) => Number(i === j)));

/** How often each column was drawn in each row, over seeds 0 to `runs` - 1, and how often both draws agreed. */
async function count(similarity: readonly number[][], own: readonly (readonly number[])[], runs: number) {
  const program = await compile(similarity.length, similarity[0]!.length);
  const feeds = feedsOf(similarity, own);
  const counts = similarity.map((row) => row.map(() => 0));
  const pairs = similarity.map((row) => row.map(() => row.map(() => 0)));
  let chances: number[][] = [];
  for (let seed = 0; seed < runs; seed++) {
    const found = await program.run({ ...feeds, seed: seedOf(seed) });
    const [drawn, other] = [nested(found["drawn"]!) as number[], nested(found["other"]!) as number[]];
    for (const [row, column] of drawn.entries()) {
      counts[row]![column]!++;
      pairs[row]![column]![other[row]!]!++;
    }
    chances = nested(found["chances"]!) as number[][];
  }
  await program.release();
  return { counts, pairs, chances };
}

/** Pearson's statistic of counts against chances; categories without chance must be empty. */
function chiSquare(counts: readonly number[], chances: readonly number[]): number {
  const total = counts.reduce((a, b) => a + b, 0);
  return counts.reduce((sum, seen, i) => {
    const wanted = total * chances[i]!;
    if (wanted === 0) {
      expect(seen).toBe(0);
      return sum;
    }
    return sum + (seen - wanted) ** 2 / wanted;
  }, 0);
}

const similarity = [
  [9.0, 0.0, 1.0, 0.5, -1.0],
  [1.5, 9.0, 1.5, 0.0, 0.0],
  [-2.0, 0.3, 9.0, 0.7, 1.1],
  [0.0, 0.0, 0.0, 9.0, 0.0],
  [2.0, 1.0, 0.0, -1.0, 9.0],
];
/** The statistic of 3 degrees of freedom passes this once in 10000 times. */
const limit3 = 21.1;
/** Of 9 degrees of freedom. */
const limit9 = 33.7;

describe("hard negatives", () => {
  it("are drawn with the chances of the softmax, never the own pair", async () => {
    const { counts, chances } = await count(similarity, diagonal(5), 3000);
    for (const [row, values] of similarity.entries()) {
      const weights = values.map((value, column) => (column === row ? 0 : Math.exp(value)));
      const sum = weights.reduce((a, b) => a + b, 0);
      for (const [column, weight] of weights.entries())
        expect(chances[row]![column]).toBeCloseTo(weight / sum, 6);
      expect(counts[row]![row]).toBe(0);
      expect(chiSquare(counts[row]!, chances[row]!)).toBeLessThan(limit3);
    }
  }, 120_000);

  it("are drawn independently in the two streams and in the rows", async () => {
    const even = Array.from({ length: 5 }, () => [0, 0, 0, 0, 0]);
    const { pairs } = await count(even, diagonal(5), 2000);
    for (const [row, table] of pairs.entries()) {
      const joint = table.flatMap((line, a) => line.filter((_, b) => a !== row && b !== row));
      expect(joint).toHaveLength(16);
      expect(
        chiSquare(
          joint,
          joint.map(() => 1 / 16),
        ),
      ).toBeLessThan(limit9 * 1.4);
    }
  }, 120_000);

  it("pass over every pair of the same picture", async () => {
    const own = [
      [1, 0, 1, 0, 0],
      [0, 1, 0, 0, 0],
      [1, 0, 1, 0, 0],
      [0, 0, 0, 1, 1],
      [0, 0, 0, 1, 1],
    ];
    const { counts } = await count(similarity, own, 300);
    for (const [row, line] of own.entries()) {
      for (const [column, isOwn] of line.entries()) if (isOwn === 1) expect(counts[row]![column]).toBe(0);
    }
  });

  it("reach a far pair when it is the only one", async () => {
    const { counts } = await count(
      [
        [500, -500],
        [-500, 500],
      ],
      diagonal(2),
      50,
    );
    expect(counts).toEqual([
      [0, 50],
      [50, 0],
    ]);
  });

  it("are the own pair when there is no other", async () => {
    const { counts, chances } = await count([[3]], [[1]], 20);
    expect(counts).toEqual([[20]]);
    expect(chances).toEqual([[1]]);
  });

  it("are the same for the same seed", async () => {
    const program = await compile(5, 5);
    const feeds = feedsOf(similarity, diagonal(5));
    const draw = async (seed: number) =>
      nested((await program.run({ ...feeds, seed: seedOf(seed) }))["drawn"]!);
    const [first, again] = [await draw(7), await draw(7)];
    expect(again).toEqual(first);
    const others = await Promise.all([1, 2, 3, 4, 5].map(draw));
    expect(others.some((other) => JSON.stringify(other) !== JSON.stringify(first))).toBe(true);
    await program.release();
  });
});

describe("negatives drawn inside the stage-1 graph", () => {
  it.each(["stage1-batch3", "stage1-image-id", "stage1-batch1", "stage1-article"])(
    "give the loss of the same negatives given, %s",
    async (name) => {
      const golden = await readGoldenCase<Stage1Fields, Stage1CaseOptions>("stages", name);
      const size = golden.inputs["input_ids"]!.dims[0]!;
      const ids = golden.inputs["image_ids"];
      const own = Array.from({ length: size }, (_, i) =>
        Array.from({ length: size }, (_, j) =>
          Number(ids === undefined ? i === j : ids.data[i] === ids.data[j]),
        ),
      );
      const seed = input("seed", "uint64", []);
      const drawing = stage1Graph(golden, { negatives: undefined!, seed }).losses;
      const { imageToText, textToImage } = drawing.similarities;
      const mask = input("own", "bool", [size, size]);
      // The streams that stage-1 uses.
      const program = await device.compile(
        {
          itm: drawing.itm,
          images: drawNegatives(textToImage, mask, seed, 1_000_001),
          texts: drawNegatives(imageToText, mask, seed, 1_000_002),
        },
        { weights: golden.weights },
      );
      const given = stage1Graph(golden).losses;
      const reference = await device.compile({ itm: given.itm }, { weights: golden.weights });
      const run = (which: Program, feeds: HostTensors) => {
        const all: HostTensors = { ...Object.fromEntries(golden.weights), ...golden.inputs, ...feeds };
        return which.run(Object.fromEntries(which.inputs.map(({ name: key }) => [key, all[key]!])));
      };
      const dims = [size, size];
      for (let value = 0; value < 10; value++) {
        const found = await run(program, {
          seed: seedOf(value),
          own: { dtype: "bool", dims, data: Uint8Array.from(own.flat()) },
        });
        const [images, texts] = [nested(found["images"]!) as number[], nested(found["texts"]!) as number[]];
        if (size > 1) {
          for (const [i, j] of [...images.entries(), ...texts.entries()]) expect(own[i]![j]).toBe(0);
        }
        const feeds = {
          negative_images: int64Tensor(images, [size]),
          negative_texts: int64Tensor(texts, [size]),
        };
        const same = await run(reference, feeds);
        expect(Number(found["itm"]!.data[0])).toBeCloseTo(Number(same["itm"]!.data[0]), 5);
      }
      await program.release();
      await reference.release();
    },
  );
});
