import { readdir } from "node:fs/promises";
import { readTokenizerFile } from "./tokenizer-file.js";

/** The files of a tokenizer that was built here: contents by file name, objects to be stored as JSON. */
export interface TokenizerFiles {
  readonly "tokenizer.json": Record<string, unknown>;
  readonly "tokenizer_config.json": Record<string, unknown>;
  readonly "special_tokens_map.json": Record<string, unknown>;
  readonly [name: string]: Record<string, unknown> | string;
}

/** The names under which a folder may keep its tokenizer. */
export const tokenizerFileNames: readonly string[] = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "vocab.txt",
  "spiece.model",
];

/** The tokenizer files that a folder has, as bytes by name, to be put into another folder. */
export async function readTokenizerFiles(folder: string): Promise<Record<string, Uint8Array>> {
  const present = (await readdir(folder)).filter((name) => tokenizerFileNames.includes(name));
  const files: Record<string, Uint8Array> = {};
  for (const name of present) {
    const bytes = await readTokenizerFile(folder, name);
    if (bytes !== undefined) files[name] = bytes;
  }
  return files;
}
