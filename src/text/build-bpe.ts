/**
 * Makes a tokenizer (byte-level BPE) for a small closed world, for a language model of either kind, with the special tokens of OPT or of T5: every known word with the space before it is one
 * token, and any other text still has tokens, byte by byte.
 */
import { byteAlphabet, bytePieces } from "./byte-level.js";
import { type TokenizerFiles } from "./tokenizer-files.js";

const imageToken = "<image>";

/** T5's marks of what is missing in a text, in the order in which they are used. */
export const sentinelTokens = Array.from({ length: 32 }, (_, i) => `<extra_id_${i}>`);

interface Layout {
  /** The first ids. */
  readonly specials: readonly string[];
  /** The last ids before `<image>`. */
  readonly more: readonly string[];
  readonly roles: Readonly<Record<"bos_token" | "eos_token" | "pad_token" | "unk_token", string>>;
  /** The mark goes before a text, or behind it. */
  readonly mark: "before" | "behind";
  readonly paddingSide: "left" | "right";
}

const layouts = {
  "decoder-only": {
    specials: ["<s>", "<pad>", "</s>", "<unk>"],
    more: [],
    roles: { bos_token: "</s>", eos_token: "</s>", pad_token: "<pad>", unk_token: "</s>" },
    mark: "before",
    paddingSide: "left",
  },
  "encoder-decoder": {
    specials: ["<pad>", "</s>", "<unk>"],
    more: sentinelTokens,
    roles: { bos_token: "</s>", eos_token: "</s>", pad_token: "<pad>", unk_token: "<unk>" },
    mark: "behind",
    paddingSide: "right",
  },
} as const satisfies Record<string, Layout>;

/**
 * Builds the files of a byte-level BPE tokenizer from texts (or single words). Ids for an OPT: its four special tokens (`<s>` 0,
 * `<pad>` 1, `</s>` 2, `<unk>` 3), the 256 bytes, the words with their beginnings, and `<image>` last; an encoded text starts with
 * `</s>`. Ids for a T5: `<pad>` 0, `</s>` 1, `<unk>` 2, bytes, words, 32 sentinels, and `<image>`; an encoded text ends with `</s>`.
 *
 * A word is what the GPT-2 pattern cuts out with a space before it ("a red star , two": " a", " red", " star", " ,", " two"); a
 * mark without a space (".", ",", "?", ":") and "\n" are single tokens as bytes. The same texts in any order give the same files.
 */
export function buildBpeTokenizer(
  texts: Iterable<string>,
  kind: keyof typeof layouts = "decoder-only",
): TokenizerFiles {
  const { specials, more, roles, mark, paddingSide }: Layout = layouts[kind];
  const words = new Set<string>();
  for (const text of texts) {
    for (const piece of bytePieces(text)) if (piece.startsWith(space) && piece.length > 1) words.add(piece);
  }
  const vocabulary: string[] = [...specials, ...byteAlphabet];
  const merges: string[] = [];
  const known = new Set(vocabulary);
  // Every merge starts with the space mark, and that occurs only at a piece's start: so of two known words neither can spoil the
  // other's chain, in whatever order the merges stand.
  for (const word of [...words].sort()) {
    const letters = [...word];
    for (let end = 2; end <= letters.length; end++) {
      const merged = letters.slice(0, end).join("");
      if (known.has(merged)) continue;
      known.add(merged);
      vocabulary.push(merged);
      merges.push(`${letters.slice(0, end - 1).join("")} ${letters[end - 1]}`);
    }
  }
  const vocab = Object.fromEntries(vocabulary.map((token, id) => [token, id]));
  const added = [
    ...specials.map((content, id) => addedToken(id, content)),
    ...[...more, imageToken].map((content, i) => addedToken(vocabulary.length + i, content)),
  ];
  const end = vocabulary.indexOf("</s>");
  const sentence = (id: "A" | "B"): object[] => {
    const text = { Sequence: { id, type_id: 0 } };
    const special = { SpecialToken: { id: "</s>", type_id: 0 } };
    if (mark === "behind") return [text, special];
    return id === "A" ? [special, text] : [text];
  };
  const byteLevel = { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true };
  return {
    "tokenizer.json": {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: null,
      pre_tokenizer: byteLevel,
      post_processor: {
        type: "TemplateProcessing",
        single: sentence("A"),
        pair: [...sentence("A"), ...sentence("B")],
        special_tokens: { "</s>": { id: "</s>", ids: [end], tokens: ["</s>"] } },
      },
      decoder: byteLevel,
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: "",
        end_of_word_suffix: "",
        fuse_unk: false,
        byte_fallback: false,
        vocab,
        merges,
      },
    },
    "tokenizer_config.json": {
      tokenizer_class: "PreTrainedTokenizerFast",
      ...roles,
      add_prefix_space: true,
      clean_up_tokenization_spaces: false,
      model_max_length: 512,
      padding_side: paddingSide,
      added_tokens_decoder: Object.fromEntries(added.map(({ id, ...token }) => [String(id), token])),
    },
    "special_tokens_map.json": { ...roles, additional_special_tokens: [...more, imageToken] },
    "vocab.json": vocab,
    "merges.txt": `#version: 0.2\n${merges.join("\n")}\n`,
  };
}

const space = "\u0120";

function addedToken(id: number, content: string) {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
}
