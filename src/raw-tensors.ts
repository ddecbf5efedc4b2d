/** Tensors as callers of `forward` bring them, checked and brought into the form that the programs take. */
import { show } from "./check-options.js";
import { UserError } from "./errors.js";
import { elementCount, float32Tensor, int64Tensor, type HostTensor, type TypedArray } from "./host-tensor.js";

/** A tensor as callers have it; numbers are converted to the type that is needed. */
export interface RawTensor {
  readonly data: TypedArray | readonly number[];
  readonly dims: readonly number[];
}

/** As float32, all numbers. Throws a `UserError` that names the tensor. */
export function floats(name: string, tensor: RawTensor): HostTensor {
  checkForm(name, tensor);
  const { data, dims } = tensor;
  if (data instanceof BigInt64Array || data instanceof BigUint64Array)
    throw new UserError(`forward: ${name} holds 64-bit whole numbers; numbers with fractions are required`);
  const values = data instanceof Float32Array ? unshared(data) : Float32Array.from(data, Number);
  const odd = values.findIndex((value) => !Number.isFinite(value));
  if (odd >= 0)
    throw new UserError(`forward: ${name} holds ${values[odd]} at place ${odd}; finite numbers are required`);
  return float32Tensor(values, [...dims]);
}

/** As int64, in memory of its own. Throws a `UserError` that names the tensor. */
export function integers(name: string, tensor: RawTensor): HostTensor {
  checkForm(name, tensor);
  const { data, dims } = tensor;
  if (data instanceof BigInt64Array) return int64Tensor(BigInt64Array.from(data), [...dims]);
  const numbers = Array.from(data as ArrayLike<number>, Number);
  const odd = numbers.findIndex((value) => !Number.isSafeInteger(value));
  if (odd >= 0)
    throw new UserError(
      `forward: ${name} must hold whole numbers, ${String(data[odd])} at place ${odd} is none of at most 2^53`,
    );
  return int64Tensor(numbers, [...dims]);
}

/** Memory that threads share, or that may still grow, cannot be handed to the runtime: a copy can. */
function unshared(data: Float32Array): Float32Array {
  const { buffer } = data;
  const isPlain = buffer instanceof ArrayBuffer && !(buffer as { resizable?: boolean }).resizable;
  return isPlain ? data : Float32Array.from(data);
}

/** The numbers and their shape. Values of the wrong kind would be taken for numbers: null for 0, half floats for their bits. */
function checkForm(name: string, tensor: RawTensor): void {
  const { data, dims, dtype } = (tensor as (RawTensor & { readonly dtype?: unknown }) | null) ?? {};
  const isList = Array.isArray(data) || (ArrayBuffer.isView(data) && !(data instanceof DataView));
  if (!Array.isArray(dims) || !isList) {
    throw new UserError(
      `forward: ${name} must be a tensor { data, dims }, with data an array of numbers or a typed array, and dims an array`,
    );
  }
  if (dtype === "float16" || dtype === "bfloat16")
    throw new UserError(`forward: ${name} is of ${dtype}, held as bits; convert it to float32`);
  const odd = dims.findIndex((size) => !Number.isSafeInteger(size) || size < 0);
  if (odd >= 0)
    throw new UserError(
      `forward: ${name} has a size of ${show(dims[odd])} in dims; whole numbers from 0 are required`,
    );
  if (data.length !== elementCount(dims)) {
    throw new UserError(
      `forward: ${name} has ${data.length} values, dims [${dims.join(", ")}] need ${elementCount(dims)}`,
    );
  }
  if (!Array.isArray(data)) return;
  const wrong = data.findIndex((value: unknown) => typeof value !== "number" && typeof value !== "bigint");
  if (wrong >= 0)
    throw new UserError(
      `forward: ${name} holds ${show(data[wrong])} at place ${wrong}; numbers are required`,
    );
}

/** Throws a `UserError` unless all are rows of a table, or `other`. */
export function checkIds(name: string, { data }: HostTensor, rows: number, other?: number): void {
  const allowed = other === undefined ? undefined : BigInt(other);
  const wrong = (data as BigInt64Array).find((id) => (id < 0n || id >= BigInt(rows)) && id !== allowed);
  if (wrong === undefined) return;
  const besides = other === undefined ? "" : ` and ${other}`;
  throw new UserError(`forward: ${name} holds ${wrong}; ids from 0 to ${rows - 1}${besides} are required`);
}

/** Throws a `UserError` unless a matrix holds 0 and 1 alone, and 1 somewhere in each row. */
export function checkMask(name: string, { data, dims }: HostTensor): void {
  const [rows = 0, columns = 0] = dims;
  const values = data as BigInt64Array;
  const wrong = values.find((value) => value !== 0n && value !== 1n);
  if (wrong !== undefined) throw new UserError(`forward: ${name} holds ${wrong}; 0 and 1 are required`);
  if (columns === 0) return;
  for (let row = 0; row < rows; row++) {
    if (values.subarray(row * columns, (row + 1) * columns).includes(1n)) continue;
    throw new UserError(`forward: row ${row} of ${name} is 0 everywhere; a real position is required`);
  }
}

/** Throws a `UserError` unless the tensor has these dims. */
export function requireDims(name: string, { dims }: HostTensor, required: readonly number[]): void {
  if (dims.length !== required.length || dims.some((size, axis) => size !== required[axis])) {
    throw new UserError(`forward: ${name} must have dims [${required.join(", ")}], got [${dims.join(", ")}]`);
  }
}

/** The text behind the image tokens. ids: int64 [B, Q + T] -> [B, T]. */
export function withoutImageTokens(ids: HostTensor, imageToken: number, queries: number): HostTensor {
  const [batch, length] = ids.dims as [number, number];
  const data = ids.data as BigInt64Array;
  const text = new BigInt64Array(batch * Math.max(0, length - queries));
  for (let b = 0; b < batch; b++) {
    const row = data.subarray(b * length, (b + 1) * length);
    const isLeading = row.subarray(0, queries).every((id) => id === BigInt(imageToken));
    if (length < queries || !isLeading || row.subarray(queries).includes(BigInt(imageToken))) {
      throw new UserError(
        `forward: each row of inputIds must begin with ${queries} image tokens (${imageToken}) and have no others; row ${b} does not`,
      );
    }
    text.set(row.subarray(queries), b * (length - queries));
  }
  return int64Tensor(text, [batch, length - queries]);
}

/** `count` columns of one value before a matrix. int64 [B, T] -> [B, count + T]. */
export function withLeading(tensor: HostTensor, count: number, value: bigint): HostTensor {
  const [batch, length] = tensor.dims as [number, number];
  const data = new BigInt64Array(batch * (count + length)).fill(value);
  for (let b = 0; b < batch; b++) {
    data.set(
      (tensor.data as BigInt64Array).subarray(b * length, (b + 1) * length),
      b * (count + length) + count,
    );
  }
  return int64Tensor(data, [batch, count + length]);
}
