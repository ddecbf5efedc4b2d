/** Training configurations: JSON files, checked strictly. */
import { readFile } from "node:fs/promises";
import type { z } from "zod";
import { UserError } from "../errors.js";

/** Reads and checks a configuration; what it is may depend on what it says. Throws a `UserError` naming every key that is unknown, missing or wrong. */
export async function readConfig<T extends z.ZodType>(
  path: string,
  schema: T | ((json: unknown) => T),
): Promise<z.infer<T>> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new UserError(
      `${path} ${error.code === "ENOENT" ? "does not exist" : `cannot be read (${error.message})`}`,
      { cause: error },
    );
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new UserError(`${path} is not JSON: ${(cause as Error).message}`, { cause });
  }
  return checkConfig(path, json, typeof schema === "function" ? schema(json) : schema);
}

/** Checks a configuration from `where`. Throws a `UserError` naming every key that is unknown, missing or wrong. */
export function checkConfig<T extends z.ZodType>(where: string, json: unknown, schema: T): z.infer<T> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map((issue) => {
    const key = issue.path.join(".");
    if (issue.code === "unrecognized_keys")
      return `unknown ${issue.keys.map((name) => [key, name].filter(Boolean).join(".")).join(", ")}`;
    return `${key === "" ? "the file" : key}: ${issue.message}`;
  });
  throw new UserError(`${where} is not a configuration of this training: ${problems.join("; ")}`);
}
