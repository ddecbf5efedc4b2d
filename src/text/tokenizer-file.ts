/** The files of a tokenizer, which may come from anywhere: read with the same care as weights are. */
import { refuseStandIn } from "../files/stand-in.js";
import { constants } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { mustStayInside } from "../files/inside-folder.js";
import { readJsonObject } from "../files/json-file.js";
import { UserError } from "../errors.js";
import type { JsonObject } from "./parts.js";

/** Bytes. Published ones have at most 35 million. */
const longestFile = 64_000_000;

/** Of a JSON file: values in lists and objects. Published ones have at most 2 million. */
const mostValues = 3_000_000;
/** Of a text file: a token or a merge each. */
const mostLines = 1_000_000;
/** Published ones have about ten. */
const deepestNesting = 100;

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
    const bytes = await readExactly(file, found.size);
    refuseStandIn(path, bytes);
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
  let lines = 0;
  for (const byte of bytes) if (byte === 0x0a) lines++;
  if (lines > mostLines) {
    throw new UserError(`${join(folder, name)}: has ${lines} lines; at most ${mostLines} are read`);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new UserError(`${join(folder, name)}: is not a text in UTF-8; fetch the file again`, { cause });
  }
}

/** A file that must hold one JSON object. */
export async function readTokenizerJson(folder: string, name: string): Promise<JsonObject | undefined> {
  const bytes = await readTokenizerFile(folder, name);
  if (bytes === undefined) return undefined;
  mustBeModest(bytes, join(folder, name));
  return readJsonObject(join(folder, name));
}

/** What is written to the file in the meantime does not make the reading longer. */
async function readExactly(file: FileHandle, size: number): Promise<Buffer> {
  const bytes = Buffer.alloc(size);
  let done = 0;
  while (done < size) {
    const { bytesRead } = await file.read(bytes, done, size - done, done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes.subarray(0, done);
}

/** Throws `UserError` for a JSON text that would take much memory or many levels to parse. */
function mustBeModest(bytes: Buffer, path: string): void {
  const [quote, backslash, comma] = [0x22, 0x5c, 0x2c];
  const [list, listEnd, object, objectEnd] = [0x5b, 0x5d, 0x7b, 0x7d];
  let [values, depth, inString] = [0, 0, false];
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (inString) {
      if (byte === backslash) i++;
      else if (byte === quote) inString = false;
    } else if (byte === quote) inString = true;
    else if (byte === comma) values++;
    else if (byte === list || byte === object) {
      values++;
      depth++;
      if (depth > deepestNesting)
        throw new UserError(`${path}: is nested more than ${deepestNesting} levels deep`);
    } else if (byte === listEnd || byte === objectEnd) depth--;
  }
  if (values <= mostValues) return;
  throw new UserError(`${path}: holds ${values} values; a file of a tokenizer holds at most ${mostValues}`);
}
