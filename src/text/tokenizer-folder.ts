/** The tokenizer of a folder, whichever file set holds it, as the two structures tokenizer.json and tokenizer_config.json. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../errors.js";
import type { JsonObject, LegacyConfig } from "./legacy-added-tokens.js";
import { legacyBpe } from "./legacy-bpe.js";
import { legacyUnigram } from "./legacy-unigram.js";
import { legacyWordPiece } from "./legacy-wordpiece.js";

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
  const config = await readJson(where("tokenizer_config.json"));
  if (has("tokenizer.json")) {
    return { json: await readJson(where("tokenizer.json")), config, where: where("tokenizer.json") };
  }
  const optional = async (name: string): Promise<JsonObject> => (has(name) ? readJson(where(name)) : {});
  const files: LegacyConfig = {
    config,
    specialTokensMap: await optional("special_tokens_map.json"),
    addedTokens: await optional("added_tokens.json"),
  };
  const text = (name: string): Promise<string> => readFile(where(name), "utf8");
  if (has("vocab.json", "merges.txt")) {
    const vocab = await readJson(where("vocab.json"));
    return { ...legacyBpe(vocab, await text("merges.txt"), files, folder), where: where("vocab.json") };
  }
  if (has("vocab.txt")) {
    return { ...legacyWordPiece(await text("vocab.txt"), files, folder), where: where("vocab.txt") };
  }
  if (has("spiece.model")) {
    const bytes = await readFile(where("spiece.model"));
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

async function readJson(path: string): Promise<JsonObject> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, "utf8"));
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const why =
      code === "ENOENT"
        ? "this file does not exist"
        : code
          ? `cannot be read (${code})`
          : `not JSON (${message})`;
    const remedy = `a tokenizer needs tokenizer_config.json and one of ${sets.join(", ")}`;
    throw new UserError(`${path}: ${why}; ${remedy}`, { cause });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw new UserError(`${path}: a JSON object is required`);
}
