/**
 * What a pickle of torch is made of: storages (runs of numbers elsewhere in the file) and tensors that look at them.
 * The names below are all that such a pickle may use; each is a function of this package.
 */
import { UserError } from "../errors.js";
import { elementCount, type DType } from "../host-tensor.js";
import { Tuple, type PickleName } from "./pickle.js";
import { quoted } from "../quoted.js";

/** How numbers are stored, and as what they are read: float64 is rounded to float32 and int16 widened to int32. */
export interface StoredType {
  readonly stored: DType | "float64" | "int16";
  readonly bytes: number;
  readonly dtype: DType;
}

const same = (stored: DType, bytes: number): StoredType => ({ stored, bytes, dtype: stored });

const storedTypes: Readonly<Record<string, StoredType>> = {
  FloatStorage: same("float32", 4),
  HalfStorage: same("float16", 2),
  BFloat16Storage: same("bfloat16", 2),
  DoubleStorage: { stored: "float64", bytes: 8, dtype: "float32" },
  LongStorage: same("int64", 8),
  IntStorage: same("int32", 4),
  ShortStorage: { stored: "int16", bytes: 2, dtype: "int32" },
  CharStorage: same("int8", 1),
  ByteStorage: same("uint8", 1),
  BoolStorage: same("bool", 1),
};

class StorageClass {
  constructor(readonly type: StoredType) {}
}

export class Storage {
  constructor(
    readonly key: string,
    readonly type: StoredType,
    /** Numbers in it. */
    readonly count: number,
    /** Numbers of `key`'s run before it: views of old files. */
    readonly start = 0,
  ) {}
}

export class TorchTensor {
  constructor(
    readonly storage: Storage,
    /** The first number, counted in the storage. */
    readonly offset: number,
    readonly dims: readonly number[],
    /** Numbers from one step along an axis to the next. */
    readonly strides: readonly number[],
  ) {}

  /** One more than the last number of the storage that the tensor uses; `offset` if it is empty. */
  get end(): number {
    if (this.dims.includes(0)) return this.offset;
    return this.offset + this.dims.reduce((sum, size, axis) => sum + (size - 1) * this.strides[axis]!, 1);
  }

  /** Whether its numbers stand in the storage as they do in a dense row-major tensor. */
  get isDense(): boolean {
    let step = 1;
    for (let axis = this.dims.length - 1; axis >= 0; axis--) {
      if (this.dims[axis] !== 1 && this.strides[axis] !== step) return elementCount(this.dims) === 0;
      step *= this.dims[axis]!;
    }
    return true;
  }
}

const mostAxes = 64;

/**
 * Names that checkpoints of training runs use beside their tensors, in configurations, counters and optimizers. They stand for
 * nothing: what is built with them is skipped. Everything that could do harm in Python is not among them, so that a file
 * that asks for it is refused and not passed over.
 */
const inertNames = new Set([
  ...["Any", "Dict", "List", "Optional", "Tuple", "Union"].map((name) => `typing.${name}`),
  ...["builtins", "__builtin__"].flatMap((module) =>
    [
      "bool",
      "bytearray",
      "bytes",
      "complex",
      "dict",
      "float",
      "frozenset",
      "int",
      "list",
      // Python 2 calls int and str so, and so does protocol 2.
      "long",
      "object",
      "range",
      "set",
      "slice",
      "str",
      "tuple",
      "unicode",
    ].map((name) => `${module}.${name}`),
  ),
  "argparse.Namespace",
  "collections.Counter",
  "collections.defaultdict",
  "collections.deque",
  "copy_reg._reconstructor",
  "copyreg._reconstructor",
  ...["date", "datetime", "time", "timedelta", "timezone"].map((name) => `datetime.${name}`),
  "decimal.Decimal",
  ...["numpy.core", "numpy._core"].flatMap((module) =>
    ["multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer"].map(
      (name) => `${module}.${name}`,
    ),
  ),
  "numpy.dtype",
  "numpy.ndarray",
  ...["bool_", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"].map(
    (name) => `numpy.${name}`,
  ),
  ...["pathlib", "pathlib._local"].flatMap((module) =>
    ["Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"].map(
      (name) => `${module}.${name}`,
    ),
  ),
  "types.SimpleNamespace",
  "uuid.UUID",
  "_codecs.encode",
  "torch.Size",
  "torch.device",
  ...["float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"].map(
    (name) => `torch.${name}`,
  ),
]);

const functions: Readonly<Record<string, (args: readonly unknown[], at: string) => unknown>> = {
  "collections.OrderedDict": (args, at) => {
    if (args.length > 0) throw new UserError(`${at}: no arguments are allowed, got ${args.length}`);
    return new Map();
  },
  "torch._utils._rebuild_tensor_v2": rebuildTensor,
  "torch._utils._rebuild_parameter": ([tensor, ...rest], at) => {
    if (!(tensor instanceof TorchTensor) || rest.length !== 2)
      throw new UserError(`${at}: a tensor and two more arguments are required`);
    return tensor;
  },
};

/** The closed list of names for `readPickle`. */
export function torchName(name: string): PickleName | undefined {
  if (Object.hasOwn(functions, name)) return { kind: "function", call: functions[name]! };
  const storage = name.startsWith("torch.") ? name.slice("torch.".length) : "";
  if (Object.hasOwn(storedTypes, storage))
    return { kind: "value", value: new StorageClass(storedTypes[storage]!) };
  if (inertNames.has(name) || /^omegaconf(\.\w+)+$/.test(name)) return { kind: "inert" };
  return undefined;
}

/**
 * The storage that a persistent id names: ("storage", class, key, location, count), in old files with a view, null or
 * (key, start, count), behind.
 */
export function storageOf(id: unknown, at: string): Storage {
  const wrong = (why: string): UserError => new UserError(`${at}: the storage ${why}`);
  if (!(id instanceof Tuple) || id.items[0] !== "storage") throw wrong("has no id of torch's form");
  const [, type, key, , count, view] = id.items;
  if (!(type instanceof StorageClass)) throw wrong("has no element type");
  if (typeof key !== "string" || !/^\w{1,64}$/.test(key))
    throw wrong(
      `has the key ${typeof key === "string" ? quoted(key) : typeof key}; letters and digits are required`,
    );
  if (!isCount(count)) throw wrong(`${quoted(key)} has no count of numbers`);
  if (view === undefined || view === null) return new Storage(key, type.type, count);
  const [, start, viewCount] = view instanceof Tuple ? view.items : [];
  if (!isCount(start) || !isCount(viewCount) || start + viewCount > count)
    throw wrong(`${quoted(key)} is viewed outside its ${count} numbers`);
  return new Storage(key, type.type, viewCount, start);
}

function rebuildTensor(args: readonly unknown[], at: string): TorchTensor {
  const wrong = (why: string): UserError => new UserError(`${at}: ${why}`);
  if (args.length !== 6 && args.length !== 7)
    throw wrong(`6 or 7 arguments are required, got ${args.length}`);
  const [storage, offset, size, stride, , hooks, metadata] = args;
  if (!(storage instanceof Storage)) throw wrong("a storage is required");
  const [dims, strides] = [countsOf(size), countsOf(stride)];
  if (!isCount(offset) || dims === undefined || strides === undefined || dims.length !== strides.length)
    throw wrong("an offset, sizes and as many strides are required, all whole numbers from 0 on");
  if (dims.length > mostAxes) throw wrong(`a tensor of ${dims.length} axes is too much (${mostAxes})`);
  for (const extra of [hooks, metadata]) {
    // A conjugate or negative bit, or hooks, would change what the numbers mean.
    if (extra !== undefined && extra !== null && !(extra instanceof Map && extra.size === 0))
      throw wrong("hooks and metadata must be empty");
  }
  const tensor = new TorchTensor(storage, offset, dims, strides);
  if (!(tensor.end <= storage.count))
    throw wrong(
      `a tensor [${dims.join(", ")}] from number ${offset} on with strides [${strides.join(", ")}] leaves its storage ${quoted(storage.key)} of ${storage.count}`,
    );
  // A stride of 0 repeats numbers without storing them; no checkpoint needs that, and it would know no bounds.
  if (elementCount(dims) > storage.count)
    throw wrong(
      `a tensor [${dims.join(", ")}] has more numbers than its storage ${quoted(storage.key)} (${storage.count})`,
    );
  return tensor;
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function countsOf(value: unknown): readonly number[] | undefined {
  return value instanceof Tuple && value.items.every(isCount) ? value.items : undefined;
}
