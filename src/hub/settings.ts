/** Where the hub and its cache are: the environment variables that Python's `huggingface_hub` reads, with its defaults. */
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { UserError } from "../errors.js";
import { codeOf } from "../files/atomic-write.js";

export interface HubSettings {
  /** The hub or a mirror of it, without a slash at the end. */
  readonly endpoint: string;
  /** The folder that holds `models--ORG--NAME`. */
  readonly cache: string;
  readonly token: string | undefined;
  /** Nothing may be asked of the network. */
  readonly offline: boolean;
  /** A connection that is silent for so long counts as broken. Milliseconds. */
  readonly timeout: number;
  /** A request that failed for a passing reason is made again so often. */
  readonly retries: number;
  /** The wait before the first repetition; each further one is twice as long. Milliseconds. */
  readonly pause: number;
}

export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Reads HF_ENDPOINT, HF_HUB_CACHE (or HUGGINGFACE_HUB_CACHE), HF_HOME, XDG_CACHE_HOME, HF_TOKEN (or HUGGING_FACE_HUB_TOKEN),
 * HF_TOKEN_PATH, HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) and HF_HUB_DOWNLOAD_TIMEOUT.
 * An empty value counts as none. Throws `UserError` for values that cannot be meant.
 */
export async function hubSettings(env: Environment): Promise<HubSettings> {
  const place = (name: string): string | undefined => {
    const value = env[name];
    return value ? resolve(expanded(value, env)) : undefined;
  };
  const home = place("HF_HOME") ?? join(place("XDG_CACHE_HOME") ?? join(homedir(), ".cache"), "huggingface");
  const endpoint = (env["HF_ENDPOINT"] || "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:\/\/[^/]/.test(endpoint) || !URL.canParse(endpoint)) {
    throw new UserError(
      `HF_ENDPOINT: the address of a hub is required, such as https://huggingface.co, got ${JSON.stringify(endpoint)}`,
    );
  }
  const seconds = Number(env["HF_HUB_DOWNLOAD_TIMEOUT"] || 30);
  if (!(seconds > 0)) {
    throw new UserError(
      `HF_HUB_DOWNLOAD_TIMEOUT: a number of seconds above 0 is required, got ${JSON.stringify(env["HF_HUB_DOWNLOAD_TIMEOUT"])}`,
    );
  }
  return {
    endpoint,
    cache: place("HF_HUB_CACHE") ?? place("HUGGINGFACE_HUB_CACHE") ?? join(home, "hub"),
    token: isTrue(env["HF_HUB_DISABLE_IMPLICIT_TOKEN"])
      ? undefined
      : await readToken(env, place("HF_TOKEN_PATH") ?? join(home, "token")),
    offline: isTrue(env["HF_HUB_OFFLINE"] || env["TRANSFORMERS_OFFLINE"]),
    timeout: seconds * 1000,
    retries: 5,
    pause: 500,
  };
}

function isTrue(value: string | undefined): boolean {
  return ["1", "ON", "YES", "TRUE"].includes((value ?? "").toUpperCase());
}

/** `~` and `$NAME`, as a shell would have replaced them. */
function expanded(path: string, env: Environment): string {
  return path
    .replace(/^~(?=$|[/\\])/, homedir())
    .replace(
      /\$(\w+)|\$\{(\w+)\}/g,
      (whole: string, plain?: string, braced?: string) => env[plain ?? braced ?? ""] ?? whole,
    );
}

async function readToken(env: Environment, file: string): Promise<string | undefined> {
  const given = (env["HF_TOKEN"] || env["HUGGING_FACE_HUB_TOKEN"] || "").trim();
  const [token, source] = given === "" ? [await readIfThere(file), file] : [given, "HF_TOKEN"];
  if (token === "") return undefined;
  // Anything else could not stand in a request's header, and the error from there would show the token.
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new UserError(`${source}: a token of letters and digits without white space is required`);
  }
  return token;
}

async function readIfThere(file: string): Promise<string> {
  try {
    return (await readFile(file, "utf8")).trim();
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return "";
    throw new UserError(`${file}: the hub's token cannot be read (${codeOf(error)}); check the permissions`, {
      cause: error,
    });
  }
}
