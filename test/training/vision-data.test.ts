/** What the vision training makes of captions and scenes. */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/random.js";
import { blip2VisionConfigSchema } from "../../src/models/vision/blip-2-vision.js";
import { buildBpeTokenizer } from "../../src/text/build-bpe.js";
import { createTokenizer } from "../../src/text/tokenizer.js";
import { alterCaption, withoutColors, wordGroups } from "../../src/recipes/scenes-parts/altered-captions.js";
import { patchLabels } from "../../src/recipes/scenes-parts/patch-classification.js";
import { SeenPairs } from "../../src/recipes/scenes-parts/seen-pairs.js";
import { captionRows, recallAt1 } from "../../src/evaluation/towers-measure.js";

const world = {
  picture_size: 96,
  size_pixels: { small: 20, large: 36 },
  kinds: ["star", "fish", "cross"],
  colors: ["red", "blue"],
  sizes: ["small", "large"],
  backgrounds: ["snow", "sand"],
  held_out: [],
};

describe("altered captions", () => {
  it("differ in one word, which comes from the same group", () => {
    const groups = wordGroups(world);
    const caption = "two red stars and a blue fish, top left on sand";
    const words = (text: string): string[] => text.split(" ");
    for (let i = 0; i < 200; i++) {
      const altered = alterCaption(caption, groups, new Random(i));
      const changed = words(altered).flatMap((word, place) => {
        const before = words(caption)[place]!;
        return word === before ? [] : [[before, word].map((text) => text.replace(",", ""))];
      });
      expect(changed).toHaveLength(1);
      expect(groups.some((group) => changed[0]!.every((word) => group.includes(word)))).toBe(true);
    }
  });

  it("stay as they are without a word of a group", () => {
    expect(alterCaption("nothing to see", wordGroups(world), new Random(1))).toBe("nothing to see");
  });

  it("know the plurals of the scenes world", () => {
    expect(wordGroups(world)[1]).toEqual(["stars", "fish", "crosses"]);
  });
});

describe("pairs that no picture shows", () => {
  const scenes = [
    ["star", "red"],
    ["fish", "red"],
    ["fish", "blue"],
    ["cross", "blue"],
  ].map(([kind, color], index) => ({
    index,
    background: "sand",
    objects: [{ kind: kind!, color: color!, size: "large", x: 48, y: 48 }],
  }));
  const seen = new SeenPairs(world, scenes);

  it("are found in texts, singular and plural", () => {
    expect(seen.namesUnseen("a large blue star on sand")).toBe(true);
    expect(seen.namesUnseen("two red crosses and a blue fish")).toBe(true);
    expect(seen.namesUnseen("two red stars and a blue cross")).toBe(false);
  });

  it("are no answers of the patch classification, in either direction", () => {
    const { dims, data } = seen.kindsByColor();
    expect(dims).toEqual([3, 4]);
    // Rows: nothing, red, blue; columns: nothing, star, fish, cross.
    expect([...data].map((value) => Number(value) < 0)).toEqual(
      [0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0].map(Boolean),
    );
    const other = seen.colorsByKind();
    expect(other.dims).toEqual([4, 3]);
    expect([...other.data].map((value) => Number(value) < 0)).toEqual(
      [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0].map(Boolean),
    );
  });

  it("are never made by altering a caption", () => {
    const groups = wordGroups(world);
    for (let i = 0; i < 200; i++) {
      const altered = alterCaption("two red stars and a blue cross on sand", groups, new Random(i), seen);
      expect(seen.namesUnseen(altered)).toBe(false);
    }
  });
});

describe("captions of pictures without colour", () => {
  it("say everything else", () => {
    expect(withoutColors("a large orange fish and two red stars on sand", ["orange", "red"])).toBe(
      "a large fish and two stars on sand",
    );
    expect(withoutColors("an orange star, a red apple", ["orange", "red"])).toBe("a star, an apple");
  });
});

describe("caption rows", () => {
  it("end with the end token, whose place in the flattened batch is given", () => {
    const files = buildBpeTokenizer(["a red star on sand"]);
    const tokenizer = createTokenizer(files["tokenizer.json"], files["tokenizer_config.json"]);
    const { text_ids: ids, text_mask: mask, text_ends: ends } = captionRows(tokenizer, ["a red star", "a"]);
    expect(ids!.dims).toEqual([2, 5]);
    expect([...ends!.data].map(Number)).toEqual([4, 7]);
    const newline = tokenizer.encode("\n", { addSpecialTokens: false }).at(-1)!;
    for (const end of ends!.data) expect(Number(ids!.data[Number(end)])).toBe(newline);
    expect([...mask!.data].map(Number)).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
  });
});

describe("patch labels", () => {
  const vision = blip2VisionConfigSchema.parse({ image_size: 96, patch_size: 24 });

  it("name what covers the middle of each patch, the later of two that overlap", () => {
    const objects = [
      { kind: "star", color: "red", size: "large", x: 36, y: 36 },
      { kind: "fish", color: "blue", size: "small", x: 36, y: 36 },
      { kind: "cross", color: "blue", size: "large", x: 84, y: 84 },
    ];
    const labels = patchLabels([{ index: 0, background: "sand", objects }], world, vision, new Random(1));
    const at = (name: string, row: number, column: number): number =>
      Number(labels[`patch_${name}`]!.data[row * 4 + column]);
    expect([at("kind", 1, 1), at("color", 1, 1), at("size", 1, 1)]).toEqual([2, 2, 1]);
    expect([at("kind", 3, 3), at("color", 3, 3), at("size", 3, 3)]).toEqual([3, 2, 2]);
  });

  it("ask about some of the empty patches only", () => {
    const scenes = Array.from({ length: 50 }, (_, index) => ({ index, background: "sand", objects: [] }));
    const { patch_kind: kinds } = patchLabels(scenes, world, vision, new Random(2));
    const asked = [...kinds!.data].filter((label) => Number(label) === 0).length / kinds!.data.length;
    expect(asked).toBeGreaterThan(0.1);
    expect(asked).toBeLessThan(0.2);
    expect([...kinds!.data].every((label) => Number(label) === 0 || Number(label) === -100)).toBe(true);
  });
});

describe("recall at 1", () => {
  const row = (...values: number[]): Float32Array => Float32Array.from(values);

  it("counts rows whose own counterpart is strictly the nearest", () => {
    const from = [row(1, 0), row(0, 1), row(0.6, 0.8)];
    expect(recallAt1(from, from)).toBe(1);
    expect(recallAt1(from, [row(1, 0), row(1, 0), row(0.6, 0.8)])).toBeCloseTo(1 / 3, 6);
  });
});
