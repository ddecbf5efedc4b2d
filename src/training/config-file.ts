/** Training configurations: JSON files, checked strictly. */
import type { z } from "zod";
import { readJsonValue } from "../files/json-file.js";
import { checkJson } from "../json.js";

/**
 * Reads and checks a configuration; what it is may depend on what it says.
 * Throws a `UserError` naming every key that is unknown, missing or wrong.
 *
 * @param resolved gives the configuration with what its file makes of it
 */
export async function readConfig<T extends z.ZodType>(
  path: string,
  schema: T | ((json: unknown) => T),
  resolved: (config: z.infer<T>) => Promise<z.infer<T>> = (config) => Promise.resolve(config),
): Promise<z.infer<T>> {
  const json = await readJsonValue(path);
  return resolved(checkConfig(path, json, typeof schema === "function" ? schema(json) : schema));
}

/** Checks a configuration from `where`. Throws a `UserError` naming every key that is unknown, missing or wrong. */
export function checkConfig<T extends z.ZodType>(where: string, json: unknown, schema: T): z.infer<T> {
  return checkJson(json, schema, `${where} is not a configuration of this training`);
}
