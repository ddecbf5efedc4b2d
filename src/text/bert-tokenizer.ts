/** bert-base-uncased's tokenizer as BLIP-2's Q-Former uses it: with one more token, `[DEC]`, that begins a caption. */
import { join } from "node:path";
import { UserError } from "../errors.js";
import { wordPieceFiles } from "./build-wordpiece.js";
import { Part } from "./parts.js";
import { readTokenizerJson, readTokenizerText } from "./tokenizer-file.js";
import type { TokenizerFiles } from "./tokenizer-files.js";
import { readVocabulary } from "./vocabulary.js";

/**
 * The tokenizer files for a BERT folder's vocabulary (vocab.txt, or the model of tokenizer.json).
 * Throws `UserError` if there is none, or it is not that of a lower-casing WordPiece tokenizer.
 */
export async function bertTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  const words = (await wordsOfText(folder)) ?? (await wordsOfJson(folder));
  if (words === undefined)
    throw new UserError(`${folder}: vocab.txt or tokenizer.json is required, for BERT's vocabulary`);
  const missing = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].filter((token) => !words.includes(token));
  if (missing.length > 0)
    throw new UserError(`${folder}: its vocabulary lacks ${missing.join(", ")}, so it is not BERT's`);
  return wordPieceFiles(words.at(-1) === "[DEC]" ? words.slice(0, -1) : words);
}

async function wordsOfText(folder: string): Promise<string[] | undefined> {
  return (await readTokenizerText(folder, "vocab.txt"))?.replace(/\r?\n$/, "").split(/\r?\n/);
}

async function wordsOfJson(folder: string): Promise<string[] | undefined> {
  const json = await readTokenizerJson(folder, "tokenizer.json");
  if (json === undefined) return undefined;
  const where = join(folder, "tokenizer.json");
  const model = new Part(where, json).part("model");
  if (model.type !== "WordPiece") return undefined;
  const words = [...readVocabulary(model)].sort(([, a], [, b]) => a - b);
  const hole = words.findIndex(([, id], i) => id !== i);
  if (hole >= 0) throw new UserError(`${where}: its vocabulary has no word with the id ${hole}`);
  return words.map(([word]) => word);
}
