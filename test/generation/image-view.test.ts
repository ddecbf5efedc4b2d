/** Pictures that are looked at once, chats about them, and all kinds of search through the whole model. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { InterruptedError, UserError } from "../../src/errors.js";
import type { Program } from "../../src/engine/index.js";
import type { GenerateSettings } from "../../src/generation/options.js";
import { Blip2, type ImageSource } from "../../src/index.js";
import { temporaryFolder, writeTinyModel } from "./tiny-model.js";

let root: string;
let model: Blip2;
let other: Blip2;

const noise = (seed: number): ImageSource => ({
  data: Uint8Array.from({ length: 768 }, (_, i) => (Math.imul(i + 7, seed * 2654435761) >>> 11) % 256),
  width: 16,
  height: 16,
  channels: 3,
});

/** Counts how often the image encoder has run. */
function countLooks(): { readonly calls: number } {
  const { vision } = (model as unknown as { runner: { loaded: { vision: Program } } }).runner.loaded;
  const spy = vi.spyOn(vision, "run");
  return {
    get calls() {
      return spy.mock.calls.length;
    },
  };
}

beforeAll(async () => {
  root = await temporaryFolder();
  const folder = await writeTinyModel(join(root, "tiny"));
  model = await Blip2.load(folder, { threads: 1 });
  other = await Blip2.load(folder, { threads: 1 });
});
afterEach(() => vi.restoreAllMocks());
afterAll(async () => {
  await model.close();
  await other.close();
  await rm(root, { recursive: true });
});

describe("look", () => {
  it("runs the image encoder once, however much is asked afterwards", async () => {
    const looks = countLooks();
    await using view = await model.look(noise(1));
    expect(looks.calls).toBe(1);
    const short = { image: view, maxNewTokens: 4 };
    const first = await model.generate({ ...short, prompt: "a red" });
    await model.generate({ ...short, prompt: "two blue" });
    for await (const piece of model.stream(short)) expect(piece).not.toBe("");
    await model.generateBatch({ images: [view, view], prompts: ["a", "two"], maxNewTokens: 2 });
    expect(looks.calls).toBe(1);
    // The control: the picture itself is looked at again, with the same result.
    expect(await model.generate({ image: noise(1), prompt: "a red", maxNewTokens: 4 })).toEqual(first);
    expect(looks.calls).toBe(2);
  });

  it("goes into a batch beside pictures that were not looked at before", async () => {
    await using view = await model.look(noise(2));
    const looks = countLooks();
    const images = [noise(1), view, noise(3), view];
    const prompts = ["a red star", undefined, "two", "Question: what is this? Answer:"];
    const together = await model.generateBatch({ images, prompts, maxNewTokens: 6 });
    expect(looks.calls).toBe(1);
    const pictures = [noise(1), noise(2), noise(3), noise(2)];
    for (const [i, image] of pictures.entries()) {
      const alone = await model.generate({ image, prompt: prompts[i], maxNewTokens: 6 });
      expect(together[i]!.tokenIds).toEqual(alone.tokenIds);
    }
  });

  it("is for the model that looked, until it is closed", async () => {
    const view = await model.look(noise(1));
    await expect(other.generate({ image: view })).rejects.toThrow(/another model has looked/);
    await view.close();
    await view.close();
    await expect(model.generate({ image: view })).rejects.toThrow(UserError);
    await expect(model.generate({ image: view })).rejects.toThrow(
      /has been closed; look at the picture again/,
    );
  });

  it("can be stopped, and names what it does not know", async () => {
    const stopped = model.look(noise(1), { signal: AbortSignal.abort() });
    await expect(stopped).rejects.toThrow(InterruptedError);
    await expect(model.look(noise(1), { size: 3 } as never)).rejects.toThrow("look: unknown option size");
  });
});

describe("every search", () => {
  const searches: readonly GenerateSettings[] = [
    { numBeams: 1 },
    { numBeams: 3, numReturnSequences: 3 },
    { numBeams: 2, noRepeatNgramSize: 2, repetitionPenalty: 1.3 },
    { sample: true, temperature: 1.5, seed: 3, numReturnSequences: 2 },
    { sample: true, topK: 5, topP: 0.8, seed: 9 },
    { sample: true, numBeams: 3, topK: 8, seed: 1 },
    { penaltyAlpha: 0.6, topK: 3 },
    { numBeams: 1, badWords: ["star", "a"], stop: ["e"] },
  ];

  it("gives each picture of a batch, with its own prompt, what it gives it alone", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...searches),
        fc.array(
          fc.record({
            seed: fc.integer({ min: 1, max: 5 }),
            prompt: fc.constantFrom(undefined, "a", "a red star", "Question: what is this? Answer:"),
          }),
          { minLength: 2, maxLength: 3 },
        ),
        async (settings, rows) => {
          const usual = { maxNewTokens: 6, minNewTokens: 3, ...settings };
          const images = rows.map(({ seed }) => noise(seed));
          const prompts = rows.map(({ prompt }) => prompt);
          const together = await model.generateBatch({ images, prompts, ...usual });
          for (const [i, image] of images.entries()) {
            const alone = await model.generate({ image, prompt: prompts[i], ...usual });
            expect(together[i]!.tokenIds).toEqual(alone.tokenIds);
            expect(together[i]!.text).toBe(alone.text);
            expect(together[i]!.logProbability).toBeCloseTo(alone.logProbability, 4);
            expect(together[i]!.sequences?.length).toBe(alone.sequences?.length);
          }
        },
      ),
      { numRuns: 16, seed: 1 },
    );
  });

  it("returns several texts best first, the best at the top, each with its log-probabilities", async () => {
    for (const settings of [{ numBeams: 4 }, { sample: true, seed: 2 }]) {
      const found = await model.generate({
        image: noise(1),
        maxNewTokens: 5,
        numReturnSequences: 3,
        ...settings,
      });
      const { sequences = [], ...best } = found;
      expect(sequences).toHaveLength(3);
      expect(sequences[0]).toEqual(best);
      for (const [i, { score, tokenIds, tokenLogProbabilities, logProbability }] of sequences.entries()) {
        expect(score).toBeLessThanOrEqual(sequences[i - 1]?.score ?? 0);
        expect(tokenLogProbabilities).toHaveLength(tokenIds.length);
        expect(logProbability).toBeCloseTo(
          tokenLogProbabilities.reduce((sum, value) => sum + value, 0),
          5,
        );
      }
    }
    expect((await model.generate({ image: noise(1), maxNewTokens: 2 })).sequences).toBeUndefined();
  });

  it("is not disturbed by other work", async () => {
    const options = { image: noise(2), sample: true, seed: 5, maxNewTokens: 8 };
    const alone = await model.generate(options);
    const [one, , two] = await Promise.all([
      model.generate(options),
      model.generate({ image: noise(1), numBeams: 3, maxNewTokens: 5 }),
      model.generate(options),
    ]);
    expect([one, two]).toEqual([alone, alone]);
  });

  it("streams what it generates, and no part of a stop string", async () => {
    const long = { image: noise(2), prompt: "a red", minNewTokens: 25, maxNewTokens: 25 };
    for (const settings of [
      { numBeams: 1 },
      { sample: true, seed: 4 },
      { sample: true, seed: 5 },
      { penaltyAlpha: 0.5, topK: 3 },
    ] as const) {
      const { text: whole } = await model.generate({ ...long, ...settings });
      const stop = [whole.slice(5, 8), whole.slice(9, 11)];
      for (const stops of [undefined, stop]) {
        const options = { ...long, ...settings, stop: stops };
        let text = "";
        for await (const piece of model.stream(options)) text += piece;
        const generated = await model.generate(options);
        expect(text).toBe(generated.text);
        if (stops === undefined) continue;
        for (const word of stops) expect(text).not.toContain(word);
        expect(text.length).toBeLessThan(whole.length);
        expect(generated.tokenIds.length).toBeLessThan(25);
      }
    }
  });
});

describe("chat", () => {
  const short = { maxNewTokens: 4, minNewTokens: 4 };

  it("looks once, asks behind what was said, and forgets the oldest turns first", async () => {
    const looks = countLooks();
    const generate = vi.spyOn(model, "generate");
    await using chat = await model.chat({ image: noise(1) });
    const kinds = ["a red star?", "two cats?", "is it snow?", "grass?"];
    const questions = ["what is this?", ...kinds, ...kinds.map((kind) => `and ${kind}`), "a house?"];
    for (const question of questions) await chat.ask(question, short);
    expect(looks.calls).toBe(1);
    const prompts = generate.mock.calls.map(([{ prompt }]) => prompt!);
    expect(prompts[0]).toBe("Question: what is this? Answer:");
    const [first] = await Promise.all(
      generate.mock.results.map(({ value }) => value as Promise<{ text: string }>),
    );
    const answer = first!.text.replace(/[\s.]+$/, "");
    expect(prompts[1]).toBe(`Question: what is this? Answer: ${answer}. Question: a red star? Answer:`);
    // The model has 64 positions, so not all turns fit.
    expect(chat.forgotten).toBeGreaterThan(0);
    expect(chat.turns.length).toBe(questions.length - chat.forgotten);
    expect(chat.turns.at(-1)!.question).toBe("a house?");
    expect(prompts.at(-1)!.startsWith(`Question: ${chat.turns[0]!.question}`)).toBe(true);
  });

  it("streams what it would answer, and remembers it", async () => {
    await using asked = await model.chat({ image: noise(2) });
    await using streamed = await model.chat({ image: noise(2) });
    for (const question of ["what is this?", "is it red?"]) {
      const { text } = await asked.ask(question, short);
      let pieces = "";
      for await (const piece of streamed.stream(question, short)) pieces += piece;
      expect(pieces).toBe(text);
    }
    expect(streamed.turns).toEqual(asked.turns);
    for await (const piece of streamed.stream("a house?", short)) {
      expect(streamed.turns.length).toBeLessThanOrEqual(2);
      expect(piece).not.toBe("");
      break;
    }
    expect(streamed.turns.at(-1)!.question).toBe("a house?");
    const before = streamed.turns.length;
    const stopped = streamed.ask("a cat?", { ...short, signal: AbortSignal.abort() });
    await expect(stopped).rejects.toThrow(InterruptedError);
    expect(streamed.turns.length).toBeLessThanOrEqual(before);
    expect(streamed.turns.map(({ question }) => question)).not.toContain("a cat?");
  });

  it("takes another format, and a picture that was looked at before", async () => {
    await using view = await model.look(noise(3));
    const looks = countLooks();
    const generate = vi.spyOn(model, "generate");
    {
      await using chat = await model.chat({ image: view, format: "Q: {} A:" });
      await chat.ask("what?", short);
    }
    expect(generate.mock.calls[0]![0].prompt).toBe("Q: what? A:");
    expect(generate.mock.calls[0]![0].stop).toBe("Q:");
    // The chat is over; the view is not.
    await model.generate({ image: view, ...short });
    expect(looks.calls).toBe(0);
    await expect(model.chat({ image: view, format: "no place" })).rejects.toThrow(/needs \{\} once/);
    await using chat = await model.chat({ image: view });
    await expect(chat.ask("what?", { image: 1 } as never)).rejects.toThrow("ask: unknown option image");
    const long = Array(80).fill("cat").join(" ");
    await expect(chat.ask(long)).rejects.toThrow(
      /the question needs a context of \d+ tokens, the chat has 64;/,
    );
  });
});
