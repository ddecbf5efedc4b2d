/**
 * Checkpoints that `torch.save` wrote: `.pth` of LAVIS, `pytorch_model.bin` of the hub. The pickle inside is read as data
 * and never executed (`pickle.ts`); tensors are read on demand from their place in the file. Two forms exist: a zip file of stored entries
 * (torch 1.6 and newer), and before that a stream of five pickles with the numbers behind them.
 *
 * The tensors are those of the entry "model" if there is one, as in LAVIS, or of one of the other names that trainers use, else of
 * the whole dictionary. What else such dictionaries hold (optimizer, configuration, epoch) is skipped and named in `leftOut`.
 */
import type { FileHandle } from "node:fs/promises";
import { UserError } from "../errors.js";
import { bytesPerElement, elementCount, type HostTensor, type TypedArray } from "../host-tensor.js";
import { refuseStandIn, textStart } from "../files/stand-in.js";
import { readBytes, withByteSource, withFile, type ByteSource } from "../files/byte-source.js";
import { PickleCutOff, readPickle, type PickleRules } from "./pickle.js";
import { listed } from "../listed.js";
import { quoted } from "../quoted.js";
import { numbersOf, type TensorEntry, type TensorFile } from "./safetensors.js";
import { openShards } from "./shards.js";
import { storageOf, torchName, TorchTensor, type Storage } from "./torch-values.js";
import { inflate, readEntry, readZipDirectory } from "./zip-directory.js";

export interface PyTorchFile extends TensorFile {
  /** Entries of the file's dictionary that hold no tensor and were skipped. */
  readonly leftOut: readonly string[];
}

/** A tensor and where the first number of its storage stands in the file. */
interface Placed {
  readonly tensor: TorchTensor;
  readonly storagePosition: number;
  /** Bytes of the deflated entry that begins there, if the storage is deflated, and those that it inflates to. */
  readonly packed?: number;
  readonly length?: number;
}

/** Where a storage begins in the file, and how it is packed if it is. */
interface Place {
  readonly position: number;
  readonly packed?: number;
  readonly length?: number;
}

/** The parsed structure of a file, without its numbers. */
export interface PyTorchContent {
  readonly tensors: ReadonlyMap<string, Placed>;
  readonly leftOut: readonly string[];
}

/** The pickle of a checkpoint holds names and shapes only. */
const longestPickle = 2 ** 25;
/** All tensors together may be this many times as large as the file: tied weights share numbers, copies of everything do not. */
const mostSharing = 8;
/** Where trainers put the tensors: LAVIS, Lightning, much other code, and DeepSpeed. */
const stateNames = ["model", "state_dict", "model_state_dict", "module"];
/** 0x1950a86a20f9469cfc6c, with which the old form begins. */
const oldMagic = 119547037146038801333356n;
const oldVersion = 1001;

/**
 * Opens a file of `torch.save`, or a sharded checkpoint by its `.bin.index.json`. No tensor is read yet and no file stays open.
 *
 * Throws `UserError`, naming the file and the place, if it is none, is broken, or its pickle asks for anything but tensors.
 */
export async function openPyTorch(path: string): Promise<PyTorchFile> {
  if (path.endsWith(".index.json")) return { ...(await openShards(path, ".bin", openPyTorch)), leftOut: [] };
  const { tensors, leftOut } = await withByteSource(path, parsePyTorch);
  const entries = new Map<string, TensorEntry>();
  for (const [name, placed] of tensors) entries.set(name, entryOf(path, placed));
  const find = (name: string): Placed => {
    const placed = tensors.get(name);
    if (!placed) throw new UserError(`${path}: has no tensor ${quoted(name)}`);
    return placed;
  };
  return {
    path,
    tensors: entries,
    metadata: {},
    leftOut,
    read: async (name) => withFile(path, async (file) => readTensor(file, path, find(name))),
    readAll: async (names = tensors.keys()) => {
      const wanted = [...names].map((name) => [name, find(name)] as const);
      wanted.sort(([, a], [, b]) => a.storagePosition - b.storagePosition);
      const result = new Map<string, HostTensor>();
      await withFile(path, async (file) => {
        for (const [name, placed] of wanted) result.set(name, await readTensor(file, path, placed));
      });
      return result;
    },
  };
}

/** Reads the structure of a file of `torch.save`. Throws `UserError` for everything that is not allowed. */
export async function parsePyTorch(source: ByteSource): Promise<PyTorchContent> {
  const start = await source.read(0, Math.min(textStart, source.size));
  const isZip = start[0] === 0x50 && start[1] === 0x4b;
  if (!isZip && start[0] !== 0x80) {
    refuseStandIn(source.path, start);
    throw new UserError(
      `${source.path}: not a file of torch.save: it begins neither as a zip file nor as a pickle`,
    );
  }
  const { root, position } = await (isZip ? parseZip(source) : parseStream(source));
  return contentOf(source, root, position);
}

interface Parsed {
  readonly root: unknown;
  /** The byte of the file at which a storage begins. Throws `UserError` if its numbers are not there. */
  readonly position: (storage: Storage) => Place;
}

async function parseZip(source: ByteSource): Promise<Parsed> {
  const entries = await readZipDirectory(source);
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickles.length !== 1) {
    throw new UserError(
      `${source.path}: not a file of torch.save: one entry FOLDER/data.pkl is required, ${pickles.length} are there`,
    );
  }
  const [pickleName] = pickles as [string];
  const prefix = pickleName.slice(0, -"data.pkl".length);
  const order = entries.get(`${prefix}byteorder`);
  if (order !== undefined) {
    const text = new TextDecoder().decode((await readEntry(source, order)).subarray(0, 16));
    if (text !== "little")
      throw new UserError(
        `${source.path}: its numbers are stored ${quoted(text)}; "little" byte order is required`,
      );
  }
  const pickle = entries.get(pickleName)!;
  const { length } = pickle;
  if (length > longestPickle) throw tooLong(source, length);
  const rules: PickleRules = { name: torchName, persistent: storageOf };
  const { value, end } = readPickle(await readEntry(source, pickle), source.path, rules);
  if (end !== length)
    throw new UserError(`${source.path}: ${length - end} bytes follow the end of its pickle`);
  const position = (storage: Storage): Place => {
    const name = `${prefix}data/${storage.key}`;
    const entry = entries.get(name);
    const needed = storage.count * storage.type.bytes;
    if (entry === undefined || storage.start !== 0)
      throw new UserError(`${source.path}: the storage ${quoted(name)} is missing`);
    if (entry.length !== needed) {
      throw new UserError(
        `${source.path}: the storage ${quoted(name)} has ${entry.length} bytes, its ${storage.count} numbers need ${needed}`,
      );
    }
    return {
      position: entry.offset,
      ...(entry.packed !== undefined && { packed: entry.packed, length: entry.length }),
    };
  };
  return { root: value, position };
}

async function parseStream(source: ByteSource): Promise<Parsed> {
  // How long the pickles are shows only when they are read, so more of the file is read until they end.
  for (let length = 2 ** 16; ; length *= 4) {
    const bytes = await source.read(0, Math.min(length, source.size, longestPickle));
    try {
      return await parseOldPickles(source, bytes);
    } catch (error) {
      if (!(error instanceof PickleCutOff) || bytes.length === source.size) throw error;
      if (bytes.length === longestPickle) throw tooLong(source, source.size);
    }
  }
}

async function parseOldPickles(source: ByteSource, bytes: Uint8Array): Promise<Parsed> {
  const wrong = (why: string): UserError => new UserError(`${source.path}: not a file of torch.save: ${why}`);
  const storages = new Map<string, Storage>();
  const nothing: PickleRules = {
    name: () => undefined,
    persistent: (_, at) => {
      throw new UserError(`${at}: a storage is named before the tensors`);
    },
  };
  const withTensors: PickleRules = {
    name: torchName,
    persistent: (id, at) => {
      const storage = storageOf(id, at);
      storages.set(storage.key, storage);
      return storage;
    },
  };
  let end = 0;
  const next = (rules: PickleRules): unknown => {
    const read = readPickle(bytes, source.path, rules, end);
    end = read.end;
    return read.value;
  };
  if (next(nothing) !== oldMagic) throw wrong("its magic number is not torch's");
  const version = next(nothing);
  if (version !== oldVersion) throw wrong(`its version is not ${oldVersion}`);
  const system = next(nothing);
  if (!(system instanceof Map) || system.get("little_endian") !== true)
    throw wrong("its numbers are not stored in little byte order");
  const root = next(withTensors);
  const keys = next(nothing);
  if (!Array.isArray(keys)) throw wrong("a list of storages is required behind the tensors");
  const positions = new Map<string, { readonly position: number; readonly count: number }>();
  let at = end;
  for (const key of keys as readonly unknown[]) {
    const storage = typeof key === "string" ? storages.get(key) : undefined;
    if (storage === undefined || positions.has(key as string))
      throw wrong(
        `its list of storages names ${typeof key === "string" ? quoted(key) : typeof key} twice or out of nowhere`,
      );
    if (at + 8 > source.size) throw wrong(`it ends before the storage ${quoted(storage.key)}`);
    const head = await source.read(at, 8);
    const count = new DataView(head.buffer).getBigInt64(0, true);
    const length = Number(count) * storage.type.bytes;
    if (count < 0n || at + 8 + length > source.size)
      throw wrong(`the storage ${quoted(storage.key)} of ${count} numbers runs over the end of the file`);
    positions.set(storage.key, { position: at + 8, count: Number(count) });
    at += 8 + length;
  }
  if (at !== source.size) throw wrong(`${source.size - at} bytes follow the last storage`);
  const position = (storage: Storage): Place => {
    const found = positions.get(storage.key);
    const type = storages.get(storage.key)?.type;
    if (found === undefined) throw wrong(`the storage ${quoted(storage.key)} is missing`);
    if (storage.start + storage.count > found.count || type !== storage.type)
      throw wrong(`the storage ${quoted(storage.key)} is used otherwise than it is stored`);
    return { position: found.position + storage.start * storage.type.bytes };
  };
  return { root, position };
}

function contentOf(source: ByteSource, root: unknown, position: Parsed["position"]): PyTorchContent {
  if (!(root instanceof Map)) {
    throw new UserError(
      `${source.path}: a dictionary of tensors is required, the file holds something else; store model.state_dict() with torch.save`,
    );
  }
  const whole = root as ReadonlyMap<unknown, unknown>;
  const nested = stateNames.find((name) => whole.get(name) instanceof Map);
  const state = nested === undefined ? whole : (whole.get(nested) as ReadonlyMap<unknown, unknown>);
  const tensors = new Map<string, Placed>();
  const leftOut = nested === undefined ? [] : [...whole.keys()].filter((key) => key !== nested).map(keyName);
  let total = 0;
  for (const [name, value] of state) {
    if (typeof name === "string" && value instanceof TorchTensor) {
      const { position: storagePosition, ...deflated } = position(value.storage);
      tensors.set(name, { tensor: value, storagePosition, ...deflated });
      total += elementCount(value.dims) * bytesPerElement[value.storage.type.dtype];
    } else {
      leftOut.push(nested === undefined ? keyName(name) : `${nested}: ${keyName(name)}`);
    }
  }
  if (tensors.size === 0) {
    throw new UserError(
      `${source.path}: holds no tensors by name, neither at its top nor under ${listed(stateNames)}, only ${
        leftOut
          .slice(0, 5)
          .map((name) => quoted(name))
          .join(", ") || "nothing"
      }`,
    );
  }
  if (total > mostSharing * source.size)
    throw new UserError(
      `${source.path}: its tensors would have ${total} bytes, more than ${mostSharing} times the file's ${source.size}`,
    );
  return { tensors, leftOut };
}

function keyName(key: unknown): string {
  return typeof key === "string" ? key.slice(0, 100) : typeof key === "number" ? String(key) : typeof key;
}

function entryOf(path: string, { tensor, storagePosition, packed }: Placed): TensorEntry {
  const { stored, dtype, bytes } = tensor.storage.type;
  return {
    file: path,
    dtype,
    dims: tensor.dims,
    offset: storagePosition + tensor.offset * bytes,
    length: elementCount(tensor.dims) * bytesPerElement[dtype],
    ...((!tensor.isDense || stored !== dtype || packed !== undefined) && { computed: true as const }),
  };
}

async function readTensor(
  file: FileHandle,
  path: string,
  { tensor, storagePosition, packed, length = 0 }: Placed,
): Promise<HostTensor> {
  const { stored, dtype, bytes } = tensor.storage.type;
  const [start, end] = [tensor.offset * bytes, tensor.end * bytes];
  const { buffer } =
    packed === undefined
      ? await readBytes(file, path, storagePosition + start, end - start)
      : inflate(await readBytes(file, path, storagePosition, packed), length, path).slice(start, end);
  return { dtype, dims: tensor.dims, data: dense(numbersOf(stored, buffer), tensor) };
}

/** Copies numbers that lie apart or in another order into row-major order. */
function dense(numbers: TypedArray, tensor: TorchTensor): TypedArray {
  if (tensor.isDense) return numbers;
  const { dims, strides } = tensor;
  const count = elementCount(dims);
  const data = new (numbers.constructor as new (length: number) => TypedArray)(count);
  const at = dims.map(() => 0);
  let from = 0;
  for (let i = 0; i < count; i++) {
    data[i] = numbers[from]!;
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      from += strides[axis]!;
      if (++at[axis]! < dims[axis]!) break;
      from -= strides[axis]! * dims[axis]!;
      at[axis] = 0;
    }
  }
  return data;
}

function tooLong(source: ByteSource, length: number): UserError {
  return new UserError(
    `${source.path}: its pickle may be ${length} bytes long; at most ${longestPickle} are allowed`,
  );
}
