/**
 * The table of contents of a zip file of torch. Its entries are stored as they are, so that an entry is a range of the file, found
 * here and read on demand. Files that were packed again have deflated entries: these are inflated one by one, when they are read, and
 * never beyond the size that they declare.
 *
 * This is a reader of our own and not a package's because tensors need the position of their bytes, because ranges that
 * overlap must be refused before any is read, and because the checks then run on bytes in memory in a test.
 * Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3 and 4.5.3.
 */
import { inflateRawSync } from "node:zlib";
import { UserError } from "../errors.js";
import type { ByteSource } from "../files/byte-source.js";
import { quoted } from "../quoted.js";

/** Where the content of an entry lies in the file. */
export interface ZipEntry {
  readonly offset: number;
  /** Bytes of the content. */
  readonly length: number;
  /** Bytes in the file, where the entry is deflated. */
  readonly packed?: number;
}

/** Deflate makes nothing more than 1,032 times smaller. */
const mostDeflated = 1032;

/** The content of an entry. Throws `UserError` if it is not what the directory says. */
export async function readEntry(
  source: ByteSource,
  { offset, length, packed }: ZipEntry,
): Promise<Uint8Array<ArrayBuffer>> {
  if (packed === undefined) return source.read(offset, length);
  return inflate(await source.read(offset, packed), length, source.path);
}

/** Throws `UserError` that begins with `path` unless exactly `length` bytes come out. */
export function inflate(bytes: Uint8Array, length: number, path: string): Uint8Array<ArrayBuffer> {
  let content: Buffer | undefined;
  try {
    content = inflateRawSync(bytes, { maxOutputLength: Math.max(1, length) });
  } catch (cause) {
    throw new UserError(
      `${path}: not a valid zip file of torch: a deflated entry is broken or longer than it says`,
      {
        cause,
      },
    );
  }
  if (content.length !== length)
    throw new UserError(
      `${path}: not a valid zip file of torch: a deflated entry has ${content.length} bytes, it says ${length}`,
    );
  return new Uint8Array(content);
}

const mostEntries = 200_000;
const longestDirectory = 2 ** 26;
const endLength = 22;
const longestComment = 0xffff;

interface Listed extends ZipEntry {
  readonly name: string;
}

/** The entries by name. Throws `UserError` naming the file and the entry for everything that is not allowed. */
export async function readZipDirectory(source: ByteSource): Promise<Map<string, ZipEntry>> {
  const { position, length, count } = await findDirectory(source);
  const directory = viewOf(await source.read(position, length));
  const wrong = (why: string): UserError => broken(source, why);
  const entries = new Map<string, ZipEntry>();
  const ranges: { readonly name: string; readonly start: number; readonly end: number }[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 46 > length || directory.getUint32(at, true) !== 0x02014b50)
      throw wrong(`entry ${i} of ${count} is missing in its directory`);
    const next =
      at +
      46 +
      directory.getUint16(at + 28, true) +
      directory.getUint16(at + 30, true) +
      directory.getUint16(at + 32, true);
    if (next > length) throw wrong(`entry ${i} of its directory is cut off`);
    const listed = parseListed(source, directory, at);
    at = next;
    if (entries.has(listed.name)) throw wrong(`the entry ${quoted(listed.name)} is there twice`);
    const start = listed.offset;
    const content = await contentPosition(source, listed);
    const end = content + (listed.packed ?? listed.length);
    if (end > position) throw wrong(`the entry ${quoted(listed.name)} runs into the directory`);
    entries.set(listed.name, { ...listed, offset: content });
    ranges.push({ name: listed.name, start, end });
  }
  if (at !== length) throw wrong(`${length - at} bytes follow the last entry of its directory`);
  ranges.sort((a, b) => a.start - b.start);
  for (const [i, { name, start }] of ranges.entries()) {
    const before = ranges[i - 1];
    if (before !== undefined && start < before.end)
      throw wrong(`the entries ${quoted(before.name)} and ${quoted(name)} overlap`);
  }
  return entries;
}

async function findDirectory(
  source: ByteSource,
): Promise<{ readonly position: number; readonly length: number; readonly count: number }> {
  const tailLength = Math.min(source.size, endLength + longestComment);
  const tailStart = source.size - tailLength;
  const tail = viewOf(await source.read(tailStart, tailLength));
  let end = tailLength - endLength;
  const isEnd = (at: number): boolean =>
    tail.getUint32(at, true) === 0x06054b50 && at + endLength + tail.getUint16(at + 20, true) === tailLength;
  while (end >= 0 && !isEnd(end)) end--;
  if (end < 0)
    throw broken(
      source,
      "its directory, which stands at the end, is missing; it may be an unfinished download",
    );
  const locator = end - 20;
  let found = {
    disks: tail.getUint16(end + 4, true) + tail.getUint16(end + 6, true),
    count: tail.getUint16(end + 10, true),
    length: tail.getUint32(end + 12, true),
    position: tail.getUint32(end + 16, true),
    end: tailStart + end,
  };
  if (locator >= 0 && tail.getUint32(locator, true) === 0x07064b50) {
    const position = whole(source, tail.getBigUint64(locator + 8, true));
    const expected = tailStart + locator;
    if (position + 56 > expected) throw broken(source, "its 64-bit directory end lies outside the file");
    const wide = viewOf(await source.read(position, 56));
    if (
      wide.getUint32(0, true) !== 0x06064b50 ||
      position + 12 + whole(source, wide.getBigUint64(4, true)) !== expected
    )
      throw broken(source, "its 64-bit directory end is broken");
    found = {
      disks: wide.getUint32(16, true) + wide.getUint32(20, true),
      count: whole(source, wide.getBigUint64(32, true)),
      length: whole(source, wide.getBigUint64(40, true)),
      position: whole(source, wide.getBigUint64(48, true)),
      end: position,
    };
  }
  if (found.disks !== 0) throw broken(source, "it is split over several files");
  if (found.position + found.length !== found.end)
    throw broken(source, "its directory does not end where the file says");
  if (found.length > longestDirectory)
    throw broken(source, `its directory has ${found.length} bytes; at most ${longestDirectory} are allowed`);
  if (found.count > mostEntries || found.count * 46 > found.length)
    throw broken(source, `its directory of ${found.length} bytes announces ${found.count} entries`);
  return found;
}

/** An entry as the directory lists it; `offset` is still that of its own header. */
function parseListed(source: ByteSource, directory: DataView, at: number): Listed {
  const nameLength = directory.getUint16(at + 28, true);
  const name = decodeName(source, bytesOf(directory, at + 46, nameLength));
  const wrong = (why: string): UserError => broken(source, `the entry ${quoted(name)} ${why}`);
  if (!isPlainPath(name)) throw wrong("has a name that leaves the file or is not plain");
  if ((directory.getUint16(at + 8, true) & 1) !== 0) throw wrong("is encrypted");
  const method = directory.getUint16(at + 10, true);
  if (method !== 0 && method !== 8)
    throw wrong(`is compressed by method ${method}; entries that are stored or deflated are required`);
  // The upper half is the file mode where the writer was a Unix.
  const mode = directory.getUint32(at + 38, true) >>> 16;
  if ((mode & 0xf000) === 0xa000) throw wrong("is a symbolic link");
  let packed = directory.getUint32(at + 20, true);
  let length = directory.getUint32(at + 24, true);
  let offset = directory.getUint32(at + 42, true);
  const extra = bytesOf(directory, at + 46 + nameLength, directory.getUint16(at + 30, true));
  const wide = wideFields(extra);
  const widen = (value: number): number => {
    if (value !== 0xffffffff) return value;
    const next = wide.shift();
    if (next === undefined) throw wrong("lacks its 64-bit sizes");
    return whole(source, next);
  };
  length = widen(length);
  packed = widen(packed);
  offset = widen(offset);
  if (method === 8) {
    if (length > mostDeflated * packed)
      throw wrong(`says that ${packed} bytes hold ${length}, which deflate cannot do`);
    return { name, offset, length, packed };
  }
  if (packed !== length) throw wrong(`is stored in ${packed} bytes but has ${length}`);
  return { name, offset, length };
}

/** The numbers of the zip64 extra field: length, packed length, offset, as far as they are needed. */
function wideFields(extra: Uint8Array): bigint[] {
  const view = viewOf(extra);
  for (let at = 0; at + 4 <= extra.length; at += 4 + view.getUint16(at + 2, true)) {
    if (view.getUint16(at, true) !== 1) continue;
    const size = Math.min(view.getUint16(at + 2, true), extra.length - at - 4);
    return Array.from({ length: Math.floor(size / 8) }, (_, i) => view.getBigUint64(at + 4 + 8 * i, true));
  }
  return [];
}

/** Reads the entry's own header, which must agree with the directory. */
async function contentPosition(source: ByteSource, { name, offset, packed }: Listed): Promise<number> {
  const wrong = (): UserError => broken(source, `the entry ${quoted(name)} is not where its directory says`);
  const encoded = new TextEncoder().encode(name);
  const headerLength = 30 + encoded.length;
  if (offset + headerLength > source.size) throw wrong();
  const header = viewOf(await source.read(offset, headerLength));
  const isSame =
    header.getUint32(0, true) === 0x04034b50 &&
    header.getUint16(8, true) === (packed === undefined ? 0 : 8) &&
    header.getUint16(26, true) === encoded.length &&
    bytesOf(header, 30, encoded.length).every((byte, i) => byte === encoded[i]);
  if (!isSame) throw wrong();
  return offset + headerLength + header.getUint16(28, true);
}

function isPlainPath(name: string): boolean {
  return (
    name !== "" &&
    !/[\\:]|\p{Cc}/u.test(name) &&
    name.split("/").every((part) => part !== "" && part !== "." && part !== "..")
  );
}

function decodeName(source: ByteSource, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw broken(source, "an entry's name is not UTF-8", cause);
  }
}

function whole(source: ByteSource, value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw broken(source, `a size of ${value} is too large`);
  return Number(value);
}

const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function bytesOf(view: DataView, offset: number, length: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + offset, length);
}

function broken(source: ByteSource, why: string, cause?: unknown): UserError {
  return new UserError(`${source.path}: not a valid zip file of torch: ${why}`, { cause });
}
