/** Text to token ids and back, from the tokenizer files of a folder. */
import { Tokenizer as Backend } from "@huggingface/tokenizers";
import { UserError } from "../errors.js";
import { int64Tensor, type HostTensor } from "../host-tensor.js";
import { contentOf, type JsonObject } from "./legacy-added-tokens.js";
import { charsmapNormalizer } from "./precompiled-charsmap.js";
import type { TokenizerFiles } from "./tokenizer-files.js";
import { readTokenizerFolder } from "./tokenizer-folder.js";

/** How `encodeBatch` makes rows of equal length. */
export interface BatchOptions {
  /** Fill every row up to this many ids (default: the longest row). A longer row stays longer than it, unless truncated. */
  readonly padTo?: number;
  /** Where the padding goes. */
  readonly side: "left" | "right";
  /** Keep at most this many ids of each text; special tokens around the text are kept, its end is cut. */
  readonly truncate?: number;
}

/** Token ids of several texts. */
export interface EncodedBatch {
  /** int64 [B, T] */
  readonly inputIds: HostTensor;
  /** int64 [B, T]: 1 for ids of the text, 0 for padding */
  readonly attentionMask: HostTensor;
}

/** A loaded tokenizer. */
export interface TextTokenizer {
  /** Number of token ids, added tokens included: every id is below this. */
  readonly vocabularySize: number;
  /** Ids by role, where tokenizer_config.json names a token for the role. */
  readonly specialIds: Readonly<Partial<Record<"bos" | "eos" | "pad" | "unk" | "cls" | "sep", number>>>;
  /** Ids of one text; with `addSpecialTokens` (the default) the ones that the tokenizer puts around it. */
  encode(text: string, options?: { addSpecialTokens?: boolean }): number[];
  /** Ids of texts as rows of equal length. Throws `UserError` if rows differ and the tokenizer has no padding token. */
  encodeBatch(texts: readonly string[], options: BatchOptions): EncodedBatch;
  /**
   * The text of ids, nothing cleaned up unless the tokenizer's own config asks for it. Ids from the vocabulary's size on (padding rows
   * of an embedding table) have no text. A byte-level tokenizer yields the space before the first word.
   */
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string;
  /** The id of one token by its exact content, such as `</s>`. Throws `UserError` if there is none. */
  idOf(token: string): number;
  /** Whether a token of this exact content exists. */
  has(token: string): boolean;
}

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
  let backend: Backend;
  try {
    backend = new Backend({ ...json, pre_tokenizer: splittingAtWhiteSpace(json["pre_tokenizer"]) }, config);
    useCharsmaps(backend.normalizer as Normalizer | null, where);
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw new UserError(`${where}: cannot be used as a tokenizer (${(cause as Error).message})`, { cause });
  }
  const vocabularySize = largestId(backend) + 1;
  // Absent, Python's transformers takes this as false; the library underneath would take it as true.
  const cleanUp = config["clean_up_tokenization_spaces"] === true;
  const specialIds = specialIdsOf(backend, config);

  const encode: TextTokenizer["encode"] = (text, { addSpecialTokens = true } = {}) =>
    backend.encode(text, { add_special_tokens: addSpecialTokens }).ids;

  const encodeWithin = (text: string, most = Infinity): number[] => {
    const ids = encode(text);
    if (ids.length <= most) return ids;
    const bare = encode(text, { addSpecialTokens: false });
    const around = ids.length - bare.length;
    const kept = Math.max(0, most - around);
    const start = positionOf(bare, ids);
    return [...ids.slice(0, start + kept), ...ids.slice(start + bare.length)].slice(0, most);
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
    decode(ids, { skipSpecialTokens = true } = {}) {
      const known = ids.filter((id) => backend.id_to_token(id) !== undefined);
      if (known.length === 0) return "";
      const options = { skip_special_tokens: skipSpecialTokens, clean_up_tokenization_spaces: cleanUp };
      return backend.decode(known, options);
    },
    idOf(token) {
      const id = backend.token_to_id(token);
      if (id === undefined) throw new UserError(`${where}: has no token ${JSON.stringify(token)}`);
      return id;
    },
    has: (token) => backend.token_to_id(token) !== undefined,
  };
}

/**
 * The same pre-tokenizer with `WhitespaceSplit` spelt out as a pattern: the library takes JavaScript's `\s` for it, which
 * lacks U+0085 and has U+FEFF; Python's tokenizers go by Unicode's White_Space.
 */
function splittingAtWhiteSpace(value: unknown): unknown {
  const { type, pretokenizers } = (value ?? {}) as { type?: unknown; pretokenizers?: unknown };
  if (type === "WhitespaceSplit") {
    return { type: "Split", pattern: { Regex: "\\P{White_Space}+" }, behavior: "Removed", invert: true };
  }
  if (!Array.isArray(pretokenizers)) return value;
  return { ...(value as object), pretokenizers: pretokenizers.map(splittingAtWhiteSpace) };
}

interface Normalizer {
  readonly config?: { readonly type?: unknown; readonly precompiled_charsmap?: unknown };
  /** The parts of a sequence. */
  readonly normalizers?: readonly (Normalizer | null)[];
  normalize(text: string): string;
}

/** Gives every `Precompiled` normaliser the replacements of its own map. */
function useCharsmaps(normalizer: Normalizer | null, where: string): void {
  for (const part of normalizer?.normalizers ?? []) useCharsmaps(part, where);
  const { type, precompiled_charsmap: map } = normalizer?.config ?? {};
  if (type !== "Precompiled" || typeof map !== "string" || map === "") return;
  normalizer!.normalize = charsmapNormalizer(Buffer.from(map, "base64"), where);
}

function largestId(backend: Backend): number {
  let largest = -1;
  for (const id of backend.get_vocab().values()) largest = Math.max(largest, id);
  return largest;
}

function specialIdsOf(backend: Backend, config: JsonObject): TextTokenizer["specialIds"] {
  const ids: Partial<Record<"bos" | "eos" | "pad" | "unk" | "cls" | "sep", number>> = {};
  for (const role of ["bos", "eos", "pad", "unk", "cls", "sep"] as const) {
    const content = contentOf(config[`${role}_token`]);
    const id = content === undefined ? undefined : backend.token_to_id(content);
    if (id !== undefined) ids[role] = id;
  }
  return ids;
}

/** Where the run `part` starts in `whole`. */
function positionOf(part: readonly number[], whole: readonly number[]): number {
  for (let start = 0; start <= whole.length - part.length; start++) {
    if (part.every((id, i) => whole[start + i] === id)) return start;
  }
  return 0;
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
