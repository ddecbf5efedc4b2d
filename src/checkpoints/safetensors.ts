/**
 * safetensors files and sharded checkpoints: opened by header only, tensors read on demand, written whole and atomically.
 * Format: https://github.com/huggingface/safetensors#format
 */
import { open, readFile, type FileHandle } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { InternalError, UserError } from "../errors.js";
import {
  bytesPerElement,
  elementCount,
  type DType,
  type HostTensor,
  type TypedArray,
} from "../host-tensor.js";
import { codeOf, writeFileAtomic } from "./atomic-write.js";
import {
  fileDTypes,
  maximumHeaderLength,
  parseHeader,
  parseHeaderLength,
  type TensorEntry,
} from "./safetensors-header.js";

export type { TensorEntry } from "./safetensors-header.js";

/** The tensors of a checkpoint on disk. */
export interface TensorFile {
  /** The opened file (for a sharded checkpoint, its index). */
  readonly path: string;
  /** Where each tensor lies, by name. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Reads one tensor. Throws `UserError` for an unknown name or if the file shrank since it was opened. */
  read(name: string): Promise<HostTensor>;
  /** Reads the named tensors (default: all), in file order. */
  readAll(names?: Iterable<string>): Promise<Map<string, HostTensor>>;
}

/**
 * Opens a `.safetensors` file, or a sharded checkpoint by its `.safetensors.index.json`, and checks the whole header.
 * No tensor is read yet and no file stays open.
 *
 * Throws `UserError`, naming the file, if it is missing, not a safetensors file, truncated, or inconsistent.
 */
export async function openSafetensors(path: string): Promise<TensorFile> {
  return path.endsWith(".index.json") ? openSharded(path) : openSingle(path);
}

async function openSingle(path: string): Promise<TensorFile> {
  const header = await withFile(path, async (file) => {
    const { size } = await file.stat();
    const start = await readBytes(file, path, 0, Math.min(8, size));
    const length = parseHeaderLength(path, start, size);
    return parseHeader(path, await readBytes(file, path, 8, length), size);
  });
  return tensorFile(path, header.tensors, header.metadata);
}

async function openSharded(path: string): Promise<TensorFile> {
  const weightMap = await readWeightMap(path);
  const tensors = new Map<string, TensorEntry>();
  let metadata: Readonly<Record<string, string>> = {};
  for (const shard of new Set(weightMap.values())) {
    const opened = await openSingle(join(dirname(path), shard));
    metadata = { ...metadata, ...opened.metadata };
    for (const [name, entry] of opened.tensors) {
      const listed = weightMap.get(name);
      if (listed !== shard) {
        throw new UserError(
          `${path}: the index places tensor ${JSON.stringify(name)} in ${listed ?? "no shard"}, but ${shard} holds it; fetch the checkpoint again`,
        );
      }
      tensors.set(name, entry);
    }
  }
  const absent = [...weightMap].filter(([name]) => !tensors.has(name));
  if (absent.length > 0) {
    const [name, shard] = absent[0]!;
    throw new UserError(
      `${path}: ${absent.length} listed tensors are not in their shards, the first is ${JSON.stringify(name)} in ${shard}; fetch the checkpoint again`,
    );
  }
  return tensorFile(path, tensors, metadata);
}

async function readWeightMap(path: string): Promise<Map<string, string>> {
  let index: unknown;
  try {
    index = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    throw codeOf(error) === undefined
      ? new UserError(`${path}: not JSON (${(error as Error).message})`)
      : cannotRead(path, error);
  }
  const map = (index as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new UserError(
      `${path}: a weight_map from tensor names to shard files is required, got ${typeof map}`,
    );
  }
  for (const [name, shard] of Object.entries(map)) {
    // A shard elsewhere would let a downloaded index point at any file of this machine.
    if (
      typeof shard !== "string" ||
      shard !== basename(shard) ||
      shard.includes("\\") ||
      !shard.endsWith(".safetensors")
    ) {
      throw new UserError(
        `${path}: weight_map places tensor ${JSON.stringify(name)} in ${JSON.stringify(shard)}; a .safetensors file name in the same folder is required`,
      );
    }
  }
  return new Map(Object.entries(map as Record<string, string>));
}

function tensorFile(
  path: string,
  tensors: ReadonlyMap<string, TensorEntry>,
  metadata: Readonly<Record<string, string>>,
): TensorFile {
  const entryOf = (name: string): TensorEntry => {
    const entry = tensors.get(name);
    if (!entry) throw new UserError(`${path}: has no tensor ${JSON.stringify(name)}`);
    return entry;
  };
  return {
    path,
    tensors,
    metadata,
    async read(name) {
      const entry = entryOf(name);
      return withFile(entry.file, (file) => readTensor(file, entry));
    },
    async readAll(names = tensors.keys()) {
      const byFile = new Map<string, [string, TensorEntry][]>();
      for (const name of names) {
        const entry = entryOf(name);
        const wanted = byFile.get(entry.file) ?? [];
        wanted.push([name, entry]);
        byFile.set(entry.file, wanted);
      }
      const result = new Map<string, HostTensor>();
      for (const [file, wanted] of byFile) {
        wanted.sort(([, a], [, b]) => a.offset - b.offset);
        await withFile(file, async (handle) => {
          for (const [name, entry] of wanted) result.set(name, await readTensor(handle, entry));
        });
      }
      return result;
    },
  };
}

async function readTensor(file: FileHandle, entry: TensorEntry): Promise<HostTensor> {
  const bytes = await readBytes(file, entry.file, entry.offset, entry.length);
  return { dtype: entry.dtype, dims: entry.dims, data: typed(entry.dtype, bytes.buffer) };
}

function typed(dtype: DType, buffer: ArrayBuffer): TypedArray {
  switch (dtype) {
    case "float32":
      return new Float32Array(buffer);
    case "float16":
    case "bfloat16":
      return new Uint16Array(buffer);
    case "int64":
      return new BigInt64Array(buffer);
    case "uint64":
      return new BigUint64Array(buffer);
    case "int32":
      return new Int32Array(buffer);
    case "int8":
      return new Int8Array(buffer);
    case "uint8":
    case "bool":
      return new Uint8Array(buffer);
  }
}

/** `length` bytes of their own buffer, so that a typed array of any element size may lie over them. */
async function readBytes(
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

async function withFile<T>(path: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    throw cannotRead(path, error);
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

/**
 * Writes tensors as one safetensors file, atomically. The bytes depend on the content only: tensors are ordered by
 * element size (largest first, so that each is aligned to its own element) and then by name, and the data start at a multiple of 8.
 * The default `metadata` is what Python's transformers demands.
 */
export async function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, HostTensor>> | ReadonlyMap<string, HostTensor>,
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): Promise<void> {
  const named: [string, HostTensor][] = tensors instanceof Map ? [...tensors] : Object.entries(tensors);
  const ordered = named.sort(
    ([a, x], [b, y]) => bytesPerElement[y.dtype] - bytesPerElement[x.dtype] || (a < b ? -1 : a > b ? 1 : 0),
  );
  const header = encodeHeader(ordered, metadata);
  await writeFileAtomic(path, async (file) => {
    await file.writeFile(header);
    for (const [, { data }] of ordered) {
      await file.writeFile(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    }
  });
}

function encodeHeader(
  ordered: readonly [string, HostTensor][],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const names = Object.fromEntries(Object.entries(fileDTypes).map(([file, dtype]) => [dtype, file]));
  // Built as a list of members: an object would move names such as "0" to the front and lose "__proto__".
  const members = [`"__metadata__":${JSON.stringify(metadata)}`];
  let position = 0;
  for (const [name, { dtype, dims, data }] of ordered) {
    if (name === "__metadata__") throw new InternalError(`writeSafetensors: ${name} cannot name a tensor`);
    if (data.length !== elementCount(dims) || data.BYTES_PER_ELEMENT !== bytesPerElement[dtype]) {
      throw new InternalError(
        `writeSafetensors: ${name}: ${dtype} [${dims.join(", ")}] does not fit ${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes`,
      );
    }
    const end = position + data.byteLength;
    const entry = { dtype: names[dtype], shape: dims, data_offsets: [position, end] };
    members.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    position = end;
  }
  const json = Buffer.from(`{${members.join(",")}}`);
  const length = Math.ceil(json.length / 8) * 8;
  if (length > maximumHeaderLength) {
    throw new InternalError(
      `writeSafetensors: a header of ${length} bytes is longer than readers allow (${maximumHeaderLength})`,
    );
  }
  const header = Buffer.alloc(8 + length, " ");
  header.writeBigUInt64LE(BigInt(length), 0);
  json.copy(header, 8);
  return header;
}
