import { describe, expect, it } from "vitest";
import { readFileSync } from "node:fs";
import { relativePositionBucket } from "../../src/nn/relative-position.js";
import { readGoldenCase } from "../golden-case.js";

interface Setting {
  readonly name: string;
  readonly bidirectional: boolean;
  readonly buckets: number;
  readonly max_distance: number;
}

describe("the bucket of a distance", async () => {
  const { settings } = JSON.parse(readFileSync("test/golden/t5/buckets.json", "utf8")) as {
    readonly settings: readonly Setting[];
  };
  const { outputs } = await readGoldenCase("t5", "buckets");

  it.each(settings)("is that of transformers: $name", ({ name, bidirectional, buckets, max_distance }) => {
    const config = { bidirectional, buckets, maxDistance: max_distance };
    const expected = Array.from(outputs[name]!.data as BigInt64Array, Number);
    const reach = (expected.length - 1) / 2;
    const found = expected.map((_, i) => relativePositionBucket(i - reach, config));
    expect(found).toEqual(expected);
    // What the bias relies on: beyond the largest distance nothing changes any more.
    for (const distance of [-reach, -max_distance, max_distance, reach]) {
      const edge = Math.sign(distance) * max_distance;
      expect(relativePositionBucket(distance, config)).toBe(relativePositionBucket(edge, config));
    }
  });
});
