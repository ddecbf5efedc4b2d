/** The language model alone: what it is given to read, and that batches change nothing. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { Decoder } from "../../src/generation/decoder.js";
import type { EncoderDecoder } from "../../src/generation/encoder-decoder.js";
import type { Prompt, StepperOptions } from "../../src/generation/search/stepper.js";
import { Blip2 } from "../../src/index.js";
import { loadTokenizer, type TextTokenizer } from "../../src/text/tokenizer.js";
import { rowsOf } from "./golden.js";
import { temporaryFolder, writeTinyModel } from "./tiny-model.js";
import { writeTinyT5 } from "./tiny-t5.js";

let root: string;
beforeAll(async () => {
  root = await temporaryFolder();
});
afterAll(() => rm(root, { recursive: true }));
afterEach(() => vi.restoreAllMocks());

const prompts = ["a red star", "Question: what is this? Answer:"];
const descriptions = ["two blue cats", "a red star"];

/** What the language model reads from now on. */
function readPrompts(model: Blip2): Prompt[] {
  const { languageModel: decoder } = (
    model as unknown as { runner: { languageModel: Decoder | EncoderDecoder } }
  ).runner;
  const begin = decoder.begin.bind(decoder);
  const seen: Prompt[] = [];
  vi.spyOn(decoder, "begin").mockImplementation((options?: StepperOptions) => {
    const stepper = begin(options);
    const prefill = stepper.prefill.bind(stepper);
    vi.spyOn(stepper, "prefill").mockImplementation((prompt, signal) => {
      seen.push(prompt);
      return prefill(prompt, signal);
    });
    return stepper;
  });
  return seen;
}

describe.each([
  { family: "opt", write: writeTinyModel },
  { family: "t5", write: writeTinyT5 },
] as const)("a tiny $family without a picture", ({ family, write }) => {
  let model: Blip2;
  let tokenizer: TextTokenizer;
  beforeAll(async () => {
    const folder = await write(join(root, family));
    tokenizer = await loadTokenizer(folder);
    model = await Blip2.load(folder, { threads: 1 });
  });
  afterAll(() => model.close());
  const settings = { numBeams: 2, maxNewTokens: 5, minNewTokens: 5 };

  const bare = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });
  const layouts = {
    opt: {
      nothing: (prompt: string) => [2, ...bare(prompt)],
      described: (prompt: string, before: string) => [...bare(before), 2, ...bare(prompt)],
    },
    t5: {
      nothing: (prompt: string) => [...bare(prompt), 1],
      described: (prompt: string, before: string) => [...bare(`${before} ${prompt}`), 1],
    },
  }[family];

  it.each([
    ["nothing", undefined],
    ["a description", descriptions],
  ])("reads %s before the prompt, and no soft prompt", async (_, before) => {
    const seen = readPrompts(model);
    await model.generateWithoutPicture({ prompts, descriptions: before, ...settings });
    expect(seen).toHaveLength(1);
    const { embeddings, ids, mask } = seen[0]!;
    expect(embeddings.dims).toEqual([2, 0, 16]);
    const real = rowsOf(mask).map((row, b) => rowsOf(ids)[b]!.filter((__, t) => row[t] === 1));
    expect(real).toEqual(
      prompts.map((prompt, i) =>
        before === undefined ? layouts.nothing(prompt) : layouts.described(prompt, before[i]!),
      ),
    );
    // Padding lies before the text of a decoder, behind that of an encoder.
    const shorter = rowsOf(mask).find((row) => row.includes(0))!;
    expect(shorter.at(family === "opt" ? 0 : -1)).toBe(0);
    expect(shorter.at(family === "opt" ? -1 : 0)).toBe(1);
  });

  it("gives a batch what it gives each prompt alone", async () => {
    const together = await model.generateWithoutPicture({ prompts, descriptions, ...settings });
    for (const [i, prompt] of prompts.entries()) {
      const [alone] = await model.generateWithoutPicture({
        prompts: [prompt],
        descriptions: [descriptions[i]!],
        ...settings,
      });
      expect(together[i]!.tokenIds).toEqual(alone!.tokenIds);
      expect(together[i]!.logProbability).toBeCloseTo(alone!.logProbability, 4);
    }
    const without = await model.generateWithoutPicture({ prompts, ...settings });
    for (const [i, { logProbability }] of without.entries())
      expect(logProbability).not.toBeCloseTo(together[i]!.logProbability, 4);
    expect(await model.generateWithoutPicture({ prompts: [], ...settings })).toEqual([]);
  });

  it("says what does not fit", async () => {
    await expect(model.generateWithoutPicture({ prompts, descriptions: ["one"] })).rejects.toThrow(
      "generateWithoutPicture: 2 prompts need as many descriptions, got 1",
    );
    await expect(model.generateWithoutPicture({ prompts, image: "x.png" } as never)).rejects.toThrow(
      "generateWithoutPicture: unknown option image",
    );
    if (family === "t5") return;
    const long = Array<string>(70).fill("cat").join(" ");
    await expect(model.generateWithoutPicture({ prompts: [long], ...settings })).rejects.toThrow(
      /leaves room for 0 new ones/,
    );
    // The positions that a picture would take are free.
    const fitting = { prompts: ["a red star"], numBeams: 1, minNewTokens: 1 };
    const length = layouts.nothing("a red star").length;
    await expect(
      model.generateWithoutPicture({ ...fitting, maxNewTokens: 64 - length }),
    ).resolves.toHaveLength(1);
    await expect(model.generateWithoutPicture({ ...fitting, maxNewTokens: 65 - length })).rejects.toThrow(
      /leaves room/,
    );
  });
});
