/** Plain tensors on the JavaScript side: what crosses file, thread and library borders. */
import { InternalError } from "./errors.js";

/** Element types. `float16` and `bfloat16` are held as their bit patterns in a `Uint16Array`. */
export type DType =
  "float32" | "float16" | "bfloat16" | "int64" | "int32" | "uint64" | "uint8" | "int8" | "bool";

export type TypedArray =
  Float32Array | Uint16Array | BigInt64Array | BigUint64Array | Int32Array | Uint8Array | Int8Array;

/** A dense tensor in row-major order. */
export interface HostTensor {
  readonly dtype: DType;
  readonly dims: readonly number[];
  readonly data: TypedArray;
}

/** A dense tensor that still lies in a file: row-major, little-endian, `length` bytes from byte `offset` on. */
export interface StoredTensor {
  readonly dtype: DType;
  readonly dims: readonly number[];
  readonly file: string;
  readonly offset: number;
  readonly length: number;
}

/**
 * A matrix [N, K] of a linear layer, held in few bits.
 * "int8": `values` int8 [K, N], one scale per row n: w[n, k] = scales[n] values[k, n].
 * "int4": `values` uint8 [N, K / block, block / 2], two values in a byte, the even k in the lower half;
 * `scales` [N, K / block], rounded up where K does not divide: w[n, k] = scales[n, k / block] (value - 8).
 */
export interface QuantisedMatrix {
  readonly quantised: "int8" | "int4";
  readonly dims: readonly [n: number, k: number];
  readonly values: HostTensor | StoredTensor;
  readonly scales: HostTensor | StoredTensor;
  /** The same matrix as it was, where its rows are also looked up: a word table that is the head too. */
  readonly table?: HostTensor | StoredTensor;
}

/** What a frozen weight may be held as. */
export type FrozenValue = HostTensor | StoredTensor | QuantisedMatrix;

export const bytesPerElement: { readonly [K in DType]: number } = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  int64: 8,
  int32: 4,
  uint64: 8,
  uint8: 1,
  int8: 1,
  bool: 1,
};

/** Number of elements of a shape; 1 for a scalar. */
export function elementCount(dims: readonly number[]): number {
  return dims.reduce((product, size) => product * size, 1);
}

/** A float32 tensor over `values`; throws if the count is not the product of `dims`. */
export function float32Tensor(values: Float32Array | readonly number[], dims: readonly number[]): HostTensor {
  const data = values instanceof Float32Array ? values : Float32Array.from(values);
  return checked({ dtype: "float32", dims, data });
}

/** An int64 tensor over whole numbers; throws if the count is not the product of `dims`. */
export function int64Tensor(values: ArrayLike<number> | BigInt64Array, dims: readonly number[]): HostTensor {
  const data = values instanceof BigInt64Array ? values : BigInt64Array.from(Array.from(values), BigInt);
  return checked({ dtype: "int64", dims, data });
}

function checked(tensor: HostTensor): HostTensor {
  if (tensor.data.length !== elementCount(tensor.dims)) {
    throw new InternalError(
      `host tensor: [${tensor.dims.join(", ")}] needs ${elementCount(tensor.dims)} values, got ${tensor.data.length}`,
    );
  }
  return tensor;
}
