/** The pieces of the losses against plain loops. */
import { afterAll, describe, expect, it } from "vitest";
import { input, integer, ops, scalar } from "../../src/engine/index.js";
import { float32Tensor, int64Tensor } from "../../src/host-tensor.js";
import {
  contrastiveLoss,
  contrastiveLossWithIds,
  maxOverQueries,
  similarities,
} from "../../src/objectives/contrastive.js";
import { crossEntropy, nextTokenLoss, softTargetCrossEntropy } from "../../src/objectives/cross-entropy.js";
import { evaluate, nested, testDevice } from "../nn/evaluate.js";

const device = testDevice();
afterAll(() => device.close());

const logSoftmax = (row: readonly number[]): number[] => {
  const top = Math.max(...row);
  const log = top + Math.log(row.reduce((sum, value) => sum + Math.exp(value - top), 0));
  return row.map((value) => value - log);
};
const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

const smoothed = (rows: readonly number[][], labels: readonly number[], smoothing: number): number =>
  mean(
    rows.flatMap((row, i) => {
      if (labels[i] === -100) return [];
      const log = logSoftmax(row);
      return [-(1 - smoothing) * log[labels[i]!]! - smoothing * mean(log)];
    }),
  );

const rows = [
  [0.3, -1.2, 2.0, 0.0],
  [1.0, 1.0, -3.0, 0.5],
  [-0.4, 0.2, 0.1, 4.0],
];
const value = async (tensor: Parameters<typeof evaluate>[1][string], feeds = {}): Promise<number> =>
  Number((await evaluate(device, { out: tensor }, feeds))["out"]!.data[0]);

describe("cross-entropy", () => {
  const logits = input("logits", "float32", ["N", 4]);
  const labels = input("labels", "int64", ["N"]);

  it.each([
    [[2, 0, 3], 0],
    [[2, 0, 3], 0.1],
    [[2, -100, 3], 0.1],
    [[-100, -100, 1], 0],
  ])("of labels %j with smoothing %d", async (given, smoothing) => {
    const feeds = { logits: float32Tensor(rows.flat(), [3, 4]), labels: int64Tensor(given, [3]) };
    expect(await value(crossEntropy(logits, labels, smoothing), feeds)).toBeCloseTo(
      smoothed(rows, given, smoothing),
      6,
    );
  });

  it("is exact for logits far apart", async () => {
    const feeds = { logits: float32Tensor([900, 0, 0, -900], [1, 4]), labels: int64Tensor([3], [1]) };
    expect(await value(crossEntropy(logits, labels), feeds)).toBe(1800);
  });

  it("of soft targets", async () => {
    const fixed = input("logits", "float32", [3, 4]);
    const targets = input("targets", "float32", [3, 4]);
    const weights = [
      [0.1, 0.2, 0.3, 0.4],
      [0, 0, 1, 0],
      [0.5, 0.5, 0, 0],
    ];
    const feeds = {
      logits: float32Tensor(rows.flat(), [3, 4]),
      targets: float32Tensor(weights.flat(), [3, 4]),
    };
    const expected = mean(
      rows.map((row, i) => -logSoftmax(row).reduce((sum, log, j) => sum + log * weights[i]![j]!, 0)),
    );
    expect(await value(softTargetCrossEntropy(fixed, targets), feeds)).toBeCloseTo(expected, 6);
  });

  it("of next tokens pairs each position with the label after it", async () => {
    const sequence = input("logits", "float32", ["B", "T", 4]);
    const next = input("labels", "int64", ["B", "T"]);
    const feeds = {
      logits: float32Tensor([...rows.flat(), ...rows.toReversed().flat()], [2, 3, 4]),
      labels: int64Tensor([0, 1, 2, 3, -100, 1], [2, 3]),
    };
    // The label of the first position and the logits of the last take no part.
    const expected = smoothed([rows[0]!, rows[1]!, rows[2]!, rows[1]!], [1, 2, -100, 1], 0.1);
    expect(await value(nextTokenLoss(sequence, next, 0.1), feeds)).toBeCloseTo(expected, 6);
  });
});

describe("the contrastive loss", () => {
  const images = [
    [
      [1, 0],
      [0, 1],
    ],
    [
      [0.6, 0.8],
      [-1, 0],
    ],
    [
      [0, -1],
      [0.8, 0.6],
    ],
  ];
  const texts = [
    [0, 1],
    [-0.6, 0.8],
    [1, 0],
  ];
  const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, x, i) => sum + x * b[i]!, 0);
  const best = texts.map((text) =>
    images.map((queries) => Math.max(...queries.map((query) => dot(query, text)))),
  );
  const transposed = best[0]!.map((_, i) => best.map((row) => row[i]!));
  const imageRows = input("images", "float32", [3, 2, 2]);
  const textRows = input("texts", "float32", [3, 2]);
  const feeds = {
    images: float32Tensor(images.flat(2), [3, 2, 2]),
    texts: float32Tensor(texts.flat(), [3, 2]),
  };
  const temperature = 0.5;
  const scaled = (matrix: readonly number[][]) => matrix.map((row) => row.map((x) => x / temperature));

  it("compares a text with the best of an image's queries", async () => {
    const found = await evaluate(device, { out: maxOverQueries(textRows, imageRows) }, feeds);
    for (const [i, row] of (nested(found["out"]!) as number[][]).entries()) {
      for (const [j, x] of row.entries()) expect(x).toBeCloseTo(best[i]![j]!, 6);
    }
  });

  it("divides by the temperature, rows being the local side", async () => {
    const two = { images: ops.slice(imageRows, 0, 0, 2), texts: ops.slice(textRows, 0, 0, 2) };
    const { imageToText, textToImage } = similarities(
      two.images,
      two.texts,
      { images: imageRows, texts: textRows },
      scalar(temperature),
    );
    const found = await evaluate(device, { imageToText, textToImage }, feeds);
    expect(found["imageToText"]!.dims).toEqual([2, 3]);
    expect(found["textToImage"]!.dims).toEqual([2, 3]);
    const flat = (matrix: unknown) => (matrix as number[][]).flat();
    const wanted = { imageToText: scaled(transposed).slice(0, 2), textToImage: scaled(best).slice(0, 2) };
    for (const key of ["imageToText", "textToImage"] as const) {
      for (const [i, x] of flat(nested(found[key]!)).entries())
        expect(x).toBeCloseTo(wanted[key].flat()[i]!, 6);
    }
  });

  const gathered = { images: imageRows, texts: textRows };
  const both = similarities(imageRows, textRows, gathered, scalar(temperature));

  it("is the mean of both directions, smoothed", async () => {
    const expected = mean([
      smoothed(scaled(transposed), [0, 1, 2], 0.1),
      smoothed(scaled(best), [0, 1, 2], 0.1),
    ]);
    expect(await value(contrastiveLoss(both, ops.range(3)), feeds)).toBeCloseTo(expected, 5);
  });

  it("shares the target among the pairs of one picture", async () => {
    const id = [4, 9, 4];
    const targets = id.map((a) => {
      const own = id.map((b) => Number(a === b));
      const total = own.reduce((x, y) => x + y, 0);
      return own.map((x) => (0.9 * x) / total + 0.1 / 3);
    });
    const soft = (matrix: readonly number[][]) =>
      mean(matrix.map((row, i) => -dot(logSoftmax(row), targets[i]!)));
    const expected = mean([soft(scaled(transposed)), soft(scaled(best))]);
    const pictures = input("id", "int64", [3]);
    const same = ops.equal(ops.reshape(pictures, [3, 1]), ops.reshape(pictures, [1, 3]));
    const loss = contrastiveLossWithIds(both, same);
    expect(await value(loss, { ...feeds, id: int64Tensor(id, [3]) })).toBeCloseTo(expected, 5);
    // With pictures all different it is the plain form.
    const apart = await value(loss, { ...feeds, id: int64Tensor([1, 2, 3], [3]) });
    const labels = ops.add(ops.range(3), integer(0));
    expect(apart).toBeCloseTo(await value(contrastiveLoss(both, labels), feeds), 5);
  });
});
