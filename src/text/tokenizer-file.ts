/** The files of a tokenizer, which may come from anywhere: read with the same care as weights are. */
import { constants } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { mustStayInside } from "../files/inside-folder.js";
import { readJsonObject } from "../files/json-file.js";
import { UserError } from "../errors.js";
import type { JsonObject } from "./parts.js";

/** Published ones have a few ten megabytes. */
const longestFile = 100_000_000;

/**
 * The bytes of one file of a folder, or nothing if there is none. Throws `UserError` for a link that leaves the folder, for what is no
 * file, for one that is too large, and for what a download left in its place.
 */
export async function readTokenizerFile(folder: string, name: string): Promise<Buffer | undefined> {
  const path = join(folder, name);
  await mustStayInside(folder, name);
  let file: FileHandle;
  try {
    // Not to wait for the other end of a pipe.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") return undefined;
    throw new UserError(`${path}: cannot be read (${code})`, { cause });
  }
  try {
    const found = await file.stat();
    if (!found.isFile()) throw new UserError(`${path}: a file is required, this is none`);
    if (found.size > longestFile) {
      throw new UserError(
        `${path}: has ${found.size} bytes; a file of a tokenizer has at most ${longestFile}`,
      );
    }
    const bytes = await file.readFile();
    mustBeItself(bytes, path, folder);
    return bytes;
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw new UserError(`${path}: cannot be read (${(cause as NodeJS.ErrnoException).code})`, { cause });
  } finally {
    await file.close();
  }
}

/** A text file. Throws `UserError` if it is not UTF-8. */
export async function readTokenizerText(folder: string, name: string): Promise<string | undefined> {
  const bytes = await readTokenizerFile(folder, name);
  if (bytes === undefined) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new UserError(`${join(folder, name)}: is not a text in UTF-8; fetch the file again`, { cause });
  }
}

/** A file that must hold one JSON object. */
export async function readTokenizerJson(folder: string, name: string): Promise<JsonObject | undefined> {
  if ((await readTokenizerFile(folder, name)) === undefined) return undefined;
  return readJsonObject(join(folder, name));
}

/** Throws `UserError` if a download left a placeholder, or an answer in place of the file. */
function mustBeItself(bytes: Buffer, path: string, folder: string): void {
  const start = bytes.subarray(0, 200).toString("latin1");
  if (start.startsWith("version https://git-lfs.github.com/")) {
    throw new UserError(
      `${path}: is a pointer of Git LFS, not the file itself; run "git lfs pull" in ${folder} to fetch it`,
    );
  }
  if (/^(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml)/i.test(start)) {
    throw new UserError(
      `${path}: is a web page (HTML), not the file itself; download it again, by "blip2 download" or from the page's download link`,
    );
  }
}
