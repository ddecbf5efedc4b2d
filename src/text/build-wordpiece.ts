/**
 * Makes a BERT-style tokenizer (lower-casing WordPiece) for a small closed world: every known word is one token, any
 * other word is spelt.
 */
import { type TokenizerFiles } from "./tokenizer-files.js";

const specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] as const;
const decoderToken = "[DEC]";

/**
 * Builds the files of a WordPiece tokenizer from texts (or single words). Ids: the five special tokens ([PAD] 0), letters and
 * digits alone and as continuations (`##a`), punctuation, the words sorted, and `[DEC]` last, as BLIP-2 adds it.
 * Encoded texts are `[CLS] text [SEP]`. The same texts in any order give the same files.
 */
export function buildWordPieceTokenizer(texts: Iterable<string>): TokenizerFiles {
  const letters = new Set("abcdefghijklmnopqrstuvwxyz0123456789");
  const words = new Set<string>();
  for (const text of texts) {
    for (const word of plain(text).match(/[^\s\p{P}\p{S}]+/gu) ?? []) {
      for (const letter of word) letters.add(letter);
      words.add(word);
    }
  }
  const marks = Array.from({ length: 0x7f - 0x21 }, (_, i) => String.fromCharCode(0x21 + i)).filter((mark) =>
    /\W|_/.test(mark),
  );
  const spelling = [...letters].sort();
  const vocabulary = [
    ...new Set([
      ...specials,
      ...spelling,
      ...spelling.map((letter) => `##${letter}`),
      ...marks,
      ...[...words].sort(),
    ]),
  ];
  return wordPieceFiles(vocabulary);
}

/** The files of a lower-casing WordPiece tokenizer whose words are `vocabulary`, with `[DEC]` behind them. */
export function wordPieceFiles(vocabulary: readonly string[]): TokenizerFiles {
  const vocab = Object.fromEntries([...vocabulary, decoderToken].map((token, id) => [token, id]));
  const added = [...specials, decoderToken].map((content) => addedToken(vocab[content]!, content));
  const special = (content: string) => ({ SpecialToken: { id: content, type_id: 0 } });
  const roles = {
    unk_token: "[UNK]",
    sep_token: "[SEP]",
    pad_token: "[PAD]",
    cls_token: "[CLS]",
    mask_token: "[MASK]",
    bos_token: decoderToken,
  };
  return {
    "tokenizer.json": {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: {
        type: "BertNormalizer",
        clean_text: true,
        handle_chinese_chars: true,
        strip_accents: null,
        lowercase: true,
      },
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: {
        type: "TemplateProcessing",
        single: [special("[CLS]"), { Sequence: { id: "A", type_id: 0 } }, special("[SEP]")],
        pair: [
          special("[CLS]"),
          { Sequence: { id: "A", type_id: 0 } },
          special("[SEP]"),
          { Sequence: { id: "B", type_id: 1 } },
          { SpecialToken: { id: "[SEP]", type_id: 1 } },
        ],
        special_tokens: Object.fromEntries(
          ["[CLS]", "[SEP]"].map((content) => [
            content,
            { id: content, ids: [vocab[content]], tokens: [content] },
          ]),
        ),
      },
      decoder: { type: "WordPiece", prefix: "##", cleanup: false },
      model: {
        type: "WordPiece",
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab,
      },
    },
    "tokenizer_config.json": {
      tokenizer_class: "PreTrainedTokenizerFast",
      ...roles,
      do_lower_case: true,
      clean_up_tokenization_spaces: false,
      model_max_length: 512,
      padding_side: "right",
      added_tokens_decoder: Object.fromEntries(added.map(({ id, ...token }) => [String(id), token])),
    },
    "special_tokens_map.json": roles,
    "vocab.txt": `${[...vocabulary, decoderToken].join("\n")}\n`,
  };
}

/** As BERT's normaliser: lower case, accents off. */
function plain(text: string): string {
  return text
    .toLowerCase()
    .normalize("NFD")
    .replace(/\p{Mn}/gu, "");
}

function addedToken(id: number, content: string) {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
}
