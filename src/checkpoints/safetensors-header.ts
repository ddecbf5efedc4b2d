/**
 * The header of a safetensors file: 8 bytes of little-endian length, then JSON that names each tensor's dtype, shape and
 * byte range. Everything in it is checked, because a checkpoint comes from strangers: after `parseHeader` each range
 * lies inside the file, belongs to one tensor only, and has the size that dtype and shape demand.
 */
import { UserError } from "../errors.js";
import { quoted } from "../quoted.js";
import { bytesPerElement, elementCount, type DType } from "../host-tensor.js";

/** How numbers may lie in a file that no `HostTensor` holds. */
export type WideStored = "float64" | "int16";

/** Where one tensor lies. */
export interface TensorEntry {
  /** The file that holds the bytes (a shard, if the checkpoint has several). */
  readonly file: string;
  readonly dtype: DType;
  readonly dims: readonly number[];
  /** Position of the first byte, counted from the start of `file`. */
  readonly offset: number;
  /** Number of bytes, as the file stores them. */
  readonly length: number;
  /** What the file stores, where that is not `dtype`. */
  readonly stored?: WideStored;
  /** Set where the bytes at `offset` are not the tensor itself: only the file's `read` gives it, the range cannot be mapped. */
  readonly computed?: true;
}

/** A parsed header. */
export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** The reference implementation refuses longer headers too. */
export const maximumHeaderLength = 100_000_000;

const mostAxes = 64;

/** Names of the element types in the file. */
export const fileDTypes = {
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  I64: "int64",
  I32: "int32",
  U64: "uint64",
  U8: "uint8",
  I8: "int8",
  BOOL: "bool",
} as const satisfies Record<string, DType>;

/** Element types that are read as another one, as PyTorch files are: float64 is rounded to float32, int16 widened to int32. */
const widened: Readonly<
  Record<string, { readonly stored: WideStored; readonly dtype: DType; readonly bytes: number }>
> = {
  F64: { stored: "float64", dtype: "float32", bytes: 8 },
  I16: { stored: "int16", dtype: "int32", bytes: 2 },
};

/**
 * Reads the length that the file opens with. `bytes` are the file's first 8, `fileLength` its size.
 * Throws `UserError` if no header of that length can be there.
 */
export function parseHeaderLength(file: string, bytes: Uint8Array, fileLength: number): number {
  if (bytes.length < 8) {
    throw broken(file, `a file has at least 8 bytes, this one has ${fileLength}`);
  }
  const length = new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(maximumHeaderLength)) {
    throw broken(
      file,
      `its first 8 bytes announce a header of ${length} bytes; at most ${maximumHeaderLength} are allowed`,
    );
  }
  if (length < 2n || 8n + length > BigInt(fileLength)) {
    throw broken(
      file,
      `its first 8 bytes announce a header of ${length} bytes, but the file has ${fileLength} in all`,
    );
  }
  return Number(length);
}

/** Parses and checks the JSON part. `fileLength` is the size of the whole file. Throws `UserError` naming the tensor at fault. */
export function parseHeader(file: string, bytes: Uint8Array, fileLength: number): SafetensorsHeader {
  const json = parseJson(file, bytes);
  const dataStart = 8 + bytes.length;
  let metadata: Readonly<Record<string, string>> = {};
  const entries: [string, TensorEntry][] = [];
  for (const [name, value] of Object.entries(json)) {
    if (name === "__metadata__") metadata = parseMetadata(file, value);
    else entries.push([name, parseEntry(file, name, value, dataStart)]);
  }
  checkCover(file, entries, dataStart, fileLength);
  return { tensors: new Map(entries), metadata };
}

function parseJson(file: string, bytes: Uint8Array): Record<string, unknown> {
  if (bytes[0] !== 0x7b) throw broken(file, "its header does not start with {");
  let json: unknown;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    json = JSON.parse(text);
  } catch (cause) {
    throw broken(file, `its header is not JSON (${(cause as Error).message})`, cause);
  }
  const duplicate = duplicateKey(text);
  if (duplicate !== undefined) throw broken(file, `its header has the key ${quoted(duplicate)} twice`);
  return json as Record<string, unknown>;
}

/** The first key that occurs twice in one object of valid JSON `text`: `JSON.parse` would silently keep the last. */
function duplicateKey(text: string): string | undefined {
  const open: Set<string>[] = [];
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (char === "{") open.push(new Set());
    else if (char === "}") open.pop();
    else if (char === '"') {
      const start = i;
      for (i++; text[i] !== '"'; i++) if (text[i] === "\\") i++;
      let next = i + 1;
      while (/\s/.test(text[next] ?? "")) next++;
      if (text[next] !== ":") continue;
      const key = JSON.parse(text.slice(start, i + 1)) as string;
      const seen = open.at(-1)!;
      if (seen.has(key)) return key;
      seen.add(key);
    }
  }
  return undefined;
}

function parseMetadata(file: string, value: unknown): Record<string, string> {
  if (!isRecord(value) || Object.values(value).some((text) => typeof text !== "string")) {
    throw broken(file, "its __metadata__ must map names to texts");
  }
  return value as Record<string, string>;
}

function parseEntry(file: string, name: string, value: unknown, dataStart: number): TensorEntry {
  const at = `tensor ${quoted(name)}`;
  if (!isRecord(value)) throw broken(file, `${at} needs dtype, shape and data_offsets`);
  const { dtype: fileDType, shape, data_offsets: range } = value;
  const known = Object.keys({ ...fileDTypes, ...widened });
  if (typeof fileDType !== "string" || !known.includes(fileDType)) {
    throw new UserError(
      `${file}: ${at} has the dtype ${quoted(fileDType)}, which is not supported (supported: ${known.join(", ")}); convert the checkpoint first`,
    );
  }
  const wide = Object.hasOwn(widened, fileDType) ? widened[fileDType] : undefined;
  const dtype = wide?.dtype ?? fileDTypes[fileDType as keyof typeof fileDTypes];
  if (!Array.isArray(shape) || !shape.every(isSize)) {
    throw broken(file, `${at} has the shape ${quoted(shape)}; a list of sizes is required`);
  }
  if (shape.length > mostAxes)
    throw broken(file, `${at} has ${shape.length} axes; at most ${mostAxes} are allowed`);
  if (!Array.isArray(range) || range.length !== 2 || !range.every(isSize)) {
    throw broken(file, `${at} has the data_offsets ${quoted(range)}; two byte positions are required`);
  }
  const [begin, end] = range as [number, number];
  const needed = elementCount(shape) * (wide?.bytes ?? bytesPerElement[dtype]);
  // A product beyond 2^53 is not exact, but then it is also far from any length that passed `isSize`.
  if (end - begin !== needed) {
    throw broken(
      file,
      `${at} is ${fileDType} ${quoted(shape)}, ${needed} bytes, but its data_offsets span ${end - begin}`,
    );
  }
  return {
    file,
    dtype,
    dims: shape,
    offset: dataStart + begin,
    length: needed,
    ...(wide && { stored: wide.stored, computed: true as const }),
  };
}

/** The ranges must follow each other from the end of the header to the end of the file: no overlap, no hole, no rest. */
function checkCover(
  file: string,
  entries: readonly [string, TensorEntry][],
  start: number,
  fileLength: number,
): void {
  const ordered = [...entries].sort(([, a], [, b]) => a.offset - b.offset || a.length - b.length);
  let covered = start;
  let before = "the header";
  for (const [name, { offset, length }] of ordered) {
    if (offset !== covered) {
      const how = offset < covered ? "overlaps" : "leaves a gap after";
      throw broken(
        file,
        `tensor ${quoted(name)} starts at byte ${offset - start} of the data and ${how} ${before}, which ends at ${covered - start}`,
      );
    }
    covered += length;
    before = `tensor ${quoted(name)}`;
  }
  if (covered > fileLength) {
    throw broken(
      file,
      `${before} ends at byte ${covered}, but the file has ${fileLength}; it may be an unfinished download, fetch it again`,
    );
  }
  if (covered < fileLength) throw broken(file, `${fileLength - covered} bytes follow the last tensor`);
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function broken(file: string, why: string, cause?: unknown): UserError {
  return new UserError(`${file}: not a valid safetensors file: ${why}`, { cause });
}
