/** Small JSON files that users may have edited. */
import { readFile, stat } from "node:fs/promises";
import type { z } from "zod";
import { UserError } from "../errors.js";
import { checkJson, parseJson, type Remedies } from "../json.js";
import { codeOf } from "./atomic-write.js";
import { refuseStandIn } from "./stand-in.js";

export type JsonObject = Record<string, unknown>;

/** Tokenizers are the largest of a model, with a few ten megabytes. */
const longestJson = 100_000_000;

/** The content of a file. Throws `UserError` naming the file if it is missing, no plain file, too long, or not JSON. */
export async function readJsonValue(path: string, longest = longestJson): Promise<unknown> {
  let text: string;
  try {
    const found = await stat(path);
    if (!found.isFile()) throw new UserError(`${path}: a file is required, this is none`);
    if (found.size > longest)
      throw new UserError(`${path}: has ${found.size} bytes; at most ${longest} of JSON are read here`);
    text = await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof UserError) throw error;
    const code = codeOf(error);
    const why = code === "ENOENT" ? "this file does not exist" : `cannot be read (${code})`;
    throw new UserError(`${path}: ${why}`, { cause: error });
  }
  refuseStandIn(path, text);
  return parseJson(text, path);
}

/** The same, held against a schema: every problem is named in one error, which says of the file that it is not `what`. */
export async function readJson<T extends z.ZodType>(
  path: string,
  schema: T,
  what?: string,
  { longest, remedies }: { readonly longest?: number; readonly remedies?: Remedies } = {},
): Promise<z.infer<T>> {
  return checkJson(
    await readJsonValue(path, longest),
    schema,
    what === undefined ? path : `${path} is not ${what}`,
    remedies,
  );
}

/** The same of a file that must hold one JSON object. */
export async function readJsonObject(path: string): Promise<JsonObject> {
  const value = await readJsonValue(path);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new UserError(
      `${path}: a JSON object is required, got ${Array.isArray(value) ? "a list" : String(value)}`,
    );
  }
  return value as JsonObject;
}
