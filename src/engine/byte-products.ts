/**
 * Whether this processor multiplies bytes without loss, and what to do where it does not.
 *
 * Before VNNI, x86 adds pairs of products of an unsigned and a signed byte in 16 bits, which saturates: 64 products of
 * 255 and 127 give 1,048,544 in place of 2,072,640. Products of unsigned bytes are widened first and exact on the same
 * processors, at about half the speed. So there the weights are read as unsigned bytes around 128. The whole numbers that
 * come out are the same in both forms, and the copies on the disk serve both.
 */
import { InternalError, UserError } from "../errors.js";
import { float32Tensor, type HostTensor, type QuantisedMatrix } from "../host-tensor.js";
import { frozen, input, type Tensor } from "./graph.js";
import { linear } from "./ops/composed.js";
import type { ByteProducts } from "./ops/rule.js";

/** Computes a graph of the input `x` with the frozen weight `w`, its byte products in the given form. */
export type Multiply = (
  products: ByteProducts,
  outputs: { readonly y: Tensor },
  x: HostTensor,
  w: QuantisedMatrix,
) => Promise<ArrayLike<number | bigint>>;

/** Inner size and outputs: whole vectors of every kernel. The rows are one, for which kernels differ, or several. */
const [inner, width] = [64, 32];
const heights = [1, 9];

/**
 * The fastest form that is exact here, by the largest products there are, 255 times 127 (and times -127).
 * Throws `UserError` if no form is.
 */
export async function probeByteProducts(multiply: Multiply): Promise<ByteProducts> {
  for (const products of ["signed", "unsigned"] as const) {
    if (await isExact(products, multiply)) return products;
  }
  throw new UserError(
    "this processor computes products of bytes wrongly in every form that is known here; use the precision fp32",
  );
}

async function isExact(products: ByteProducts, multiply: Multiply): Promise<boolean> {
  const outputs = { y: linear(input("x", "float32", ["M", inner]), frozen("w", [width, inner])) };
  const w: QuantisedMatrix = {
    quantised: "int8",
    dims: [width, inner],
    // Odd outputs are negative.
    values: {
      dtype: "int8",
      dims: [inner, width],
      data: Int8Array.from({ length: inner * width }, (_, i) => (i % 2 === 0 ? 127 : -127)),
    },
    scales: float32Tensor(new Float32Array(width).fill(1), [width]),
  };
  for (const rows of heights) {
    // Each row's largest value is 127, which becomes 127 + 128 = 255.
    const x = float32Tensor(new Float32Array(rows * inner).fill(127), [rows, inner]);
    const y = await multiply(products, outputs, x, w);
    if (y.length !== rows * width) throw new InternalError(`probeByteProducts: got ${y.length} values`);
    for (let i = 0; i < y.length; i++) {
      const right = (i % 2 === 0 ? 1 : -1) * inner * 127 * 127;
      // All but the scaling is in whole numbers, and saturation is off by far more than that rounds.
      if (Math.abs(Number(y[i]) - right) > 1) return false;
    }
  }
  return true;
}

let known: Promise<ByteProducts> | undefined;

/** The same, asked of the processor once in a process. */
export function byteProductsHere(multiply: Multiply): Promise<ByteProducts> {
  known ??= probeByteProducts(multiply).catch((error: unknown) => {
    known = undefined;
    throw error;
  });
  return known;
}
