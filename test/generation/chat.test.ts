/** Chats of several turns with both families of language models, and the context that they keep to. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { UserError } from "../../src/errors.js";
import { questionPrompt } from "../../src/generation/questions.js";
import { familyOf } from "../../src/models/language/families.js";
import { Blip2, type ImageSource } from "../../src/index.js";
import { temporaryFolder, writeTinyModel } from "./tiny-model.js";
import { writeTinyT5 } from "./tiny-t5.js";

let root: string;
beforeAll(async () => {
  root = await temporaryFolder();
});
afterAll(() => rm(root, { recursive: true }));
afterEach(() => vi.restoreAllMocks());

const image: ImageSource = {
  data: Uint8Array.from({ length: 768 }, (_, i) => (Math.imul(i + 7, 40503) >>> 7) % 256),
  width: 16,
  height: 16,
  channels: 3,
};
const short = { maxNewTokens: 4, minNewTokens: 4 };
const questions = ["what is this?", "a red star?", "two cats?", "what is red?", "a star?", "is this red?"];

describe.each([
  { family: "opt", write: writeTinyModel, usual: 64 },
  { family: "t5", write: writeTinyT5, usual: 512 },
] as const)("a chat with a tiny $family", ({ family, write, usual }) => {
  let model: Blip2;
  beforeAll(async () => {
    model = await Blip2.load(await write(join(root, family)), { threads: 1 });
  });
  afterAll(() => model.close());
  const format = familyOf({ model_type: family }).questionFormat;

  it("asks each question behind the turns before", async () => {
    const generate = vi.spyOn(model, "generate");
    await using chat = await model.chat({ image });
    const first = await chat.ask(questions[0]!, short);
    const second = await chat.ask(questions[1]!, short);
    const turn = { question: questions[0]!, answer: first.text };
    expect(generate.mock.calls.map(([{ prompt }]) => prompt)).toEqual([
      questionPrompt(format, questions[0]!),
      questionPrompt(format, questions[1]!, [turn]),
    ]);
    const alone = await model.generate({
      image,
      prompt: questionPrompt(format, questions[1]!),
      numBeams: 1,
      ...short,
    });
    expect(second.logProbability).not.toBe(alone.logProbability);
    expect(chat.turns).toEqual([turn, { question: questions[1]!, answer: second.text }]);
    expect([chat.forgotten, chat.context]).toEqual([0, usual]);
  });

  it("streams what it would answer, over several turns", async () => {
    await using asked = await model.chat({ image });
    await using streamed = await model.chat({ image });
    for (const question of questions.slice(0, 3)) {
      const { text } = await asked.ask(question, short);
      let pieces = "";
      for await (const piece of streamed.stream(question, short)) pieces += piece;
      expect(pieces).toBe(text);
    }
    expect(streamed.turns).toEqual(asked.turns);
  });

  it("leaves out the oldest turns that the context has no room for, and no more", async () => {
    const room = (turns: Parameters<typeof questionPrompt>[2], question: string): number =>
      model.contextLength(questionPrompt(format, question, turns), short.maxNewTokens);
    // Room for a turn or two: two questions and what an answer may take.
    const context = Math.min(
      usual,
      room([{ question: "a red star?", answer: "two cats" }], "what is this?") + 6,
    );
    await using chat = await model.chat({ image, context });
    const generate = vi.spyOn(model, "generate");
    let dropped = 0;
    for (const [n, question] of questions.entries()) {
      const before = chat.turns;
      const known = [...before];
      await chat.ask(question, short);
      const { prompt } = generate.mock.lastCall![0];
      expect(model.contextLength(prompt!, short.maxNewTokens)).toBeLessThanOrEqual(context);
      const gone = chat.forgotten - dropped;
      dropped = chat.forgotten;
      expect(prompt).toBe(questionPrompt(format, question, known.slice(gone)));
      if (gone > 0) expect(room(known.slice(gone - 1), question)).toBeGreaterThan(context);
      expect(chat.turns).toHaveLength(n + 1 - chat.forgotten);
    }
    expect(chat.forgotten).toBeGreaterThan(0);
    expect(chat.turns.at(-1)!.question).toBe(questions.at(-1));
  });

  it("refuses a question that has no room alone, and keeps its turns", async () => {
    const context = model.contextLength(questionPrompt(format, "a star?"), short.maxNewTokens);
    await using chat = await model.chat({ image, context });
    await chat.ask("a star?", short);
    const [turns, forgotten] = [[...chat.turns], chat.forgotten];
    const long = "what is this red star?";
    const need = model.contextLength(questionPrompt(format, long), short.maxNewTokens);
    const asked = chat.ask(long, short);
    await expect(asked).rejects.toThrow(UserError);
    await expect(asked).rejects.toThrow(
      `ask: the question needs a context of ${need} tokens, the chat has ${context}; ask in fewer words`,
    );
    await expect(chat.stream(long, short).next()).rejects.toThrow(/needs a context of/);
    expect([chat.turns, chat.forgotten]).toEqual([turns, forgotten]);
  });

  it("refuses a context that is none", async () => {
    for (const context of [0, 2.5])
      await expect(model.chat({ image, context })).rejects.toThrow(/chat: context/);
  });
});

describe("what a context counts", () => {
  it("is the answer too with OPT, up to the model's positions", async () => {
    await using model = await Blip2.load(join(root, "opt"), { threads: 1 });
    const length = model.contextLength("a red star", 5);
    expect(model.contextLength("a red star", 9)).toBe(length + 4);
    expect(model.contextLength("a red star")).toBe(length + 25);
    // Queries and the start token are there before any word.
    expect(model.contextLength("", 1)).toBe(3 + 1 + 1);
    expect(model.hasRoomFor("", 60)).toBe(true);
    expect(model.hasRoomFor("", 61)).toBe(false);
    await expect(model.chat({ image, context: 65 })).rejects.toThrow(
      "chat: context is 65, the model has 64 positions",
    );
  });

  it("is what the encoder reads with T5, which sets no limit", async () => {
    await using model = await Blip2.load(join(root, "t5"), { threads: 1 });
    const length = model.contextLength("a red star", 5);
    expect(length).toBe(3 + 3 + 1);
    expect(model.contextLength("a red star", 9)).toBe(length);
    expect(model.hasRoomFor("a red star", 10_000)).toBe(true);
    await using chat = await model.chat({ image, context: 4000 });
    expect(chat.context).toBe(4000);
  });
});
