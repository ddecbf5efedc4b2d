/**
 * One file from the hub to the disk: resumed where an earlier try stopped, checked against its hash.
 *
 * `downloadFile` of `@huggingface/hub` does neither, and it reads large files by the chunks of another protocol. The
 * plain address that is used here serves every file, on mirrors too.
 */
import { createHash, type Hash } from "node:crypto";
import { constants } from "node:fs";
import { open, rm, type FileHandle } from "node:fs/promises";
import { stopIf, UserError } from "../errors.js";
import { codeOf } from "../files/atomic-write.js";
import type { HubConnection } from "./request.js";

/** A file as the hub lists it. */
export interface HubFile {
  readonly name: string;
  readonly size: number;
  /** What the hub names the content by, and the blob in the cache. */
  readonly etag: string;
  /** How the etag follows from the content: as git names it (SHA-1 with a prefix), or SHA-256 for large files. */
  readonly hash: "git" | "sha256";
}

const readAtOnce = 2 ** 20;

/**
 * Brings `file` from `url` to `path`, where a part of it may lie already. When this returns, all of it is on the disk
 * and its hash is right. The caller sees to it that nobody else does the same at the same time; if somebody does,
 * both write the same bytes to the same places.
 *
 * Throws `UserError` if the content is not what the hub lists (nothing stays), or the disk is full or the network fails (what
 * has arrived stays for the next time), and `InterruptedError`.
 */
export async function downloadFile(
  connection: HubConnection,
  url: URL,
  file: HubFile,
  path: string,
  { signal, onBytes }: { signal: AbortSignal | undefined; onBytes: (done: number) => void },
): Promise<void> {
  const handle = await onDisk(path, () => open(path, constants.O_RDWR | constants.O_CREAT, 0o644));
  try {
    const part = new PartialFile(handle, path, file, onBytes);
    await part.takeUp(signal);
    for (let isSecondTry = false; ; isSecondTry = true) {
      if (part.position < file.size) await fetchRest(connection, url, part);
      const found = part.digest();
      if (found === file.etag) break;
      await part.restart();
      // What an earlier process left may have been damaged by a power cut; a fresh copy is another matter.
      if (!isSecondTry) continue;
      await rm(path, { force: true });
      const kind = file.hash === "git" ? "git hash" : "SHA-256";
      throw connection.failure(
        `${file.name} from ${url.host} has the ${kind} ${found}, the hub lists ${file.etag}; it was damaged on its way or is ` +
          "another file, so it is not kept; try again, or another mirror with HF_ENDPOINT",
      );
    }
    await onDisk(path, () => handle.sync());
  } finally {
    await handle.close();
  }
}

async function fetchRest(connection: HubConnection, url: URL, part: PartialFile): Promise<void> {
  const { name, size } = part.file;
  await connection.repeated(
    url,
    async (progressed) => {
      const from = part.position;
      await connection.request(
        url,
        from > 0 ? { headers: { range: `bytes=${from}-` } } : {},
        async ({ status, headers }, nextBytes) => {
          const range = headers.get("content-range");
          refusePage(connection, url, part.file, headers);
          if (status === 200) {
            // The server knows no ranges: all of it comes again.
            await part.restart();
          } else if (isCompressed(headers)) {
            // Positions in compressed bytes are none in the file.
            await part.restart();
            throw connection.broken(`${url.host} compressed a part of ${name}`);
          } else if (status === 416 || range?.startsWith(`bytes ${from}-`) !== true) {
            await part.restart();
            throw connection.broken(
              `${url.host} answered bytes ${from}- with ${range ?? "no range"} (${status})`,
            );
          }
          for (let bytes = await nextBytes(); bytes !== undefined; bytes = await nextBytes()) {
            if (part.position + bytes.length > size) {
              await part.restart();
              throw connection.failure(
                `${name} from ${url.host} is longer than the ${size} bytes that the hub lists; try again, or another mirror with HF_ENDPOINT`,
              );
            }
            // From a server that knows no ranges the same bytes may come again and again.
            progressed(await part.append(bytes));
          }
        },
        (status) => status === 200 || status === 206 || status === 416,
      );
      if (part.position < size) throw connection.broken(`${name} ended at byte ${part.position} of ${size}`);
    },
    "what has arrived is kept, and the same command goes on from there",
  );
}

/** Some networks and mirrors answer with a page of their own, to log in or to say what is wrong. */
function refusePage(
  connection: HubConnection,
  { host }: URL,
  { name, size }: HubFile,
  headers: Headers,
): void {
  if (!/^text\/html\b/i.test(headers.get("content-type") ?? "")) return;
  if (headers.get("content-length") === String(size)) return;
  throw connection.failure(
    `${host} answered with a web page instead of ${name}; see whether this network wants a login, or check HF_ENDPOINT`,
  );
}

function isCompressed(headers: Headers): boolean {
  return !["", "identity"].includes((headers.get("content-encoding") ?? "").trim().toLowerCase());
}

/** What has arrived of a file, and the hash of that. */
class PartialFile {
  position = 0;
  /** The furthest position there has been. */
  private reached = 0;
  private hash: Hash;

  constructor(
    private readonly handle: FileHandle,
    private readonly path: string,
    readonly file: HubFile,
    private readonly onBytes: (done: number) => void,
  ) {
    this.hash = this.freshHash();
  }

  /** Counts what lies there already. */
  async takeUp(signal: AbortSignal | undefined): Promise<void> {
    const { size } = await this.handle.stat();
    if (size > this.file.size) return this.restart();
    const buffer = new Uint8Array(Math.min(size, readAtOnce));
    while (this.position < size) {
      stopIf(signal);
      const { bytesRead } = await onDisk(this.path, () =>
        this.handle.read(buffer, 0, Math.min(buffer.length, size - this.position), this.position),
      );
      if (bytesRead === 0) break;
      this.hash.update(buffer.subarray(0, bytesRead));
      this.position += bytesRead;
    }
    this.reached = this.position;
    this.onBytes(this.position);
  }

  async restart(): Promise<void> {
    await onDisk(this.path, () => this.handle.truncate(0));
    this.position = 0;
    this.hash = this.freshHash();
    this.onBytes(0);
  }

  /** Returns how many of the bytes lie beyond all that had arrived before. */
  async append(bytes: Uint8Array): Promise<number> {
    for (let done = 0; done < bytes.length;) {
      const { bytesWritten } = await onDisk(this.path, () =>
        this.handle.write(bytes, done, bytes.length - done, this.position + done),
      );
      done += bytesWritten;
    }
    this.hash.update(bytes);
    this.position += bytes.length;
    this.onBytes(this.position);
    const before = this.reached;
    this.reached = Math.max(before, this.position);
    return this.reached - before;
  }

  digest(): string {
    return this.hash.copy().digest("hex");
  }

  private freshHash(): Hash {
    if (this.file.hash === "sha256") return createHash("sha256");
    return createHash("sha1").update(`blob ${this.file.size}\0`);
  }
}

/** Words the system's errors about the cache's disk. */
export async function onDisk<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const code = codeOf(error);
    const remedy = "or choose another place with HF_HUB_CACHE";
    if (code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG") {
      throw new UserError(
        `${path}: no space is left on this disk; what has arrived is kept, and the same command goes on from there once ` +
          `some space is free; ${remedy}`,
        { cause: error },
      );
    }
    const isSystem = error instanceof Error && "syscall" in error;
    if (code === undefined || !isSystem) throw error;
    throw new UserError(`${path}: cannot be written (${code}); check the permissions, ${remedy}`, {
      cause: error,
    });
  }
}
