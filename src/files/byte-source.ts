/** Bytes at positions of a file. Everything that reads checkpoints reads through here, a few bytes at a time. */
import { open, stat, type FileHandle } from "node:fs/promises";
import { UserError } from "../errors.js";
import { codeOf } from "./atomic-write.js";

/** Something of known size whose bytes can be read anywhere. */
export interface ByteSource {
  /** Names the file in messages. */
  readonly path: string;
  readonly size: number;
  /** `length` bytes of their own buffer. Throws `UserError` if there are fewer. */
  read(position: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** Opens a file as a `ByteSource` for as long as `use` runs. Throws `UserError` if it cannot be read or is no plain file. */
export async function withByteSource<T>(path: string, use: (source: ByteSource) => Promise<T>): Promise<T> {
  return withFile(path, async (file) => {
    const { size } = await file.stat();
    return use({ path, size, read: (position, length) => readBytes(file, path, position, length) });
  });
}

/** `length` bytes of their own buffer, so that a typed array of any element size may lie over them. */
export async function readBytes(
  file: FileHandle,
  path: string,
  position: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(new ArrayBuffer(length));
  // One system call moves less than 2 GiB.
  const most = 2 ** 30;
  for (let done = 0; done < length;) {
    const { bytesRead } = await file.read(bytes, done, Math.min(most, length - done), position + done);
    if (bytesRead === 0) {
      throw new UserError(
        `${path}: ends at byte ${position + done}, but ${length - done} more are required; it changed or is truncated`,
      );
    }
    done += bytesRead;
  }
  return bytes;
}

export async function withFile<T>(path: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  let file: FileHandle;
  try {
    // Opening a pipe would wait for a writer; a folder is worded below.
    const found = await stat(path);
    if (!found.isFile() && !found.isDirectory())
      throw new UserError(`${path}: a plain file is required, this is something else`);
    file = await open(path, "r");
  } catch (error) {
    throw error instanceof UserError ? error : cannotRead(path, error);
  }
  try {
    return await use(file);
  } catch (error) {
    throw codeOf(error) === undefined ? error : cannotRead(path, error);
  } finally {
    await file.close();
  }
}

function cannotRead(path: string, error: unknown): UserError {
  const code = codeOf(error);
  const why =
    code === "ENOENT"
      ? "this file does not exist"
      : code === "EISDIR"
        ? "a file is required, this is a folder"
        : `cannot be read (${code})`;
  return new UserError(`${path}: ${why}`, { cause: error });
}
