/** Small JSON files that users may have edited. */
import { readFile, stat } from "node:fs/promises";
import { UserError } from "../errors.js";
import { codeOf } from "./atomic-write.js";

export type JsonObject = Record<string, unknown>;

/** Tokenizers are the largest, with a few ten megabytes. */
const longestJson = 100_000_000;

/** Parses a file that must hold one JSON object. Throws `UserError` naming the file. */
export async function readJsonObject(path: string): Promise<JsonObject> {
  let value: unknown;
  try {
    const found = await stat(path);
    if (!found.isFile()) throw new UserError(`${path}: a file is required, this is none`);
    if (found.size > longestJson) {
      throw new UserError(
        `${path}: has ${found.size} bytes; a JSON file of a model has at most ${longestJson}`,
      );
    }
    value = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    if (error instanceof UserError) throw error;
    const code = codeOf(error);
    const why =
      code === "ENOENT"
        ? "this file does not exist"
        : code
          ? `cannot be read (${code})`
          : `not JSON (${(error as Error).message})`;
    throw new UserError(`${path}: ${why}`, { cause: error });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new UserError(
      `${path}: a JSON object is required, got ${Array.isArray(value) ? "a list" : String(value)}`,
    );
  }
  return value as JsonObject;
}
