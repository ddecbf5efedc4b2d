import fc from "fast-check";
import sharp from "sharp";
import { describe, expect, test } from "vitest";
import * as scenes from "../../src/data/scenes/index.js";
import { readDescription } from "./scenes-reading.js";

const { COLORS, HELD_OUT, KINDS, PICTURE_SPLITS, Random, TEXT_SPLITS, WORDS, makeScene } = scenes;
const SEEN_SPLITS = ["train", "validation", "test", ...TEXT_SPLITS] as const;

const wordsOf = (text: string): string[] => text.match(/[^\s,.?]+/g) ?? [];

/** Every text that a scene can give rise to. */
function textsOf(scene: scenes.Scene): string[] {
  const random = new Random("test", scene.split, scene.index);
  const questions = scenes.askScene(scene, random);
  const captions = scenes.captionScene(scene, random);
  return [
    ...captions,
    scenes.describe(scene, random),
    ...questions.flatMap((q) => [q.question, q.answer]),
    ...scenes.stateScene(scene, random, Infinity),
  ];
}

function* sample(splits: readonly scenes.Split[], count: number): Generator<scenes.Scene> {
  for (const split of splits) for (let index = 0; index < count; index++) yield makeScene(11, split, index);
}

describe("scenes", () => {
  test("are a function of seed, split and index", () => {
    const backwards = [5, 4, 3, 2, 1, 0].map((index) => makeScene(3, "train", index)).toReversed();
    expect([0, 1, 2, 3, 4, 5].map((index) => makeScene(3, "train", index))).toEqual(backwards);
    const texts = [..."ab"].map(() =>
      JSON.stringify([...sample(["text"], 50)].map((s) => scenes.textRecord(s, 11))),
    );
    expect(texts[0]).toBe(texts[1]);
    const bare = ({ background, objects }: scenes.Scene): string => JSON.stringify([background, objects]);
    const distinct = new Set([...sample([...PICTURE_SPLITS, ...TEXT_SPLITS], 500)].map(bare));
    expect(distinct.size).toBe(6 * 500);
    expect(bare(makeScene(3, "train", 0))).not.toBe(bare(makeScene(4, "train", 0)));
  });

  test("keep the held-out pairs for the compositional split", () => {
    expect(new Set(Object.keys(HELD_OUT))).toEqual(new Set(KINDS));
    for (const color of COLORS)
      expect(Object.values(HELD_OUT).filter((held) => held === color)).toHaveLength(2);
    const pairs = KINDS.map((kind) => `${HELD_OUT[kind]} (${kind}|${scenes.plural(kind)})`);
    const heldOut = new RegExp(`\\b(${pairs.join("|")})\\b`);
    expect(heldOut.test("two yellow stars on sand")).toBe(true);
    for (const scene of sample(SEEN_SPLITS, 1000)) {
      expect(scene.objects.some(scenes.isHeldOut)).toBe(false);
      expect(textsOf(scene).filter((text) => heldOut.test(text))).toEqual([]);
      const { objects } = readDescription(scenes.describe(scene, new Random(scene.index)));
      expect(objects.some(scenes.isHeldOut)).toBe(false);
    }
    for (const scene of sample(["compositional"], 1000))
      expect(scene.objects.some(scenes.isHeldOut)).toBe(true);
  });

  test("have one to four things inside the picture, ordered, hardly overlapping, with twins in about a tenth", () => {
    const seen = new Set<number>();
    let twins = 0;
    for (const { objects } of sample(["train"], 4000)) {
      seen.add(objects.length);
      if (scenes.countThings(objects).some((thing) => thing.count > 1)) twins++;
      for (const [i, object] of objects.entries()) {
        const radius = scenes.SIZE_PIXELS[object.size] / 2;
        for (const centre of [object.x, object.y]) {
          expect(centre).toBeGreaterThanOrEqual(radius);
          expect(centre).toBeLessThanOrEqual(scenes.PICTURE_SIZE - radius);
        }
        for (const other of objects.slice(i + 1)) {
          expect(other.x).toBeGreaterThanOrEqual(object.x);
          const apart = Math.hypot(other.x - object.x, other.y - object.y);
          expect(apart).toBeGreaterThanOrEqual(radius + scenes.SIZE_PIXELS[other.size] / 2);
        }
      }
    }
    expect([...seen].toSorted()).toEqual([1, 2, 3, 4]);
    expect(twins / 4000).toBeGreaterThan(0.08);
    expect(twins / 4000).toBeLessThan(0.12);
  });
});

describe("words", () => {
  test("are fewer than 120, all known, all used, and nothing but lower case with light punctuation", () => {
    expect(WORDS.length).toBeLessThan(120);
    expect(new Set(WORDS).size).toBe(WORDS.length);
    const used = new Set<string>();
    for (const scene of sample([...PICTURE_SPLITS, ...TEXT_SPLITS], 1200)) {
      for (const text of textsOf(scene)) {
        expect(text).toMatch(/^[a-z]+(?:(?: | \. |, )[a-z]+)*\??$/);
        for (const word of wordsOf(text)) used.add(word);
      }
    }
    expect([...used].toSorted()).toEqual([...WORDS].toSorted());
  });
});

describe("captions", () => {
  test("are different, not long, and are read back exactly", () => {
    for (const scene of sample([...PICTURE_SPLITS, "text"], 1500)) {
      const captions = scenes.captionScene(scene, new Random("captions", scene.split, scene.index));
      expect(new Set(captions).size).toBe(3);
      for (const caption of captions) {
        expect(caption).toMatch(/^[a-z, ]+$/);
        expect(wordsOf(caption).length).toBeLessThanOrEqual(scenes.MAX_CAPTION_WORDS);
        const { objects, background } = scenes.parseCaption(caption);
        expect(background, caption).toBe(scene.background);
        expect(objects, caption).toEqual(scenes.countThings(scene.objects));
      }
    }
  });

  test("relations and positions are true", () => {
    let relations = 0;
    let positions = 0;
    for (const scene of sample(["train"], 3000)) {
      const [left, right] = scene.objects as [scenes.SceneObject, scenes.SceneObject];
      for (const caption of scenes.captionScene(scene, new Random("truth", scene.index))) {
        const relation = /(\w+) (to the left of|above|below) \w+ (?:\w+ )*?(\w+) (?:on|at)/.exec(caption);
        if (relation !== null) {
          relations++;
          expect([relation[1], relation[3]]).toEqual([left.kind, right.kind]);
          if (relation[2] === "above") expect(left.y).toBeLessThan(right.y);
          else if (relation[2] === "below") expect(left.y).toBeGreaterThan(right.y);
          else expect(left.x).toBeLessThan(right.x);
        }
        for (const [, color, kind, place] of caption.matchAll(/(\w+) (\w+) ((?:top|bottom) \w+)/g)) {
          positions++;
          const fits = (o: scenes.SceneObject): boolean =>
            o.color === color &&
            scenes.quadrant(o) === place &&
            [o.kind, scenes.plural(o.kind)].includes(kind as string);
          expect(scene.objects.some(fits), caption).toBe(true);
        }
      }
    }
    expect(relations).toBeGreaterThan(100);
    expect(positions).toBeGreaterThan(1000);
  });

  test("the parser takes anything", () => {
    expect(scenes.parseCaption("")).toEqual({ objects: [] });
    expect(scenes.parseCaption("A Red star , and STARS on the grass!")).toEqual({
      objects: [
        { kind: "star", color: "red", count: 1 },
        { kind: "star", count: 2 },
      ],
      background: "grass",
    });
    expect(scenes.parseCaption("three red , fish two blue blue crosses two").objects).toEqual([
      { kind: "fish", count: 1 },
      { kind: "cross", color: "blue", count: 2 },
    ]);
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.constantFrom(...WORDS, ",", "."), fc.string())), (words) => {
        for (const thing of scenes.parseCaption(words.join(" ")).objects)
          expect(thing.count).toBeGreaterThan(0);
      }),
    );
  });
});

describe("descriptions and questions", () => {
  test("a description tells the whole scene in few words", () => {
    for (const scene of sample(["text", "compositional"], 3000)) {
      const text = scenes.describe(scene, new Random("describe", scene.index));
      expect(wordsOf(text).length, text).toBeLessThanOrEqual(scenes.MAX_DESCRIPTION_WORDS);
      const { background, objects } = readDescription(text);
      expect(background).toBe(scene.background);
      const told = ({ kind, color, size }: scenes.SceneObject, place: string): string =>
        `${kind} ${color} ${size} ${place}`;
      expect(objects.map((o) => told(o, o.place)).toSorted(), text).toEqual(
        scene.objects.map((o) => told(o, scenes.quadrant(o))).toSorted(),
      );
    }
  });

  test("every answer follows from the description alone", () => {
    const types = new Map<string, number>();
    let yes = 0;
    for (const scene of sample(["text", "test", "compositional"], 2500)) {
      const { description, questions } = scenes.textRecord(scene, 7);
      expect(questions.length).toBeGreaterThanOrEqual(5);
      expect(new Set(questions.map(({ question }) => question)).size).toBe(questions.length);
      for (const { question, answer, type } of questions) {
        expect(readDescription(description).answer(question), `${description} / ${question}`).toBe(answer);
        types.set(type, (types.get(type) ?? 0) + 1);
        if (answer === "yes") yes++;
      }
    }
    expect([...types.keys()].toSorted()).toEqual([...scenes.QUESTION_TYPES].toSorted());
    expect(yes / (types.get("yes/no") as number)).toBeGreaterThan(0.48);
    expect(yes / (types.get("yes/no") as number)).toBeLessThan(0.52);
  });
});

describe("statements", () => {
  const asks: readonly (readonly [RegExp, (found: RegExpExecArray) => string])[] = [
    [/^the background is (\w+)$/, () => "what is the background?"],
    [/^of things there (?:is|are) (\w+)$/, () => "how many things are there?"],
    [/^of (\w+) there (?:is|are) (\w+)$/, ([, things]) => `how many ${things} are there?`],
    [/^the color of the (\w+) is (\w+)$/, ([, kind]) => `what color is the ${kind}?`],
    [/^the (\w+) thing is an? (\w+)$/, ([, color]) => `what is ${color}?`],
    [/^the (\w+) is in the (\w+ \w+)$/, ([, kind]) => `where is the ${kind}?`],
    [
      /^(to the left of|to the right of|above|below) the (\w+) is an? (\w+)$/,
      ([, side, kind]) => `what is ${side} the ${kind}?`,
    ],
  ];

  test("are true, of every type that questions have but yes or no, and tell of nothing that is absent", () => {
    const met = asks.map(() => 0);
    let sizes = 0;
    for (const scene of sample(["train", "text"], 1500)) {
      const statements = scenes.stateScene(scene, new Random("state", scene.index), Infinity);
      expect(new Set(statements).size).toBe(statements.length);
      const description = readDescription(scenes.describe(scene, new Random("describe", scene.index)));
      for (const statement of statements) {
        expect(statement).not.toMatch(/\b(?:zero|no|not|nothing)\b/);
        const size = /^the (\w+) is (small|large)$/.exec(statement);
        if (size !== null) {
          sizes++;
          const [thing, ...others] = scene.objects.filter(({ kind }) => kind === size[1]);
          expect([thing?.size, others], statement).toEqual([size[2], []]);
          continue;
        }
        const form = asks.findIndex(([pattern]) => pattern.test(statement));
        expect(form, statement).toBeGreaterThanOrEqual(0);
        met[form]!++;
        const [pattern, question] = asks[form]!;
        const found = pattern.exec(statement)!;
        expect(description.answer(question(found)), statement).toBe(found.at(-1));
      }
    }
    expect(Math.min(sizes, ...met)).toBeGreaterThan(50);
  });

  test("are as many as asked for at most, in an order that follows from the random numbers", () => {
    const scene = makeScene(1, "test", 2);
    const some = (seed: number): string[] => scenes.stateScene(scene, new Random(seed), 3);
    expect(some(1)).toHaveLength(3);
    expect(some(1)).toEqual(some(1));
    expect(new Set([1, 2, 3, 4, 5].map((seed) => some(seed)[0])).size).toBeGreaterThan(1);
  });
});

describe("pictures", () => {
  test("are 96 by 96 RGB and show the object's colour", async () => {
    for (const format of ["png", "jpg"] as const) {
      const { data, info } = await sharp(await scenes.renderScene(makeScene(1, "test", 2), format))
        .raw()
        .toBuffer({ resolveWithObject: true });
      expect(info).toMatchObject({ width: 96, height: 96, channels: 3 });
      expect(data).toHaveLength(96 * 96 * 3);
    }
    for (const background of scenes.BACKGROUNDS) {
      for (const color of COLORS) {
        const objects = [{ kind: "circle", color, size: "small", x: 30, y: 60 }] as const;
        const scene: scenes.Scene = { split: "test", index: 0, background, objects };
        const pixels = await sharp(await scenes.renderScene(scene))
          .raw()
          .toBuffer();
        const centre = pixels.subarray((60 * 96 + 30) * 3).subarray(0, 3);
        expect(`#${centre.toString("hex")}`).toBe(scenes.COLOR_FILLS[color]);
      }
    }
  });

  test("are the same for the same scene", async () => {
    const scene = makeScene(2, "train", 9);
    expect(await scenes.renderScene(scene)).toEqual(await scenes.renderScene(makeScene(2, "train", 9)));
  });
});
