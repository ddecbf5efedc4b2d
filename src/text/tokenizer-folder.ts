/** The tokenizer of a folder, whichever file set holds it, as the two structures tokenizer.json and tokenizer_config.json. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../errors.js";
import type { LegacyConfig } from "./legacy-added-tokens.js";
import { legacyBpe } from "./legacy-bpe.js";
import { legacyUnigram } from "./legacy-unigram.js";
import { legacyWordPiece } from "./legacy-wordpiece.js";
import type { JsonObject } from "./parts.js";
import { readTokenizerFile, readTokenizerJson, readTokenizerText } from "./tokenizer-file.js";

/** The sets, in order of preference. tokenizer_config.json belongs to each. */
const sets = ["tokenizer.json", "vocab.json with merges.txt", "vocab.txt", "spiece.model"] as const;

export interface TokenizerSource {
  readonly json: JsonObject;
  readonly config: JsonObject;
  /** The file that names the tokenizer in errors. */
  readonly where: string;
}

/** Throws `UserError` if the folder has no whole set, or one that is broken. */
export async function readTokenizerFolder(folder: string): Promise<TokenizerSource> {
  const names = await listNames(folder);
  const has = (...wanted: string[]): boolean => wanted.every((name) => names.includes(name));
  const where = (name: string): string => join(folder, name);
  const json = (name: string): Promise<JsonObject> => required(folder, name, readTokenizerJson);
  const config = await json("tokenizer_config.json");
  if (has("tokenizer.json"))
    return { json: await json("tokenizer.json"), config, where: where("tokenizer.json") };
  const optional = async (name: string): Promise<JsonObject> => (await readTokenizerJson(folder, name)) ?? {};
  const files: LegacyConfig = {
    config,
    specialTokensMap: await optional("special_tokens_map.json"),
    addedTokens: await optional("added_tokens.json"),
  };
  const text = (name: string): Promise<string> => required(folder, name, readTokenizerText);
  if (has("vocab.json", "merges.txt")) {
    const vocab = await json("vocab.json");
    return { ...legacyBpe(vocab, await text("merges.txt"), files, folder), where: where("vocab.json") };
  }
  if (has("vocab.txt")) {
    return { ...legacyWordPiece(await text("vocab.txt"), files, folder), where: where("vocab.txt") };
  }
  if (has("spiece.model")) {
    const bytes = await required(folder, "spiece.model", readTokenizerFile);
    return { ...legacyUnigram(bytes, files, folder), where: where("spiece.model") };
  }
  const half = ["vocab.json", "merges.txt"].find((name) => has(name));
  throw new UserError(
    `${folder}: a tokenizer is required, as ${sets.slice(0, -1).join(", ")}, or ${sets.at(-1)}, ` +
      `${half === undefined ? "none of them is there" : `only ${half} is there`}; fetch the folder again, it may be incomplete`,
  );
}

async function listNames(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    // Then its first file is missing too, which is reported.
    if (code === "ENOENT") return [];
    throw new UserError(`${folder}: cannot be read (${code}); a folder with a tokenizer is required`, {
      cause,
    });
  }
}

async function required<T>(
  folder: string,
  name: string,
  read: (folder: string, name: string) => Promise<T | undefined>,
): Promise<T> {
  const found = await read(folder, name);
  if (found !== undefined) return found;
  throw new UserError(
    `${join(folder, name)}: this file does not exist; a tokenizer needs tokenizer_config.json and one of ${sets.join(", ")}`,
  );
}
