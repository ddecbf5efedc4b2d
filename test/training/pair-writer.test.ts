/** Training pairs of the T5: what its encoder reads and what its decoder shall say. */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/random.js";
import { ignoreIndex } from "../../src/objectives/cross-entropy.js";
import { buildBpeTokenizer } from "../../src/text/build-bpe.js";
import { createTokenizer } from "../../src/text/tokenizer.js";
import { clozeOf } from "../../src/training/cloze.js";
import { PairWriter, shortAnswerPrompt } from "../../src/evaluation/answers/pair-writer.js";
import { describedScene as scene } from "./described-scene.js";

const files = buildBpeTokenizer(
  [
    scene.description,
    ...scene.captions,
    ...scene.statements,
    ...scene.questions.flatMap(({ question, answer }) => [shortAnswerPrompt(question), answer]),
  ],
  "encoder-decoder",
);
const tokenizer = createTokenizer(files["tokenizer.json"], files["tokenizer_config.json"]);
const shares = {
  mostBlanks: 8,
  bareShare: 0.5,
  splitShare: 0,
  echoShare: 0,
  statementShare: 1,
  typeShares: {},
};
const end = tokenizer.idOf("</s>");

const spoken = (ids: readonly number[]): string =>
  tokenizer.decode([...ids], { skipSpecialTokens: false }).trim();
const pairs = (form: "dialogues" | "blanks" | "questions" | "captions", most?: number, changed = {}) =>
  Array.from({ length: 40 }, (_, i) => {
    const writer = new PairWriter(tokenizer, most);
    return writer.pair(form, scene, new Random("pair", i), { ...shares, ...changed });
  });

/** What is missing behind what is given. */
const known = new Map([
  ...scene.questions.flatMap(({ question, answer }): [string, string][] => [
    [question.replace("?", ""), answer],
    [shortAnswerPrompt(question), answer],
  ]),
  ["the color of the car is", "yellow"],
  ["of things there is", "one"],
]);

describe("pairs", () => {
  it.each(["dialogues", "blanks", "questions", "captions"] as const)(
    "of %s begin with the description, and say how much of them it is",
    (form) => {
      for (const { text, described } of pairs(form))
        expect(spoken(text.slice(0, described))).toBe(`${scene.description} .`);
    },
  );

  it("with blanks: each sentinel in the text is answered behind the same sentinel", () => {
    const counts = new Set<number>();
    for (const { text, labels } of pairs("blanks")) {
      expect([text.at(-1), labels.at(-1)]).toEqual([end, end]);
      const behind = spoken(text).slice(`${scene.description} .`.length).replace("</s>", "");
      const given = behind.split(/<extra_id_\d+>/).map((piece) => piece.trim());
      const answers = spoken(labels)
        .replace("</s>", "")
        .split(/<extra_id_\d+>/);
      counts.add(given.length - 1);
      given.slice(0, -1).forEach((before, i) => expect(answers[i + 1]!.trim()).toBe(known.get(before)));
      const sentinels = (ids: string): string[] => ids.match(/<extra_id_\d+>/g) ?? [];
      expect(sentinels(spoken(labels))).toEqual(sentinels(spoken(text)));
      expect(sentinels(spoken(text))[0]).toBe("<extra_id_0>");
    }
    expect([...counts].toSorted()).toEqual([1, 2, 3, 4, 5]);
  });

  it("with a dialogue: the decoder reads what is asked, and learns only what is missing", () => {
    for (const { text, labels, said } of pairs("dialogues")) {
      expect(spoken(text)).toBe(`${scene.description} .</s>`);
      expect(said).toHaveLength(labels.length);
      expect(labels.every((label, i) => label === ignoreIndex || label === said![i])).toBe(true);
      const learnt = labels.filter((label) => label !== ignoreIndex);
      const answers = spoken(learnt).split("</s>").slice(0, -1);
      const turns = spoken(said!).split("</s>").slice(0, -1);
      expect(turns).toHaveLength(5);
      for (const [i, turn] of turns.entries()) {
        const answer = answers[i]!.trim();
        expect(turn.trim().endsWith(answer)).toBe(true);
        expect(known.get(turn.trim().slice(0, -answer.length).trim())).toBe(answer);
      }
    }
    for (const { said } of pairs("dialogues", 12)) expect(said!.length).toBeLessThanOrEqual(12);
  });

  it("with blanks end where the text has no more room, and leave out what is not wanted", () => {
    for (const { text } of pairs("blanks", 24)) expect(text.length).toBeLessThanOrEqual(24);
    const without = pairs("blanks", undefined, { statementShare: 0, typeShares: { color: 0 } });
    for (const { text } of without) expect(spoken(text)).not.toMatch(/color|of things/);
  });

  it("with a question: it stands behind the description as users put it", () => {
    for (const { text, labels } of pairs("questions")) {
      const asked = scene.questions.find(({ question }) => spoken(text).includes(question))!;
      expect(spoken(text)).toBe(`${scene.description} . ${shortAnswerPrompt(asked.question)}</s>`);
      expect(spoken(labels)).toBe(`${asked.answer}</s>`);
    }
  });

  it("with a question that is split: the decoder reads on where the encoder ends, and learns the answer only", () => {
    const kept = new Set<number>();
    for (const { text, labels, said } of pairs("questions", undefined, { splitShare: 1 })) {
      expect(text.at(-1)).toBe(end);
      const read = spoken([...text.slice(0, -1), ...said!]).slice(`${scene.description} .`.length);
      const asked = scene.questions.find(({ question }) => read.includes(question))!;
      expect(read.trim()).toBe(`${shortAnswerPrompt(asked.question)} ${asked.answer}</s>`);
      expect(spoken(labels.filter((label) => label !== ignoreIndex))).toBe(`${asked.answer}</s>`);
      expect(labels.every((label, i) => label === ignoreIndex || label === said![i])).toBe(true);
      kept.add(labels.filter((label) => label === ignoreIndex).length);
    }
    expect(Math.min(...kept)).toBe(0);
    expect(kept.size).toBeGreaterThan(4);
  });

  it("with a question that is said again: the decoder asks it and answers", () => {
    for (const { text, labels } of pairs("questions", undefined, { echoShare: 1 })) {
      const asked = scene.questions.find(({ question }) => spoken(text).includes(question))!;
      expect(spoken(text)).toBe(`${scene.description} . Question: ${asked.question}</s>`);
      expect(spoken(labels)).toBe(`${asked.question} Short answer: ${asked.answer}</s>`);
    }
  });

  it("with a caption: the two pieces are the caption, cut before its middle at the latest", () => {
    const [caption] = scene.captions;
    let whole = 0;
    for (const { text, labels } of pairs("captions")) {
      const before = spoken(text).slice(`${scene.description} .`.length).replace("</s>", "").trim();
      const rest = spoken(labels).replace("</s>", "").trim();
      const said = `${before} ${rest}`.trim();
      expect([caption, ...scene.statements]).toContain(said);
      if (said === caption) expect(before.split(" ").length).toBeLessThanOrEqual(4);
      if (before === "") whole++;
    }
    expect(whole).toBeGreaterThan(5);
    expect(whole).toBeLessThan(35);
  });
});

it.each([
  ["the color of the star is red", "the color of the star is", "red"],
  ["to the left of the star is a fish", "to the left of the star is", "a fish"],
  ["of fish there are two", "of fish there are", "two"],
  ["a red star", "a red", "star"],
  ["what it is", "what it", "is"],
])("cuts %j behind its verb", (statement, before, missing) => {
  expect(clozeOf(statement)).toEqual({ before, missing });
});
