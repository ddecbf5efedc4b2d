/**
 * Files and folders that are replaced whole: whoever reads, at any moment and after any kill, finds the old
 * content or the new one, never a mixture.
 *
 * Names beside a target `x`: `.x.blip2-tmp-HOST-PID-N` is being written, `.x.blip2-old` is the folder that is
 * being replaced. Two writers of one target at the same time are not supported; readers are.
 */
import { randomBytes } from "node:crypto";
import { lstat, mkdir, open, readdir, rename, rm, type FileHandle } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../errors.js";

/** What to write: the bytes or text, or a function that writes into the open file. */
export type FileContent = string | Uint8Array | ((file: FileHandle) => Promise<void>);

/**
 * Replaces the file `path` by `content`; missing parent folders are made. The content is on the disk
 * (fsync) before the name changes.
 *
 * Throws `UserError` if the disk is full or the place cannot be written; the old file is then untouched and
 * nothing of the new one stays behind.
 */
export async function writeFileAtomic(path: string, content: FileContent): Promise<void> {
  await replaced(path, async (temporary) => {
    const file = await open(temporary, "wx");
    try {
      await (typeof content === "function" ? content(file) : file.writeFile(content));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  });
}

/** How `writeFolderAtomic` treats what is already there. */
export interface ReplaceRule {
  /** Whether a folder holding these entry names may be replaced. Without it: only an empty folder. */
  readonly replaceable?: (entries: readonly string[]) => boolean;
}

/**
 * Replaces the folder `path` by one that `fill` writes (it is given an empty folder beside the target).
 * Everything that the old folder held goes, so `rule.replaceable` must agree first.
 *
 * A folder that is not empty cannot be replaced in one step by the operating system. The order is: fill the new one, move
 * the old one aside, move the new one in, delete the old one. If the process dies between the two moves, the old
 * folder is found aside, and `recoverFolder` (which readers and the next writer call) puts it back.
 *
 * Throws `UserError` if the target may not be replaced, the disk is full, or the place cannot be written.
 */
export async function writeFolderAtomic(
  path: string,
  fill: (folder: string) => Promise<void>,
  rule: ReplaceRule = {},
): Promise<void> {
  const aside = asideName(path);
  await replaced(path, async (temporary) => {
    const target = resolve(path);
    await recoverFolder(path);
    await mustBeReplaceable(target, rule);
    if (await exists(target)) await rm(aside, { recursive: true, force: true });
    await mkdir(temporary);
    await fill(temporary);
    await syncTree(temporary);
    if (await exists(target)) await rename(target, aside);
    try {
      await rename(temporary, target);
    } catch (error) {
      if (!(await exists(target)) && (await exists(aside))) await rename(aside, target);
      throw error;
    }
    await syncFolder(dirname(target));
    await rm(aside, { recursive: true, force: true });
  });
}

/**
 * Ends a replacement of the folder `path` that was killed half-way: if only the old folder exists, it gets its
 * name back. Returns the folder to read: `path`, or the old folder's own place where it cannot be moved (a read-only disk).
 */
export async function recoverFolder(path: string): Promise<string> {
  const target = resolve(path);
  const aside = asideName(path);
  if ((await exists(target)) || !(await exists(aside))) return target;
  try {
    await rename(aside, target);
  } catch {
    return (await exists(target)) ? target : aside;
  }
  return target;
}

/** Runs `write` with a fresh name beside `path`, removes that name on failure, and words system errors. */
async function replaced(path: string, write: (temporary: string) => Promise<void>): Promise<void> {
  const target = resolve(path);
  const folder = dirname(target);
  const unique = `${process.pid}-${randomBytes(4).toString("hex")}`;
  const temporary = join(folder, `${temporaryPrefix(target)}${unique}`);
  try {
    await mkdir(folder, { recursive: true });
    await removeAbandoned(folder, target);
    await write(temporary);
    await syncFolder(folder);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw worded(path, error);
  }
}

/** Deletes temporaries of `target` whose writer (on this host) no longer runs: each may be a checkpoint in size. */
async function removeAbandoned(folder: string, target: string): Promise<void> {
  const prefix = temporaryPrefix(target);
  for (const entry of await readdir(folder)) {
    if (!entry.startsWith(prefix)) continue;
    const pid = Number.parseInt(entry.slice(prefix.length), 10);
    if (pid > 0 && pid !== process.pid && !isAlive(pid)) {
      await rm(join(folder, entry), { recursive: true, force: true });
    }
  }
}

/** Whether a process of this id runs on this machine. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) !== "ESRCH";
  }
}

function temporaryPrefix(target: string): string {
  // The host is part of the name because a process id means nothing on another machine of a shared disk.
  return `.${basename(target)}.blip2-tmp-${hostname().replace(/[^\w.]/g, "_")}-`;
}

function asideName(path: string): string {
  const target = resolve(path);
  return join(dirname(target), `.${basename(target)}.blip2-old`);
}

async function mustBeReplaceable(target: string, rule: ReplaceRule): Promise<void> {
  if (!(await exists(target))) return;
  const found = await lstat(target);
  if (!found.isDirectory()) {
    throw new UserError(
      `${target}: a folder is to be written here, but something that is no folder has this name; move it or choose another path`,
    );
  }
  const entries = await readdir(target);
  if (entries.length > 0 && rule.replaceable?.(entries) !== true) {
    throw new UserError(
      `${target}: this folder holds other things (${entries.sort().slice(0, 3).join(", ")}${entries.length > 3 ? ", ..." : ""}) ` +
        "and will not be replaced; choose an empty or new folder",
    );
  }
}

async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else if (entry.isFile()) await sync(path);
  }
  await syncFolder(folder);
}

async function syncFolder(folder: string): Promise<void> {
  // Windows cannot open a folder; there the rename alone has to do.
  if (process.platform !== "win32") await sync(folder);
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return false;
    throw error;
  }
}

function worded(path: string, error: unknown): unknown {
  switch (codeOf(error)) {
    case "ENOSPC":
    case "EDQUOT":
      return new UserError(
        `${path}: no space is left on this disk; what was there before is unchanged and the partial copy is removed; free some space or choose another disk`,
        { cause: error },
      );
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return new UserError(
        `${path}: cannot be written (${codeOf(error)}); check the permissions or choose another path`,
        {
          cause: error,
        },
      );
    case "ENOTDIR":
    case "EEXIST":
      return new UserError(`${path}: a part of this path is a file, not a folder; choose another path`, {
        cause: error,
      });
    case "EISDIR":
      return new UserError(
        `${path}: a file is to be written here, but a folder has this name; choose another path`,
        {
          cause: error,
        },
      );
    default:
      return error;
  }
}

/** The system's error code (`ENOENT`, ...) of a caught value, if it has one. */
export function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === "string" ? code : undefined;
}
