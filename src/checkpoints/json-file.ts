/** Small JSON files that users may have edited. */
import { readFile } from "node:fs/promises";
import { UserError } from "../errors.js";
import { codeOf } from "./atomic-write.js";

export type JsonObject = Record<string, unknown>;

/** Parses a file that must hold one JSON object. Throws `UserError` naming the file. */
export async function readJsonObject(path: string): Promise<JsonObject> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
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
