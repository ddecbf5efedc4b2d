/**
 * Seals of quantised copies. A copy lies beside its checkpoint, where whoever ships that folder could put one of his own,
 * so each tensor has an authentication code under a key that only this user has. It also tells damage, and is faster than a
 * checksum: GMAC, each tensor under a key of its own that follows from the user's, the source and what the header says of it.
 */
import { createCipheriv, createHmac, randomBytes, type CipherGCM } from "node:crypto";
import { mkdir, open, readFile, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { HostTensor } from "../host-tensor.js";
import { codeOf } from "../files/atomic-write.js";

/** Bytes of a tensor's code. */
export const sealLength = 16;
const secretLength = 32;

/** The code of one tensor, whose bytes come in order. */
export class Seal {
  private readonly cipher: CipherGCM;
  private readonly last: Uint8Array;

  /** `source` identifies what the copy is made of. */
  constructor(
    secret: Uint8Array,
    source: string,
    name: string,
    { dtype, dims }: Pick<HostTensor, "dtype" | "dims">,
  ) {
    const keys = createHmac("sha512", secret)
      .update(JSON.stringify([source, name, dtype, dims]))
      .digest();
    this.cipher = createCipheriv("aes-256-gcm", keys.subarray(0, 32), new Uint8Array(12));
    this.last = keys.subarray(32);
  }

  add(bytes: Uint8Array): void {
    const most = 2 ** 30;
    for (let at = 0; at < bytes.length; at += most) this.cipher.setAAD(bytes.subarray(at, at + most));
  }

  /**
   * The code, once all bytes are there. The tag itself is not shown, as a tensor that is sealed twice has no nonce; so
   * equal copies have equal seals.
   */
  code(): Uint8Array {
    this.cipher.final();
    return createHmac("sha256", this.last).update(this.cipher.getAuthTag()).digest().subarray(0, sealLength);
  }
}

/** Where this user's copies and their key are kept; undefined if no home is known. Read each time, as tests change it. */
export function cacheFolder(): string | undefined {
  try {
    return join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "blip2", "quantised");
  } catch {
    return undefined; // a user without an entry and without HOME
  }
}

/** Which variable helps where that folder does not. */
export const cacheRemedy = "set XDG_CACHE_HOME to a folder of your own that can be written and has room";

/** Serves where no key can be kept: copies are then known in this process only. */
const passing = randomBytes(secretLength);

/** This user's key, made at the first use; `problem` says why it cannot be kept, if so. */
export async function ownSecret(): Promise<{
  readonly secret: Uint8Array;
  readonly problem?: string;
}> {
  const folder = cacheFolder();
  if (folder === undefined) return { secret: passing, problem: "no home folder is known" };
  // A folder may be shared, a key is not.
  const path = join(folder, `key-${process.getuid?.() ?? "own"}`);
  try {
    return { secret: await keptSecret(path) };
  } catch (error) {
    const code = codeOf(error);
    if (code === undefined) throw error;
    return { secret: passing, problem: `${path}: ${code}` };
  }
}

async function keptSecret(path: string): Promise<Uint8Array> {
  for (let tries = 0; ; tries++) {
    const found = await stat(path).catch((error: unknown) => {
      if (codeOf(error) !== "ENOENT") throw error;
    });
    if (found === undefined) {
      const made = await madeSecret(path);
      if (made !== undefined) return made;
      continue;
    }
    // Whoever owns the file knows what is in it.
    if (!found.isFile() || (process.getuid !== undefined && found.uid !== process.getuid())) {
      throw Object.assign(new Error(`${path} belongs to another user`), { code: "EACCES" });
    }
    if (found.size === secretLength) return readFile(path);
    // Another process is writing it, or was killed while it did.
    if (tries < 20) await sleep(20);
    else await rm(path, { force: true });
  }
}

/** Writes a new key; undefined if another process was first. */
async function madeSecret(path: string): Promise<Uint8Array | undefined> {
  await makeFolder(dirname(path));
  let file;
  try {
    file = await open(path, "wx", 0o600);
  } catch (error) {
    if (codeOf(error) === "EEXIST") return undefined;
    throw error;
  }
  try {
    const secret = randomBytes(secretLength);
    await file.writeFile(secret);
    return secret;
  } finally {
    await file.close();
  }
}

/** As Node's recursive `mkdir`, which never ends where a system's own folder takes none, as below /proc. */
async function makeFolder(path: string): Promise<void> {
  const make = (): Promise<unknown> =>
    mkdir(path).catch((error: unknown) => {
      if (codeOf(error) !== "EEXIST") throw error;
    });
  try {
    await make();
  } catch (error) {
    if (codeOf(error) !== "ENOENT" || dirname(path) === path) throw error;
    await makeFolder(dirname(path));
    await make();
  }
}
