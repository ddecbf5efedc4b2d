/** Rows of stage 2 for a decoder-only language model, by LAVIS's rule for prompts (`Blip2OPT.forward`). */
import { describe, expect, it } from "vitest";
import { ignoreIndex } from "../../src/objectives/cross-entropy.js";
import { RowWriter } from "../../src/recipes/stage-2/decoder-text.js";
import { buildBpeTokenizer } from "../../src/text/build-bpe.js";
import { tokenizerFrom } from "../../src/text/tokenizer.js";

const tokenizer = tokenizerFrom(buildBpeTokenizer(["a photo of a red star on grass", "two fish"]));
const end = tokenizer.encode("\n", { addSpecialTokens: false }).at(-1)!;
const special = { start: tokenizer.idOf("</s>"), end, pad: tokenizer.specialIds.pad! };
const writer = (prompt: string, more: object = {}) =>
  new RowWriter(tokenizer, special, { prompt, maxTextLength: 40, learnStartToken: false, ...more });
const learnt = (labels: readonly number[]): number[] => labels.filter((label) => label !== ignoreIndex);

describe("a caption behind a prompt", () => {
  const whole = tokenizer.encode("a photo of a red star");

  it.each(["a photo of", "a photo of "])(
    "is one text with %j, so that its first word has its space",
    (prompt) => {
      const { ids, labels } = writer(prompt).caption("a red star");
      expect(ids).toEqual([...whole, end]);
      // The ids of the prompt alone, the start token among them, are not learnt.
      const opening = tokenizer.encode("a photo of").length;
      expect(labels.slice(0, opening).every((label) => label === ignoreIndex)).toBe(true);
      expect(learnt(labels)).toEqual([...whole.slice(opening), end]);
      expect(tokenizer.decode(learnt(labels).slice(0, 1))).toBe(" a");
    },
  );

  it.each(["a photo\n", "a\nphoto:\t"])(
    "stands right behind %j, which ends with a break of its own",
    (prompt) => {
      const { ids, labels } = writer(prompt).caption("a red star");
      expect(ids).toEqual([...tokenizer.encode(`${prompt}a red star`), end]);
      expect(tokenizer.decode(learnt(labels).slice(0, -1))).toBe("a red star");
    },
  );

  it("loses its last words where there is no room, not its end", () => {
    const { ids } = writer("a photo of", { maxTextLength: whole.length }).caption("a red star");
    expect(ids).toEqual([...whole.slice(0, -1), end]);
  });
});

it("a caption without a prompt stands behind the start token, which may be learnt", () => {
  const caption = tokenizer.encode("a red star", { addSpecialTokens: false });
  expect(writer("").caption("a red star")).toEqual({
    ids: [special.start, ...caption, end],
    labels: [ignoreIndex, ...caption, end],
  });
  expect(writer("", { learnStartToken: true }).caption("a red star").labels[0]).toBe(special.start);
});
