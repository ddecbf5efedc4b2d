/** What shows only with a model that says something: words that are kept out, questions, and timers beside the work. */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Blip2 } from "../../src/index.js";

const at = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
let model: Blip2;

beforeAll(async () => {
  model = await Blip2.load(at("models/scenes-opt"), { threads: 1 });
});
afterAll(() => model.close());

describe("words", () => {
  it("are kept out where they are asked to be, and only they", async () => {
    for (const name of ["test-1", "test-2"]) {
      const image = at(`samples/${name}.png`);
      const { text } = await model.generate({ image, numBeams: 1 });
      const words = new Set(text.split(" ").filter((word) => word.length > 2));
      expect(words.size).toBeGreaterThan(2);
      for (const word of [...words].slice(0, 3)) {
        const without = await model.generate({ image, numBeams: 1, badWords: [word] });
        expect(without.text.split(" ")).not.toContain(word);
        const before = text.slice(0, text.indexOf(word)).trim();
        expect(without.text.startsWith(before)).toBe(true);
        // What stops there reads the same up to there.
        const stopped = await model.generate({ image, numBeams: 1, stop: ` ${word}` });
        if (!text.startsWith(word)) expect(stopped.text).toBe(text.slice(0, text.indexOf(` ${word}`)).trim());
      }
    }
  });

  it("do not come twice in the same order where that is not allowed", async () => {
    const image = at("samples/test-1.png");
    const long = { image, minNewTokens: 40, maxNewTokens: 40 };
    const repeats = ({ tokenIds }: { readonly tokenIds: readonly number[] }): number =>
      tokenIds.length - 1 - new Set(tokenIds.slice(1).map((id, t) => `${tokenIds[t]} ${id}`)).size;
    for (const settings of [
      { numBeams: 1 },
      { numBeams: 3 },
      { sample: true, topK: 5 },
      { penaltyAlpha: 0.3 },
    ]) {
      expect(repeats(await model.generate({ ...long, ...settings, noRepeatNgramSize: 2 }))).toBe(0);
    }
    expect(repeats(await model.generate({ ...long, numBeams: 1 }))).toBeGreaterThan(0);
  });
});

describe("while a caption is made", () => {
  it("timers of the calling thread fire between its tokens", async () => {
    let running = true;
    let [ticks, pieces] = [0, 0];
    const perPiece: number[] = [];
    const timer = setInterval(() => {
      if (running) ticks++;
    }, 1);
    try {
      await model.generate({ image: at("samples/test-1.png"), minNewTokens: 40, maxNewTokens: 40 });
      expect(ticks).toBeGreaterThan(5);
      let before = ticks;
      const stream = { image: at("samples/test-1.png"), minNewTokens: 40, maxNewTokens: 40 };
      for await (const _ of model.stream(stream)) {
        pieces++;
        perPiece.push(ticks - before);
        before = ticks;
      }
      running = false;
      expect(pieces).toBeGreaterThan(5);
      expect(perPiece.filter((count) => count > 0).length).toBeGreaterThan(2);
    } finally {
      clearInterval(timer);
    }
  });
});
