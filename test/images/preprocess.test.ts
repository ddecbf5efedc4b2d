import { describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import { augment, randomCrop } from "../../src/images/augment.js";
import { preprocess, preprocessConfig, preprocessInTurns } from "../../src/images/preprocess.js";
import { resizeBicubic } from "../../src/images/resize-bicubic.js";
import { pattern } from "./pattern.js";

describe("preprocessConfig", () => {
  it("has the defaults of BLIP's processor and takes a square size as a number", () => {
    expect(preprocessConfig({}).size).toEqual({ width: 384, height: 384 });
    expect(preprocessConfig({ size: 96 }).size).toEqual({ width: 96, height: 96 });
    expect(preprocessConfig({ do_resize: false }).size).toBeUndefined();
  });

  it("names every value that is not supported", () => {
    const json = { resample: 2, size: { shortest_edge: 224 }, do_center_crop: true, image_mean: [0.5] };
    expect(() => preprocessConfig(json, "m/preprocessor_config.json")).toThrowErrorMatchingInlineSnapshot(
      `[UserError: m/preprocessor_config.json: size is {"shortest_edge":224}: a whole number or { "height", "width" } is required; resample is 2: 3 (bicubic) is the only resampling that is supported; image_mean is [0.5]: Too small: expected array to have exactly 3 items; do_center_crop is true: cropping is not supported, remove the key or set it to false]`,
    );
    expect(() => preprocessConfig([], "m/preprocessor_config.json")).toThrow(UserError);
  });
});

describe("preprocess", () => {
  it("needs one size where it does not resize", () => {
    const config = preprocessConfig({ do_resize: false });
    expect(preprocess([pattern(4, 3), pattern(4, 3)], config).dims).toEqual([2, 3, 3, 4]);
    expect(() => preprocess([pattern(4, 3), pattern(3, 4)], config)).toThrowErrorMatchingInlineSnapshot(
      `[UserError: preprocess: without do_resize all pictures of a batch must have one size, got 4 x 3 and 3 x 4]`,
    );
  });
});

describe("preprocessInTurns", () => {
  it("gives the same, while timers of this thread fire", async () => {
    const config = preprocessConfig({ size: 20 });
    const images = [pattern(2400, 1800), pattern(20, 20), pattern(7, 900)];
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    try {
      const found = await preprocessInTurns(images, config);
      expect(ticks).toBeGreaterThan(1);
      expect(found).toEqual(preprocess(images, config));
    } finally {
      clearInterval(timer);
    }
  });
});

describe("resizeBicubic", () => {
  it("never hands out the input's own memory", () => {
    const image = pattern(5, 4);
    const same = resizeBicubic(image, image);
    expect(same).toEqual(image);
    expect(same.data).not.toBe(image.data);
  });
});

/** A small generator, for tests only. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

describe("augment", () => {
  it("depends on the random numbers only", () => {
    const image = pattern(50, 40);
    const once = augment(image, seeded(7), { size: 24 });
    expect([once.width, once.height]).toEqual([24, 24]);
    expect(augment(image, seeded(7), { size: 24 })).toEqual(once);
    expect(augment(image, seeded(8), { size: 24 })).not.toEqual(once);
  });

  it("mirrors as often as told", () => {
    const image = pattern(24, 24);
    const whole = { size: 24, scale: [1, 1], ratio: [1, 1] } as const;
    const kept = augment(image, seeded(1), { ...whole, flip: 0 });
    const mirrored = augment(image, seeded(1), { ...whole, flip: 1 });
    expect(kept).toEqual(image);
    for (let y = 0; y < 24; y++) {
      for (let x = 0; x < 24; x++) {
        const at = (column: number) => [
          ...mirrored.data.subarray((y * 24 + column) * 3, (y * 24 + column) * 3 + 3),
        ];
        expect(at(x)).toEqual([...image.data.subarray((y * 24 + 23 - x) * 3, (y * 24 + 23 - x) * 3 + 3)]);
      }
    }
  });

  it("cuts parts of the asked area and ratio out of the picture", () => {
    const random = seeded(3);
    const size = { width: 200, height: 160 };
    let area = 0;
    for (let i = 0; i < 2000; i++) {
      const { left, top, width, height } = randomCrop(size, random, [0.5, 1], [3 / 4, 4 / 3]);
      expect(left >= 0 && top >= 0 && left + width <= 200 && top + height <= 160).toBe(true);
      expect(width / height).toBeGreaterThan(0.74);
      expect(width / height).toBeLessThan(1.35);
      area += (width * height) / (200 * 160) / 2000;
    }
    expect(area).toBeGreaterThan(0.65);
    expect(area).toBeLessThan(0.75);
  });

  it("falls back to a centred part where no draw fits", () => {
    const crop = (width: number, height: number) =>
      randomCrop({ width, height }, seeded(1), [0.9, 1], [3 / 4, 4 / 3]);
    expect(crop(1000, 30)).toEqual({ left: 480, top: 0, width: 40, height: 30 });
    expect(crop(30, 1000)).toEqual({ left: 0, top: 480, width: 30, height: 40 });
    expect(crop(1, 1)).toEqual({ left: 0, top: 0, width: 1, height: 1 });
  });
});
