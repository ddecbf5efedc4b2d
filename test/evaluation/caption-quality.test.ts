import { describe, expect, it } from "vitest";
import { captionScene, HELD_OUT, makeScene, Random } from "../../src/data/scenes/index.js";
import type { SceneRecord } from "../../src/data/scenes/read.js";
import { captionQuality } from "../../src/evaluation/caption-quality.js";

/** A scene from words such as "red star", with one background. */
function scene(background: string, ...things: string[]): SceneRecord {
  const objects = things.map((thing) => {
    const [color, kind] = thing.split(" ") as [string, string];
    return { kind, color, size: "small", x: 0, y: 0 };
  });
  return { index: 0, background, objects };
}

const night = scene("night", "red star", "blue fish", "blue fish");

describe("one caption", () => {
  const of = (caption: string) => captionQuality([{ caption, scene: night }]);

  it("is perfect", () => {
    expect(of("at night there are two blue fish and a red star")).toEqual({
      images: 1,
      kindF1: 1,
      colorF1: 1,
      colorGivenKind: 1,
      background: 1,
      countExact: 1,
      captionExact: 1,
    });
  });

  it("has a wrong colour", () => {
    // Kinds: 3 of 3 and 3. Pairs: the star is missed and a green one made up.
    expect(of("a green star and two blue fish at night")).toMatchObject({
      kindF1: 1,
      colorF1: 4 / 6,
      colorGivenKind: 2 / 3,
      background: 1,
      countExact: 1,
      captionExact: 0,
    });
  });

  it("misses one and makes one up", () => {
    // Told: one fish, one star, one cat. Hits: one fish, one star.
    expect(of("a blue fish, a red star and a pink cat on sand")).toMatchObject({
      kindF1: 4 / 6,
      colorF1: 4 / 6,
      colorGivenKind: 1,
      background: 0,
      countExact: 1,
      captionExact: 0,
    });
  });

  it("tells no colours", () => {
    expect(of("two fish and a star")).toMatchObject({
      kindF1: 1,
      colorF1: 0,
      colorGivenKind: 0,
      countExact: 1,
      captionExact: 0,
    });
  });

  it.each(["", "what is this?"])("tells nothing: %j", (caption) => {
    expect(of(caption)).toEqual({
      images: 1,
      kindF1: 0,
      colorF1: 0,
      colorGivenKind: 0,
      background: 0,
      countExact: 0,
      captionExact: 0,
    });
  });
});

it("adds mentions up over captions before it divides", () => {
  const quality = captionQuality([
    { caption: "two blue fish and a red star at night", scene: night },
    { caption: "a pink cat on sand", scene: scene("sand", "red cat") },
  ]);
  // Kinds: 4 of 4. Pairs: 3 of 4 and 4.
  expect(quality).toMatchObject({
    images: 2,
    kindF1: 1,
    colorF1: 6 / 8,
    colorGivenKind: 3 / 4,
    background: 1,
    captionExact: 1 / 2,
  });
});

describe("pairs that training never showed", () => {
  const heldOut = [
    { color: "red", kind: "star" },
    { color: "green", kind: "cup" },
  ];

  it("are counted on their own", () => {
    const quality = captionQuality(
      [
        { caption: "a red star and a red fish on sand", scene: scene("sand", "red star", "blue fish") },
        { caption: "a pink cup on sand", scene: scene("sand", "green cup") },
      ],
      heldOut,
    );
    // There: a star and a cup. Told: the star.
    expect(quality).toMatchObject({ heldOutF1: 2 / 3, heldOutRecall: 1 / 2 });
  });

  it("count against a caption that makes them up", () => {
    const made = { caption: "a green cup on sand", scene: scene("sand", "pink cup") };
    const right = { caption: "a red star on sand", scene: scene("sand", "red star") };
    expect(captionQuality([right, made], heldOut)).toMatchObject({ heldOutF1: 2 / 3, heldOutRecall: 1 });
  });

  it("are left out where there are none", () => {
    expect(
      captionQuality([{ caption: "a cat", scene: scene("sand", "red cat") }], heldOut),
    ).not.toHaveProperty("heldOutF1");
  });
});

it("finds nothing wrong with the captions that the world itself writes", () => {
  const captions = Array.from({ length: 60 }, (_, index) => {
    const made = makeScene(11, "compositional", index);
    return captionScene(made, new Random("quality", index)).map((caption) => ({
      caption,
      scene: { ...made, index, objects: [...made.objects] },
    }));
  }).flat();
  const heldOut = Object.entries(HELD_OUT).map(([kind, color]) => ({ kind, color }));
  const { images, ...shares } = captionQuality(captions, heldOut);
  expect(images).toBe(captions.length);
  for (const [name, share] of Object.entries(shares)) expect(share, name).toBe(1);
});
