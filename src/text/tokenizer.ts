/** Text to token ids and back, from the tokenizer files of a folder. */
import { quoted } from "../quoted.js";
import { UserError } from "../errors.js";
import { int64Tensor } from "../host-tensor.js";
import { cleanedUp } from "./decoders.js";
import { contentOf } from "./legacy-added-tokens.js";
import type { JsonObject } from "./parts.js";
import { readPipeline } from "./pipeline.js";
import type { EncodedBatch, TextTokenizer } from "./text-tokenizer.js";
import type { TokenizerFiles } from "./tokenizer-files.js";
import { readTokenizerFolder } from "./tokenizer-folder.js";

export type { BatchOptions, EncodedBatch, TextTokenizer } from "./text-tokenizer.js";

/**
 * Loads the tokenizer of a model folder: tokenizer.json, or without it vocab.json with merges.txt, vocab.txt, or spiece.model.
 * tokenizer_config.json is required too, for its special tokens. Throws `UserError` if a file is missing or broken.
 */
export async function loadTokenizer(folder: string): Promise<TextTokenizer> {
  const { json, config, where } = await readTokenizerFolder(folder);
  return createTokenizer(json, config, where);
}

/** The tokenizer of files that were built here or read for another folder. */
export const tokenizerFrom = (files: TokenizerFiles): TextTokenizer =>
  createTokenizer(files["tokenizer.json"], files["tokenizer_config.json"]);

/** A tokenizer from the two parsed files; `where` names the first one in errors. */
export function createTokenizer(
  json: JsonObject,
  config: JsonObject,
  where = "tokenizer.json",
): TextTokenizer {
  const { ids, tokens, special, encodeText, around, decodeTokens, isBpe } = readPipeline(json, config, where);
  let vocabularySize = 0;
  for (const id of tokens.keys()) vocabularySize = Math.max(vocabularySize, id + 1);
  // Absent, Python's transformers takes this as false. It does not clean up behind BPE.
  const cleanUp = config["clean_up_tokenization_spaces"] === true && !isBpe;
  const specialIds = specialIdsOf(ids, config);

  const encode: TextTokenizer["encode"] = (text, { addSpecialTokens = true } = {}) => {
    const bare = encodeText(text);
    return addSpecialTokens ? [...around.before, ...bare, ...around.after] : bare;
  };

  const encodeWithin = (text: string, most = Infinity): number[] => {
    const bare = encodeText(text);
    const { before, after } = around;
    const kept = Math.max(0, most - before.length - after.length);
    return [...before, ...bare.slice(0, kept), ...after].slice(0, most);
  };

  return {
    vocabularySize,
    specialIds,
    encode,
    encodeBatch(texts, { padTo = 0, side, truncate }) {
      const rows = texts.map((text) => encodeWithin(text, truncate));
      const length = rows.reduce((longest, row) => Math.max(longest, row.length), padTo);
      const pad = specialIds.pad;
      if (pad === undefined && rows.some((row) => row.length < length)) {
        throw new UserError(
          `${where}: texts of different length need a pad_token in tokenizer_config.json, it names none`,
        );
      }
      return padded(rows, length, side, pad ?? 0);
    },
    decode(row, { skipSpecialTokens = true } = {}) {
      const known = row
        .filter((id) => !(skipSpecialTokens && special.has(id)))
        .flatMap((id) => tokens.get(id) ?? []);
      const text = decodeTokens(known);
      return cleanUp ? cleanedUp(text) : text;
    },
    idOf(token) {
      const id = ids.get(token);
      if (id === undefined) throw new UserError(`${where}: has no token ${quoted(token)}`);
      return id;
    },
    has: (token) => ids.has(token),
  };
}

function specialIdsOf(ids: ReadonlyMap<string, number>, config: JsonObject): TextTokenizer["specialIds"] {
  const found: Partial<Record<"bos" | "eos" | "pad" | "unk" | "cls" | "sep", number>> = {};
  for (const role of ["bos", "eos", "pad", "unk", "cls", "sep"] as const) {
    const content = contentOf(config[`${role}_token`]);
    const id = content === undefined ? undefined : ids.get(content);
    if (id !== undefined) found[role] = id;
  }
  return found;
}

function padded(
  rows: readonly number[][],
  length: number,
  side: "left" | "right",
  pad: number,
): EncodedBatch {
  const dims = [rows.length, length];
  const inputIds = new BigInt64Array(rows.length * length).fill(BigInt(pad));
  const attentionMask = new BigInt64Array(rows.length * length);
  rows.forEach((row, b) => {
    const start = b * length + (side === "left" ? length - row.length : 0);
    row.forEach((id, t) => (inputIds[start + t] = BigInt(id)));
    attentionMask.fill(1n, start, start + row.length);
  });
  return { inputIds: int64Tensor(inputIds, dims), attentionMask: int64Tensor(attentionMask, dims) };
}
