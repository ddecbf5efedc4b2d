import { readFileSync } from "node:fs";
import { copyFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { loadTokenizer, type TextTokenizer } from "../../src/text/tokenizer.js";

interface Golden {
  size: number;
  ids: number[][];
  bare: number[][];
  decoded: string[];
  spoken: string[];
  special: Record<string, number>;
}

/** Made by reference/legacy_tokenizers.py with Python's transformers. */
const root = "test/golden/text/legacy";
const { texts, tokenizers } = JSON.parse(readFileSync(join(root, "golden.json"), "utf8")) as {
  texts: string[];
  tokenizers: Record<string, Golden>;
};

describe.each(Object.entries(tokenizers))("%s against Python's transformers", (name, golden) => {
  let tokenizer: TextTokenizer;
  beforeEach(async () => {
    tokenizer = await loadTokenizer(join(root, name));
  });

  it("has the same size and special ids", () => {
    expect(tokenizer.vocabularySize).toBe(golden.size);
    expect(tokenizer.specialIds).toEqual(golden.special);
  });

  it.each(texts.map((text, i) => [text, i] as const))("encodes and decodes %j", (text, i) => {
    expect(tokenizer.encode(text)).toEqual(golden.ids[i]);
    expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(golden.bare[i]);
    expect(tokenizer.decode(golden.ids[i]!, { skipSpecialTokens: true })).toBe(golden.spoken[i]);
    expect(tokenizer.decode(golden.ids[i]!, { skipSpecialTokens: false })).toBe(golden.decoded[i]);
  });
});

describe("file sets", () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "blip2-text-"));
  });
  afterEach(() => rm(folder, { recursive: true }));

  const copy = (kind: string, name: string): Promise<void> =>
    copyFile(join(root, kind, name), join(folder, name));
  const refusal = async (): Promise<string> => {
    const error = await loadTokenizer(folder).then(
      () => new Error("was accepted"),
      (thrown: unknown) => thrown as Error,
    );
    return error.message.replaceAll(folder, "DIR");
  };

  it("prefer tokenizer.json", async () => {
    await copy("opt", "vocab.json");
    await copy("opt", "merges.txt");
    await copy("opt", "tokenizer_config.json");
    await writeFile(join(folder, "tokenizer.json"), "{}");
    expect(await refusal()).toContain("DIR/tokenizer.json: cannot be used as a tokenizer");
  });

  it("are named where none is whole", async () => {
    await copy("opt", "tokenizer_config.json");
    expect(await refusal()).toMatchInlineSnapshot(
      `"DIR: a tokenizer is required, as tokenizer.json, vocab.json with merges.txt, vocab.txt, or spiece.model, none of them is there; fetch the folder again, it may be incomplete"`,
    );
    await copy("opt", "merges.txt");
    expect(await refusal()).toMatchInlineSnapshot(
      `"DIR: a tokenizer is required, as tokenizer.json, vocab.json with merges.txt, vocab.txt, or spiece.model, only merges.txt is there; fetch the folder again, it may be incomplete"`,
    );
  });

  it("that are broken are refused by file and place", async () => {
    await writeFile(join(folder, "tokenizer_config.json"), "{}");
    await writeFile(join(folder, "vocab.txt"), "[PAD]\n[UNK]\n[SEP]\n");
    expect(await refusal()).toMatchInlineSnapshot(
      `"DIR/vocab.txt: a line for the cls_token [CLS] is required, there is none"`,
    );
    await writeFile(join(folder, "vocab.json"), '{"a": 0, "b": 1}');
    await writeFile(join(folder, "merges.txt"), "#version: 0.2\na b\n");
    expect(await refusal()).toMatchInlineSnapshot(
      `"DIR/merges.txt: line 2 merges "a b", two tokens of vocab.json that make a third are required"`,
    );
    await writeFile(join(folder, "vocab.json"), '{"a": -1}');
    expect(await refusal()).toMatchInlineSnapshot(
      `"DIR/vocab.json: an id of 0 or more is required for "a", got -1"`,
    );
  });

  it("with a broken sentencepiece model are refused", async () => {
    await writeFile(join(folder, "tokenizer_config.json"), "{}");
    const bytes = await readFile(join(root, "t5", "spiece.model"));
    await writeFile(join(folder, "spiece.model"), bytes.subarray(0, 1001));
    expect(await refusal()).toMatch(/^DIR\/spiece\.model: is no sentencepiece model \(.*\)$/);
    await writeFile(join(folder, "spiece.model"), "");
    expect(await refusal()).toMatchInlineSnapshot(
      `"DIR/spiece.model: a sentencepiece model with an unknown token is required, got 0 pieces and 0 as its id"`,
    );
    // The announced length of the trie in the charsmap, which the normaliser's name precedes.
    const broken = Buffer.from(bytes);
    const name = broken.indexOf("nmt_nfkc", broken.indexOf("nmt_nfkc") + 1);
    const at = (name > 0 ? name : broken.indexOf("nmt_nfkc")) + "nmt_nfkc".length + 4;
    broken.fill(0xff, at, at + 4);
    await writeFile(join(folder, "spiece.model"), broken);
    expect(await refusal()).toMatch(/^DIR\/spiece\.model: its charsmap of \d+ bytes is broken/);
  });
});
