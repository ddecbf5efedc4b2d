import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { FeatureStore, featureBytes, type FeatureSource } from "../../src/loading/feature-store.js";

const dims = [11, 3, 5] as const;
const size = 15;
/** Whole numbers up to 2,048 are exact in float16. */
const valueOf = (picture: number, i: number): number => picture * 16 + i;

function source(asked: number[] = []): FeatureSource {
  return {
    dims,
    compute: (from, to) => {
      for (let picture = from; picture < to; picture++) asked.push(picture);
      const values = Array.from({ length: (to - from) * size }, (_, i) =>
        valueOf(from + Math.floor(i / size), i % size),
      );
      return Promise.resolve(Float32Array.from(values));
    },
    nameOf: (picture) => Promise.resolve(`picture ${picture}`),
  };
}

// Four pictures a part, three at once: neither divides the eleven.
const inParts = { partBytes: 4 * size * 2, atOnce: 3 };
let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "blip2-features-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const rowsOf = async (store: FeatureStore, places: readonly number[]): Promise<number[]> => [
  ...((await store.rows(places)).data as Float32Array),
];
const expected = (places: readonly number[]): number[] =>
  places.flatMap((place) => Array.from({ length: size }, (_, i) => valueOf(place, i)));

describe("a feature store", () => {
  test("gives rows in any order, across parts, also to many readers at once", async () => {
    await using store = await FeatureStore.make(folder, source(), inParts);
    expect(featureBytes(dims)).toBe(11 * 15 * 2);
    expect((await readdir(folder)).sort()).toEqual([
      "000000.safetensors",
      "000001.safetensors",
      "000002.safetensors",
      "index.json",
    ]);
    const wanted = [
      [10, 0, 4],
      [3, 3],
      [7, 8, 9, 2],
    ];
    const found = await Promise.all(wanted.map((places) => rowsOf(store, places)));
    expect(found).toEqual(wanted.map(expected));
    const { dims: shape, dtype } = await store.rows([1, 2]);
    expect([dtype, ...shape]).toEqual(["float32", 2, 3, 5]);
  });

  test("is the same whatever the parts", async () => {
    await using whole = await FeatureStore.make(path.join(folder, "a"), source());
    await using parted = await FeatureStore.make(path.join(folder, "b"), source(), inParts);
    const all = Array.from({ length: 11 }, (_, i) => i);
    expect(await rowsOf(whole, all)).toEqual(await rowsOf(parted, all));
  });

  test("goes on with the parts that an earlier try left, and makes a cut one again", async () => {
    const stopped = source();
    let calls = 0;
    const failing: FeatureSource = {
      ...stopped,
      compute: (from, to) => (++calls > 4 ? Promise.reject(new Error("stopped")) : stopped.compute(from, to)),
    };
    await expect(FeatureStore.make(folder, failing, inParts)).rejects.toThrow("stopped");
    expect(await FeatureStore.find(folder)).toBeUndefined();
    expect((await readdir(folder)).filter((name) => !name.startsWith("."))).toEqual([
      "000000.safetensors",
      "000001.safetensors",
    ]);
    await truncate(path.join(folder, "000000.safetensors"), 100);
    const asked: number[] = [];
    await using store = await FeatureStore.make(folder, source(asked), inParts);
    expect(asked).toEqual([0, 1, 2, 3, 8, 9, 10]);
    expect(await rowsOf(store, [0, 10])).toEqual(expected([0, 10]));
    await using found = await FeatureStore.find(folder);
    expect(await rowsOf(found!, [5])).toEqual(expected([5]));
  });

  test("refuses what float16 cannot hold, naming the picture, and what is no store", async () => {
    const large: FeatureSource = {
      ...source(),
      compute: (from, to) => {
        const values = new Float32Array((to - from) * size);
        if (from <= 5 && 5 < to) values[(5 - from) * size + 2] = 1e6;
        return Promise.resolve(values);
      },
    };
    await expect(FeatureStore.make(folder, large, inParts)).rejects.toThrow(/beyond float16 for picture 5$/);
    await writeFile(path.join(folder, "index.json"), "{}");
    await expect(FeatureStore.find(folder)).rejects.toThrow(/is not the index of a feature store/);
  });

  test("names a part that is not its own, or cut", async () => {
    await (await FeatureStore.make(folder, source(), inParts)).close();
    const last = path.join(folder, "000002.safetensors");
    await writeFile(last, await readFile(path.join(folder, "000000.safetensors")));
    await using store = (await FeatureStore.find(folder))!;
    await expect(store.rows([9])).rejects.toThrow(/000002.safetensors: is no part of this feature store/);
    expect(await rowsOf(store, [1])).toEqual(expected([1]));
  });
});
