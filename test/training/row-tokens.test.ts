import { expect, it, vi } from "vitest";
import { buildBpeTokenizer } from "../../src/text/build-bpe.js";
import { createTokenizer } from "../../src/text/tokenizer.js";
import { RowTokens } from "../../src/training/row-tokens.js";

const files = buildBpeTokenizer(["a red star is on the left"]);
const tokenizer = createTokenizer(files["tokenizer.json"], files["tokenizer_config.json"]);

it("encodes a text once, without special tokens", () => {
  const tokens = new RowTokens(tokenizer, 7);
  const encode = vi.spyOn(tokenizer, "encode");
  const ids = tokens.words("a red star");
  expect(ids).toEqual(tokenizer.encode("a red star", { addSpecialTokens: false }));
  encode.mockClear();
  expect(tokens.words("a red star")).toBe(ids);
  expect(encode).not.toHaveBeenCalled();
  encode.mockRestore();
});

it("cuts to a length and keeps the end", () => {
  const tokens = new RowTokens(tokenizer, 7);
  expect(tokens.cut([1, 2, 3, 7], 4)).toEqual([1, 2, 3, 7]);
  expect(tokens.cut([1, 2, 3, 7], 3)).toEqual([1, 2, 7]);
  expect(tokens.cut([1, 2, 3, 7], 1)).toEqual([7]);
  expect(tokens.cut([1, 2, 3, 7], -3)).toEqual([7]);
});

it("knows the sentinels that the tokenizer has", () => {
  expect(new RowTokens(tokenizer, 7).sentinels).toEqual([]);
  const t5 = buildBpeTokenizer(["a red star"], "encoder-decoder");
  const made = createTokenizer(t5["tokenizer.json"], t5["tokenizer_config.json"]);
  const { sentinels } = new RowTokens(made, 1);
  expect(sentinels).toHaveLength(32);
  expect(sentinels[0]).toBe(made.idOf("<extra_id_0>"));
});
