import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import { buildBpeTokenizer } from "../../src/text/build-bpe.js";
import { buildWordPieceTokenizer } from "../../src/text/build-wordpiece.js";
import { createTokenizer, loadTokenizer } from "../../src/text/tokenizer.js";
import type { TokenizerFiles } from "../../src/text/tokenizer-files.js";

interface Golden {
  class: string;
  size: number;
  ids: number[][];
  bare: number[][];
  decoded: string[];
  spoken: string[];
  batch: { ids: number[][]; mask: number[][] };
  special: Record<string, number>;
}

/** Made by reference/text.py with Python's transformers. */
const golden = JSON.parse(readFileSync("test/golden/text/tokenizers.json", "utf8")) as {
  world: string[];
  texts: string[];
  bpe: Golden;
  wordpiece: Golden;
};

const builders = { bpe: buildBpeTokenizer, wordpiece: buildWordPieceTokenizer };
const tokenizerOf = (files: TokenizerFiles) =>
  createTokenizer(files["tokenizer.json"], files["tokenizer_config.json"]);
const rowsOf = (data: ArrayLike<unknown>, width: number): number[][] =>
  Array.from({ length: data.length / width }, (_, b) =>
    Array.from({ length: width }, (_, t) => Number(data[b * width + t])),
  );

describe.each(["bpe", "wordpiece"] as const)("%s tokenizer against Python's transformers", (kind) => {
  const reference = golden[kind];
  const tokenizer = tokenizerOf(builders[kind](golden.world));

  it("has the same size and special ids", () => {
    expect(tokenizer.vocabularySize).toBe(reference.size);
    expect(tokenizer.specialIds).toEqual(reference.special);
  });

  it.each(golden.texts.map((text, i) => [text, i] as const))("encodes and decodes %j", (text, i) => {
    expect(tokenizer.encode(text)).toEqual(reference.ids[i]);
    expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(reference.bare[i]);
    expect(tokenizer.decode(reference.ids[i]!, { skipSpecialTokens: true })).toBe(reference.spoken[i]);
    expect(tokenizer.decode(reference.ids[i]!, { skipSpecialTokens: false })).toBe(reference.decoded[i]);
  });

  it("truncates and pads a batch alike", () => {
    const batch = tokenizer.encodeBatch(golden.texts, { side: "left", truncate: 6 });
    expect(batch.inputIds.dims).toEqual([golden.texts.length, 6]);
    expect(rowsOf(batch.inputIds.data, 6)).toEqual(reference.batch.ids);
    expect(rowsOf(batch.attentionMask.data, 6)).toEqual(reference.batch.mask);
  });

  it("does not depend on the order of the texts", () => {
    const backwards = builders[kind]([...golden.world].reverse());
    expect(JSON.stringify(backwards)).toBe(JSON.stringify(builders[kind](golden.world)));
  });
});

describe("byte-level BPE", () => {
  const tokenizer = tokenizerOf(buildBpeTokenizer(golden.world));

  it("makes one token of every known word, mark and newline", () => {
    for (const word of ["red", "star", "background", "trees", "3", ","]) {
      expect(tokenizer.encode(word, { addSpecialTokens: false }), word).toHaveLength(1);
    }
    for (const mark of [",", ".", "?", ":", "\u010a"]) expect(tokenizer.has(mark), mark).toBe(true);
    expect(tokenizer.encode("red\n")).toEqual([2, tokenizer.idOf("\u0120red"), tokenizer.idOf("\u010a")]);
  });

  it("is T5's on demand: the end token behind a text, sentinels before the image token", () => {
    const t5 = tokenizerOf(buildBpeTokenizer(golden.world, "encoder-decoder"));
    expect(["<pad>", "</s>", "<unk>"].map((token) => t5.idOf(token))).toEqual([0, 1, 2]);
    expect(t5.specialIds).toMatchObject({ pad: 0, eos: 1, unk: 2 });
    const [red] = t5.encode("red", { addSpecialTokens: false });
    expect(t5.encode("red")).toEqual([red, 1]);
    expect(t5.encode("red<extra_id_31>")).toEqual([red, t5.vocabularySize - 2, 1]);
    expect(t5.idOf("<extra_id_0>")).toBe(t5.vocabularySize - 33);
    expect(t5.idOf("<image>")).toBe(t5.vocabularySize - 1);
  });

  it("has OPT's special ids and the image token last", () => {
    expect(["<s>", "<pad>", "</s>", "<unk>"].map((token) => tokenizer.idOf(token))).toEqual([0, 1, 2, 3]);
    expect(tokenizer.idOf("<image>")).toBe(tokenizer.vocabularySize - 1);
  });

  it("decodes any text to itself behind the prefix space", () => {
    const text = fc
      .oneof(fc.string({ unit: "binary" }), fc.string(), fc.constantFrom(...golden.texts))
      .filter((s) => !/<(s|\/s|pad|unk|image)>/.test(s) && !/\p{Cs}/u.test(s));
    fc.assert(
      fc.property(text, (s) => {
        const expected = s === "" || s.startsWith(" ") ? s : ` ${s}`;
        expect(tokenizer.decode(tokenizer.encode(s))).toBe(expected);
      }),
      { numRuns: 400 },
    );
  });

  it("makes one token of each word of any vocabulary", () => {
    const word = fc.string({ unit: fc.constantFrom(..."abcdef"), minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(fc.uniqueArray(word, { minLength: 1, maxLength: 30 }), (words) => {
        const built = tokenizerOf(buildBpeTokenizer(words));
        expect(built.encode(words.join(" "))).toEqual([2, ...words.map((w) => built.idOf(`\u0120${w}`))]);
      }),
      { numRuns: 200 },
    );
  });

  it("ignores ids beyond the vocabulary, which padded embedding tables can produce", () => {
    const { vocabularySize } = tokenizer;
    expect(tokenizer.decode([vocabularySize, tokenizer.idOf("\u0120red"), vocabularySize + 9])).toBe(" red");
    expect(tokenizer.decode([])).toBe("");
  });
});

describe("batches", () => {
  const tokenizer = tokenizerOf(buildWordPieceTokenizer(golden.world));

  it("pads on the right up to a length", () => {
    const batch = tokenizer.encodeBatch(["red", "a red star"], { side: "right", padTo: 7 });
    expect(rowsOf(batch.attentionMask.data, 7)).toEqual([
      [1, 1, 1, 0, 0, 0, 0],
      [1, 1, 1, 1, 1, 0, 0],
    ]);
    expect(rowsOf(batch.inputIds.data, 7)[0]!.slice(3)).toEqual([0, 0, 0, 0]);
  });

  it("keeps [CLS] and [SEP] when it cuts", () => {
    const batch = tokenizer.encodeBatch(["a red star and a fish"], { side: "right", truncate: 4 });
    expect(tokenizer.decode(rowsOf(batch.inputIds.data, 4)[0]!, { skipSpecialTokens: false })).toBe(
      "[CLS] a red [SEP]",
    );
  });

  it("needs a pad token only where rows differ", () => {
    const files = buildBpeTokenizer(["red"]);
    const { pad_token: _, ...config } = files["tokenizer_config.json"];
    const unpadded = createTokenizer(files["tokenizer.json"], config, "m/tokenizer.json");
    expect(unpadded.encodeBatch(["red", "red"], { side: "left" }).inputIds.dims).toEqual([2, 2]);
    expect(() => unpadded.encodeBatch(["red", ""], { side: "left" })).toThrowErrorMatchingInlineSnapshot(
      `[UserError: m/tokenizer.json: texts of different length need a pad_token in tokenizer_config.json, it names none]`,
    );
  });
});

describe("loading", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "blip2-text-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it("reads a folder that was written", async () => {
    for (const [name, value] of Object.entries(buildBpeTokenizer(golden.world))) {
      await writeFile(join(folder, name), typeof value === "string" ? value : JSON.stringify(value));
    }
    const tokenizer = await loadTokenizer(folder);
    expect(tokenizer.encode("a red star")).toEqual(golden.bpe.ids[golden.texts.indexOf("a red star")]);
    expect(() => tokenizer.idOf("<video>")).toThrow(`${folder}/tokenizer.json: has no token "<video>"`);
  });

  it("names what is missing or broken", async () => {
    await expect(loadTokenizer(join(folder, "none"))).rejects.toThrow(
      new UserError(
        `${folder}/none/tokenizer_config.json: this file does not exist; a tokenizer needs tokenizer_config.json and one of tokenizer.json, vocab.json with merges.txt, vocab.txt, spiece.model`,
      ),
    );
    expect(() => createTokenizer({}, {}, "m/tokenizer.json")).toThrowErrorMatchingInlineSnapshot(
      `[UserError: m/tokenizer.json: cannot be used as a tokenizer (Tokenizer must contain a "model" property)]`,
    );
  });
});
