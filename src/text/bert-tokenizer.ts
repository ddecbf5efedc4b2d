/** bert-base-uncased's tokenizer as BLIP-2's Q-Former uses it: with one more token, `[DEC]`, that begins a caption. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../errors.js";
import { wordPieceFiles } from "./build-wordpiece.js";
import type { TokenizerFiles } from "./tokenizer-files.js";

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
  const text = await optionalText(join(folder, "vocab.txt"));
  return text?.replace(/\r?\n$/, "").split(/\r?\n/);
}

async function wordsOfJson(folder: string): Promise<string[] | undefined> {
  const text = await optionalText(join(folder, "tokenizer.json"));
  if (text === undefined) return undefined;
  const { model } = JSON.parse(text) as { model?: { type?: string; vocab?: Record<string, number> } };
  if (model?.type !== "WordPiece" || model.vocab === undefined) return undefined;
  const words: string[] = [];
  for (const [word, id] of Object.entries(model.vocab)) words[id] = word;
  return words;
}

async function optionalText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new UserError(`${path}: cannot be read (${(error as NodeJS.ErrnoException).code})`, {
      cause: error,
    });
  }
}
