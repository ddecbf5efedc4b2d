import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { TextWriter } from "../../src/generation/text-writer.js";
import type { TextTokenizer } from "../../src/text/tokenizer.js";

/** One id for each byte of UTF-8. */
const bytes: TextTokenizer = {
  vocabularySize: 256,
  specialIds: {},
  encode: (text) => [...new TextEncoder().encode(text)],
  encodeBatch: () => {
    throw new Error("not used");
  },
  decode: (ids) => new TextDecoder().decode(Uint8Array.from(ids)),
  idOf: () => 0,
  has: () => false,
};
const newline = 10;

describe("the text of ids", () => {
  it("ends before the first stop string, without the end token and outer white space", () => {
    const writer = new TextWriter(bytes, [newline], ["###", " and"]);
    expect(writer.text(bytes.encode("  a cat and ### more\n"))).toBe("a cat");
    expect(writer.text(bytes.encode("a cat ## \n"))).toBe("a cat ##");
    expect(writer.text(bytes.encode("### a"))).toBe("");
    expect(writer.text(bytes.encode("a\nb\n"))).toBe("a\nb");
    expect(writer.isStopped!(bytes.encode("a cat an"))).toBe(false);
    expect(writer.isStopped!(bytes.encode("a cat and"))).toBe(true);
    expect(new TextWriter(bytes, [newline], []).isStopped).toBeUndefined();
  });

  it("is what stands behind a marker, where that occurs", () => {
    const writer = new TextWriter(bytes, [newline], ["Question:"], "Short answer:");
    expect(writer.text(bytes.encode("what is it? Short answer: a cat\n"))).toBe("a cat");
    expect(writer.text(bytes.encode("a picture of a cat\n"))).toBe("a picture of a cat");
    expect(writer.text(bytes.encode("it? Short answer: a cat Question: who?\n"))).toBe("a cat");
    const settled = (text: string): string => writer.settledText(bytes.encode(text));
    expect(settled("a picture of")).toBe("");
    expect(settled("what is it? Short answer")).toBe("");
    expect(settled("what is it? Short answer: a ca")).toBe("a ca");
  });

  it("is settled only where nothing that comes can change it", () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom("a", "b", "ab", " ", "aab", "é", "猫", "b a"), { maxLength: 12 }),
        fc.array(fc.constantFrom("ab", "aba", "bb", "a b", "é", "b 猫", "aaab"), { maxLength: 3 }),
        (parts, stops) => {
          const writer = new TextWriter(bytes, [newline], stops);
          const ids = bytes.encode(parts.join(""));
          // As a search does: it ends where a stop string has come.
          const end = ids.findIndex((_, t) => writer.isStopped?.(ids.slice(0, t + 1)) === true);
          const whole = end < 0 ? ids : ids.slice(0, end + 1);
          const text = writer.text(whole);
          for (const stop of stops) expect(text).not.toContain(stop);
          let shown = "";
          for (let length = 0; length <= whole.length; length++) {
            const settled = writer.settledText(whole.slice(0, length));
            expect(text.startsWith(settled), `"${settled}" of "${text}"`).toBe(true);
            if (settled.length > shown.length) shown = settled;
          }
          // What is held back is no longer than a stop string and the white space before it.
          if (stops.length === 0) expect(shown).toBe(text);
        },
      ),
      {
        numRuns: 500,
        examples: [
          [["a", " ", "é"], ["é"]],
          [["b", " ", "猫"], ["b 猫"]],
        ],
      },
    );
  });
});
