/**
 * One process at a time, by a file that exists as long as the work lasts. A holder that dies is noticed: at once on this
 * machine, and elsewhere because the file is no longer touched. Meant to save work, not to keep data whole: after a
 * long standstill of its holder a lock may be taken from it.
 */
import { randomUUID } from "node:crypto";
import { open, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { interrupted } from "../errors.js";
import { codeOf, isAlive } from "./atomic-write.js";

/** What stands in the locks that this thread holds. */
const held = new Set<string>();

const touchEvery = 5_000; // ms
const lookEvery = 200; // ms

export interface LockOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called once if another process holds the lock; what it throws ends the wait. */
  readonly onWait?: () => void;
  /**
   * Not to wait for a living holder: what this returns is thrown as soon as the holder is known to live, because its process runs on
   * this machine or the file is touched. Where neither can be told, the file is watched until it counts as abandoned.
   */
  readonly onHeld?: (holder: LockHolder) => Error;
  /** Untouched for so long, a lock is abandoned. Milliseconds. */
  readonly abandonedAfter?: number;
}

/** As far as the file says. */
export interface LockHolder {
  readonly host?: string;
  readonly pid?: number;
}

/** Runs `work` while holding the lock file `path`, whose folder must exist. Throws `InterruptedError` while it waits. */
export async function withLockFile<T>(
  path: string,
  work: () => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  await using _held = await holdLockFile(path, options);
  return await work();
}

/** Holds the lock file until it is disposed of. */
export async function holdLockFile(path: string, options: LockOptions = {}): Promise<AsyncDisposable> {
  const mine = await acquire(path, options);
  held.add(mine);
  const touch = (): void => void utimes(path, new Date(), new Date()).catch(() => undefined);
  const timer = setInterval(touch, touchEvery);
  timer.unref();
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      held.delete(mine);
      if ((await look(path))?.content === mine) await rm(path, { force: true });
    },
  };
}

async function acquire(
  path: string,
  { signal, onWait, onHeld, abandonedAfter = 30_000 }: LockOptions,
): Promise<string> {
  const mine = JSON.stringify({ host: hostname(), pid: process.pid, token: randomUUID() });
  let [seen, since] = ["", 0];
  for (let tries = 0; ; tries++) {
    if (await create(path, mine)) return mine;
    const found = await look(path);
    if (found === undefined) continue;
    // The clock of a shared disk may differ from ours: what counts is how long nothing has changed before our eyes.
    const state = `${found.touched} ${found.content}`;
    const holder = holderOf(found.content);
    const life = held.has(found.content) ? "alive" : lifeOf(holder);
    if (onHeld !== undefined && (life === "alive" || (seen !== "" && state !== seen && found.content !== "")))
      throw onHeld(holder);
    if (state !== seen) [seen, since] = [state, performance.now()];
    if (life === "dead" || performance.now() - since > abandonedAfter) {
      await remove(path, found.content);
      continue;
    }
    if (tries === 0) onWait?.();
    try {
      await sleep(lookEvery, undefined, { signal });
    } catch {
      throw interrupted(signal);
    }
  }
}

async function create(path: string, content: string): Promise<boolean> {
  try {
    const file = await open(path, "wx");
    try {
      await file.writeFile(content);
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw error;
  }
}

async function look(path: string): Promise<{ content: string; touched: number } | undefined> {
  try {
    return { content: await readFile(path, "utf8"), touched: (await stat(path)).mtimeMs };
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

function holderOf(content: string): LockHolder {
  try {
    const { host, pid } = JSON.parse(content) as { host?: unknown; pid?: unknown };
    return {
      ...(typeof host === "string" && { host }),
      ...(typeof pid === "number" && Number.isSafeInteger(pid) && pid > 0 && { pid }),
    };
  } catch {
    // Not written yet, or by a process that died in between; then its age will tell.
    return {};
  }
}

/**
 * Of processes elsewhere only the file's age tells, and of one with our own number too: it may be another thread's, or that of the process
 * which had the number before, as in a container that is started again.
 */
function lifeOf({ host, pid }: LockHolder): "alive" | "dead" | "unknown" {
  if (host !== hostname() || pid === undefined || pid === process.pid) return "unknown";
  return isAlive(pid) ? "alive" : "dead";
}

/** Deletes the abandoned lock, but not one that somebody else has put in its place meanwhile. */
async function remove(path: string, content: string): Promise<void> {
  const aside = `${path}.${randomUUID()}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    throw error;
  }
  const taken = await readFile(aside, "utf8");
  if (taken !== content) await create(path, taken);
  await rm(aside, { force: true });
}
