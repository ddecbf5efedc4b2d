/** Tensors as callers of `forward` bring them, checked and brought into the form that the programs take. */
import { UserError } from "./errors.js";
import { elementCount, float32Tensor, int64Tensor, type HostTensor, type TypedArray } from "./host-tensor.js";

/** A tensor as callers have it; numbers are converted to the type that is needed. */
export interface RawTensor {
  readonly data: TypedArray | readonly number[];
  readonly dims: readonly number[];
}

/** As float32. */
export function floats(name: string, tensor: RawTensor): HostTensor {
  checkCount(name, tensor);
  return float32Tensor(
    tensor.data instanceof Float32Array
      ? tensor.data
      : Float32Array.from(tensor.data as ArrayLike<number>, Number),
    tensor.dims,
  );
}

/** As int64. */
export function integers(name: string, tensor: RawTensor): HostTensor {
  checkCount(name, tensor);
  if (tensor.data instanceof BigInt64Array) return int64Tensor(tensor.data, tensor.dims);
  const numbers = Array.from(tensor.data as ArrayLike<number>, Number);
  if (!numbers.every(Number.isSafeInteger)) throw new UserError(`forward: ${name} must hold whole numbers`);
  return int64Tensor(numbers, tensor.dims);
}

function checkCount(name: string, { data, dims }: RawTensor): void {
  if (!Array.isArray(dims) || data?.length === undefined) {
    throw new UserError(`forward: ${name} must be a tensor { data, dims }`);
  }
  if (data.length !== elementCount(dims)) {
    throw new UserError(
      `forward: ${name} has ${data.length} values, dims [${dims.join(", ")}] need ${elementCount(dims)}`,
    );
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
