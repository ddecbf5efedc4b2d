/**
 * safetensors files and sharded checkpoints: opened by header only, tensors read on demand, written whole and atomically.
 * Format: https://github.com/huggingface/safetensors#format
 */
import type { FileHandle } from "node:fs/promises";
import { InternalError, UserError } from "../errors.js";
import {
  bytesPerElement,
  elementCount,
  type DType,
  type HostTensor,
  type TypedArray,
} from "../host-tensor.js";
import { writeFileAtomic } from "../files/atomic-write.js";
import { readBytes, withFile } from "../files/byte-source.js";
import { refuseStandIn, textStart } from "../files/stand-in.js";
import { openShards } from "./shards.js";
import {
  fileDTypes,
  maximumHeaderLength,
  parseHeader,
  parseHeaderLength,
  type TensorEntry,
  type WideStored,
} from "./safetensors-header.js";
import type { LazyTensor, TensorFile } from "./tensor-file.js";

export type { TensorEntry } from "./safetensors-header.js";
export type { LazyTensor, TensorFile } from "./tensor-file.js";

/**
 * Opens a `.safetensors` file, or a sharded checkpoint by its `.safetensors.index.json`, and checks the whole header.
 * No tensor is read yet and no file stays open.
 *
 * Throws `UserError`, naming the file, if it is missing, not a safetensors file, truncated, or inconsistent.
 */
export async function openSafetensors(path: string): Promise<TensorFile> {
  return path.endsWith(".index.json") ? openShards(path, ".safetensors", openSingle) : openSingle(path);
}

async function openSingle(path: string): Promise<TensorFile> {
  const header = await withFile(path, async (file) => {
    const { size } = await file.stat();
    const start = await readBytes(file, path, 0, Math.min(textStart, size));
    refuseStandIn(path, start);
    const length = parseHeaderLength(path, start.subarray(0, 8), size);
    return parseHeader(path, await readBytes(file, path, 8, length), size);
  });
  return tensorFile(path, header.tensors, header.metadata);
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
  const { dtype, dims, stored = dtype } = entry;
  return { dtype, dims, data: numbersOf(stored, bytes.buffer) };
}

/** The numbers of a buffer as they are read: float64 rounded to float32, int16 widened to int32, others as they are. */
export function numbersOf(stored: DType | WideStored, buffer: ArrayBuffer): TypedArray {
  if (stored === "float64") return Float32Array.from(new Float64Array(buffer));
  if (stored === "int16") return Int32Array.from(new Int16Array(buffer));
  return typedArray(stored, buffer);
}

/** A typed array over a buffer; the 16-bit floats as their bit patterns. */
export function typedArray(dtype: DType, buffer: ArrayBuffer): TypedArray {
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

/** Called after each tensor that was written. */
export type WriteProgress = (written: number, total: number) => void;

/**
 * Writes tensors as one safetensors file, atomically. The bytes depend on the content only: tensors are ordered by
 * element size (largest first, so that each is aligned to its own element) and then by name, and the data start at a multiple of 8.
 * Lazy tensors are read one after another, so that the file may be larger than the memory. `onTensor` may throw to stop.
 * The default `metadata` is what Python's transformers demands.
 */
export async function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, HostTensor | LazyTensor>> | ReadonlyMap<string, HostTensor | LazyTensor>,
  metadata: Readonly<Record<string, string>> = { format: "pt" },
  onTensor?: WriteProgress,
): Promise<void> {
  const named: [string, HostTensor | LazyTensor][] =
    tensors instanceof Map ? [...tensors] : Object.entries(tensors);
  for (const [name, tensor] of named) if ("data" in tensor) requireFit(name, tensor);
  await fillSafetensors(path, named, metadata, async (write) => {
    for (const [i, [name, tensor]] of named.sort(inFileOrder).entries()) {
      const { dtype, dims, data } = "read" in tensor ? await tensor.read() : tensor;
      if (dtype !== tensor.dtype || dims.join() !== tensor.dims.join()) {
        throw new InternalError(
          `writeSafetensors: ${name} was announced as ${tensor.dtype} [${tensor.dims.join(", ")}] and is ${dtype} [${dims.join(", ")}]`,
        );
      }
      requireFit(name, { dtype, dims, data });
      await write(name, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      onTensor?.(i + 1, named.length);
    }
  });
}

/** What is known of a tensor before it is written. */
export type DeclaredTensor = readonly [name: string, Pick<HostTensor, "dtype" | "dims">];

/** Writes the next bytes of a tensor. */
export type WriteTensor = (name: string, bytes: Uint8Array) => Promise<void>;

const inFileOrder = ([a, x]: DeclaredTensor, [b, y]: DeclaredTensor): number =>
  bytesPerElement[y.dtype] - bytesPerElement[x.dtype] || (a < b ? -1 : a > b ? 1 : 0);

/**
 * The same for tensors that are made one after the other: `fill` gives their bytes, whole or in pieces, in any order of
 * the tensors, and the result does not depend on that order.
 * Throws `InternalError` if a tensor did not get all its bytes.
 */
export async function fillSafetensors(
  path: string,
  tensors: Iterable<DeclaredTensor>,
  metadata: Readonly<Record<string, string>>,
  fill: (write: WriteTensor) => Promise<void>,
): Promise<void> {
  const ordered = [...tensors].sort(inFileOrder);
  const header = encodeHeader(ordered, metadata);
  const places = new Map<string, { next: number; readonly end: number }>();
  let position = header.length;
  for (const [name, { dtype, dims }] of ordered) {
    const end = position + elementCount(dims) * bytesPerElement[dtype];
    places.set(name, { next: position, end });
    position = end;
  }
  await writeFileAtomic(path, async (file) => {
    await file.write(header, 0, header.length, 0);
    await fill(async (name, bytes) => {
      const place = places.get(name);
      if (place === undefined || place.next + bytes.length > place.end) {
        throw new InternalError(`fillSafetensors: no place for ${bytes.length} bytes of ${name}`);
      }
      for (let done = 0; done < bytes.length;) {
        const most = Math.min(2 ** 30, bytes.length - done);
        done += (await file.write(bytes, done, most, place.next + done)).bytesWritten;
      }
      place.next += bytes.length;
    });
    for (const [name, { next, end }] of places) {
      if (next < end) throw new InternalError(`fillSafetensors: ${name} lacks ${end - next} bytes`);
    }
  });
}

function requireFit(name: string, { dtype, dims, data }: HostTensor): void {
  if (data.length !== elementCount(dims) || data.BYTES_PER_ELEMENT !== bytesPerElement[dtype]) {
    throw new InternalError(
      `writeSafetensors: ${name}: ${dtype} [${dims.join(", ")}] does not fit ${data.length} elements of ${data.BYTES_PER_ELEMENT} bytes`,
    );
  }
}

function encodeHeader(
  ordered: readonly DeclaredTensor[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const names = Object.fromEntries(Object.entries(fileDTypes).map(([file, dtype]) => [dtype, file]));
  // Built as a list of members: an object would move names such as "0" to the front and lose "__proto__".
  const members = [`"__metadata__":${JSON.stringify(metadata)}`];
  let position = 0;
  for (const [name, { dtype, dims }] of ordered) {
    if (name === "__metadata__") throw new InternalError(`writeSafetensors: ${name} cannot name a tensor`);
    const end = position + elementCount(dims) * bytesPerElement[dtype];
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
