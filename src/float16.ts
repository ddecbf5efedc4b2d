/** Conversions between float32 and the two 16-bit float formats (Node 20 has no Float16Array). */
import { InternalError, UserError } from "./errors.js";
import { type HostTensor } from "./host-tensor.js";

let halfTable: Float32Array | undefined;

/** The float32 value of each of the 65,536 float16 bit patterns; NaNs keep their sign and payload. */
function halfValues(): Float32Array {
  if (halfTable) return halfTable;
  const bits = new Uint32Array(65536);
  const values = new Float32Array(bits.buffer);
  for (let half = 0; half < 65536; half++) {
    const sign = (half & 0x8000) << 16;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 31) bits[half] = sign | 0x7f800000 | (fraction << 13);
    else if (exponent > 0) bits[half] = sign | ((exponent + 112) << 23) | (fraction << 13);
    else {
      values[half] = fraction * 2 ** -24;
      bits[half]! |= sign;
    }
  }
  return (halfTable = values);
}

/** float32 values of float16 bit patterns, exactly. */
export function halfToFloat32(halves: Uint16Array): Float32Array {
  const table = halfValues();
  // Copied as bits: an engine may quieten a signalling NaN that passes through a float register.
  const from = new Uint32Array(table.buffer);
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = from[halves[i]!]!;
  return new Float32Array(bits.buffer);
}

/** float32 values of bfloat16 bit patterns, exactly. */
export function bfloatToFloat32(bfloats: Uint16Array): Float32Array {
  const bits = new Uint32Array(bfloats.length);
  for (let i = 0; i < bfloats.length; i++) bits[i] = bfloats[i]! << 16;
  return new Float32Array(bits.buffer);
}

/**
 * float16 bit patterns of float32 values, rounded to nearest, ties to even. Infinities and NaNs stay what they are.
 * Returns the index of the first finite value that is too large (its magnitude rounds to 65,536 or more) as `overflow`, else -1.
 */
export function float32ToHalf(values: Float32Array): { halves: Uint16Array; overflow: number } {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  let overflow = -1;
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i]!;
    const sign = (x >>> 16) & 0x8000;
    const magnitude = x & 0x7fffffff;
    if (magnitude >= 0x38800000 && magnitude < 0x477ff000) {
      // Normal in float16: re-bias the exponent, add half an ulp less one, and one more if the kept part is odd.
      halves[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
    } else if (magnitude < 0x38800000) {
      halves[i] = sign | subnormalHalf(magnitude);
    } else if (magnitude > 0x7f800000) {
      halves[i] = sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
    } else {
      if (magnitude < 0x7f800000 && overflow < 0) overflow = i;
      halves[i] = sign | 0x7c00;
    }
  }
  return { halves, overflow };
}

/** `magnitude` is a float32 pattern below 2^-14; the result counts steps of 2^-24 and may round up to 2^-14. */
function subnormalHalf(magnitude: number): number {
  const exponent = magnitude >>> 23;
  if (exponent < 102) return 0;
  const significand = (magnitude & 0x7fffff) | 0x800000;
  const shift = 126 - exponent;
  const kept = significand >>> shift;
  const rest = significand & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return kept + (rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0);
}

/** The same tensor as float32; float32 itself is returned as it is. Throws `InternalError` for dtypes that are not floats. */
export function toFloat32(tensor: HostTensor): HostTensor {
  switch (tensor.dtype) {
    case "float32":
      return tensor;
    case "float16":
      return { dtype: "float32", dims: tensor.dims, data: halfToFloat32(tensor.data as Uint16Array) };
    case "bfloat16":
      return { dtype: "float32", dims: tensor.dims, data: bfloatToFloat32(tensor.data as Uint16Array) };
    default:
      throw new InternalError(
        `toFloat32: a float tensor is required, got ${tensor.dtype} [${tensor.dims.join(", ")}]`,
      );
  }
}

/**
 * The same tensor as float16; float16 itself is returned as it is.
 * Throws `UserError` naming `name` if a finite value is beyond float16's range, `InternalError` for dtypes that are not floats.
 */
export function toFloat16(tensor: HostTensor, name: string): HostTensor {
  if (tensor.dtype === "float16") return tensor;
  const values = toFloat32(tensor).data as Float32Array;
  const { halves, overflow } = float32ToHalf(values);
  if (overflow >= 0) {
    throw new UserError(
      `tensor ${name}: element ${overflow} is ${values[overflow]}, but float16 ends at 65504; store this model as float32`,
    );
  }
  return { dtype: "float16", dims: tensor.dims, data: halves };
}
