import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { createTokenizer, loadTokenizer } from "../../src/text/tokenizer.js";

/** Made by reference/tokenizer_parts.py with Python's tokenizers and transformers. */
const golden = JSON.parse(readFileSync("test/golden/text/parts.json", "utf8")) as {
  model: Record<string, unknown>;
  pipelines: {
    normalizer: unknown;
    pre_tokenizer: unknown;
    added_tokens: unknown;
    cases: [string, number[]][];
  }[];
  legacy: Record<string, { texts: [string, number[]][]; rows: [number[], string, string][] }>;
};

const tokenizerOf = (parts: Record<string, unknown>) =>
  createTokenizer({ model: golden.model, ...parts }, {}, "m");
const bytes = (text: string): number[] => [...Buffer.from(text.replaceAll("|", "</w>"))];

describe("parts of a tokenizer.json against Python's tokenizers, on odd characters", () => {
  const named = golden.pipelines.map(({ cases, ...parts }, i) => ({
    name: `${i} ${JSON.stringify([parts.normalizer, parts.pre_tokenizer]).slice(0, 100)}`,
    parts,
    cases,
  }));

  it.each(named)("$name", ({ parts, cases }) => {
    const tokenizer = tokenizerOf(parts);
    for (const [text, ids] of cases) expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
  });

  it.each(Object.entries(golden.legacy))(
    "the older file set %s, both ways",
    async (name, { texts, rows }) => {
      const tokenizer = await loadTokenizer(`test/golden/text/legacy/${name}`);
      for (const [text, ids] of texts) expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
      for (const [row, whole, spoken] of rows) {
        expect(tokenizer.decode(row, { skipSpecialTokens: false })).toBe(whole);
        expect(tokenizer.decode(row)).toBe(spoken);
      }
    },
  );
});

describe("combinations that are not followed", () => {
  it("are refused by name: a mark before the first word alone, behind a normaliser that may take that away", () => {
    const first = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "first" };
    const strip = { type: "Strip", strip_left: true, strip_right: false };
    expect(() => tokenizerOf({ normalizer: strip, pre_tokenizer: first })).toThrow(
      'm: pre_tokenizer: prepend_scheme "first" is not supported together with the normalizer Strip; "always" and "never" are',
    );
  });

  it("are refused by name: expressions whose cost is not known", () => {
    for (const Regex of [
      "(a+)+$",
      "^(a|aa)+$",
      "(.*)*x",
      "\\s+$",
      "a{1,100000}",
      "[a-z]+[a-z]+[a-z]+b",
      "(?=a)*",
      "[^]+",
    ]) {
      const pattern = { Regex };
      for (const parts of [
        { pre_tokenizer: { type: "Split", pattern, behavior: "Isolated", invert: false } },
        { normalizer: { type: "Replace", pattern, content: "" } },
        { decoder: { type: "Replace", pattern, content: "" } },
      ]) {
        expect(() => tokenizerOf(parts), Regex).toThrow(
          /^m: \w+\.pattern: the regular expression ".*" is not one of those/,
        );
      }
    }
  });
});

describe("long texts", () => {
  // What grew with the square of the length took minutes and more here; the test's own limit is far above what is needed.
  const marks = "\u0345\u0334".repeat(100_000);

  it("with two hundred thousand marks on one letter are put into normal form", () => {
    const tokenizer = tokenizerOf({ normalizer: { type: "NFD" } });
    expect(tokenizer.encode(`a${marks}`)).toEqual(
      bytes(`a${"\u0334".repeat(100_000)}${"\u0345".repeat(100_000)}|`),
    );
  });

  it.each(["opt", "bert", "t5"])(
    "are written as one word, many words and odd clusters by %s",
    async (name) => {
      const tokenizer = await loadTokenizer(`test/golden/text/legacy/${name}`);
      const words = tokenizer.encode("red word ".repeat(50_000), { addSpecialTokens: false });
      const few = tokenizer.encode("red word ".repeat(500), { addSpecialTokens: false });
      // The beginning and the end are not like the middle.
      expect(words.slice(0, few.length - 10)).toEqual(few.slice(0, -10));
      for (const text of [
        "ab",
        "\u6771\u4eac",
        "!",
        " ",
        "\ufdfa",
        "e\u0301",
        "\ud83d\udc68\u200d",
        "ab\u0301",
      ]) {
        expect(tokenizer.encode(text.repeat(50_000)).length).toBeGreaterThan(0);
      }
      expect(tokenizer.encode(`e${marks}`).length).toBeGreaterThan(0);
    },
  );
});
