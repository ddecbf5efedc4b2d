/**
 * Counter-based random numbers in the graph: value `i` of a stream is a hash of (seed, stream, i), so a
 * run that knows its seed replays its draws exactly, whatever the thread count. The hash is the
 * finaliser of SplitMix64 (Steele, Lea, Flood 2014).
 */
import { InternalError } from "../../errors.js";
import { dimension, multiplyDims, type Dim, type Shape } from "../dims.js";
import { makeTensor, type Tensor } from "../graph.js";
import { onnxType } from "./elementwise.js";
import { int64Vector } from "./movement.js";
import type { Emitter, RuleTable } from "./rule.js";

/** Independent float32 values, uniform in [0, 1), a function of `seed` (uint64 scalar) and `stream`. */
export function uniform(seed: Tensor, stream: number, shape: Shape): Tensor {
  checkSeed("uniform", seed);
  const target = shape.map(dimension);
  return makeTensor("uniform", [seed], { stream, shape: target }, "float32", target);
}

function checkSeed(where: string, seed: Tensor): void {
  if (seed.dtype !== "uint64" || seed.rank !== 0) {
    throw new InternalError(`${where}: seed must be a uint64 scalar, got ${seed}`);
  }
}

/** TensorProto.UINT32, which does not occur outside the graph. */
const uint32Type = 12;

/** A uint32 scalar; the runtime folds the cast when it loads the graph. */
const uint32 = (emitter: Emitter, value: number): string =>
  emitter.node(
    "Cast",
    [emitter.constant({ dtype: "int64", dims: [], data: BigInt64Array.of(BigInt(value)) })],
    { to: uint32Type },
  );

const uint64 = (emitter: Emitter, value: bigint) =>
  emitter.constant({ dtype: "uint64", dims: [], data: BigUint64Array.of(BigInt.asUintN(64, value)) });

const golden = 0x9e3779b97f4a7c15n;

function finalise(emitter: Emitter, state: string): string {
  const xorShift = (value: string, bits: bigint) =>
    emitter.node("BitwiseXor", [
      value,
      emitter.node("BitShift", [value, uint64(emitter, bits)], { direction: "RIGHT" }),
    ]);
  let z = emitter.node("Mul", [xorShift(state, 30n), uint64(emitter, 0xbf58476d1ce4e5b9n)]);
  z = emitter.node("Mul", [xorShift(z, 27n), uint64(emitter, 0x94d049bb133111ebn)]);
  return xorShift(z, 31n);
}

/**
 * A dropout mask: 0 for a share `rate` of the places, 1 / (1 - rate) for the others, a function of `seed`
 * (uint64 scalar) and `stream`. Each row and each column of the last axis has a hashed key; a place is
 * decided by their mixed sum. That takes a fifth of the work of `uniform`.
 */
export function keepMask(seed: Tensor, stream: number, rate: number, shape: Shape): Tensor {
  checkSeed("keepMask", seed);
  if (!(rate > 0 && rate < 1))
    throw new InternalError(`keepMask: rate must lie between 0 and 1, got ${rate}`);
  const target = shape.map(dimension);
  return makeTensor("keepMask", [seed], { stream, rate, shape: target }, "float32", target);
}

/** The numbers 0 to count - 1 as uint64. */
function indices(emitter: Emitter, count: Dim): string {
  const limit = emitter.node("Squeeze", [emitter.sizes([count])]);
  const bound = (value: bigint) =>
    emitter.constant({ dtype: "int64", dims: [], data: BigInt64Array.of(value) });
  return emitter.node("Cast", [emitter.node("Range", [bound(0n), limit, bound(1n)])], {
    to: onnxType("uint64"),
  });
}

/** The start of a stream, hashed, so that neighbouring streams do not overlap. */
function originOf(emitter: Emitter, seed: string, stream: number): string {
  return finalise(emitter, emitter.node("Add", [seed, uint64(emitter, golden * BigInt(stream + 1))]));
}

/** Value `i` of the sequence that starts at `origin`, hashed. */
function hashed(emitter: Emitter, origin: string, index: string): string {
  const offset = emitter.node("Mul", [index, uint64(emitter, golden)]);
  return finalise(emitter, emitter.node("Add", [origin, offset]));
}

const shiftRight = (emitter: Emitter, value: string, bits: string): string =>
  emitter.node("BitShift", [value, bits], { direction: "RIGHT" });

export const randomRules: RuleTable<"uniform" | "keepMask"> = {
  uniform: {
    emit: (emitter, node, inputs, outputs) => {
      const { stream, shape } = node.attributes;
      const origin = originOf(emitter, inputs[0]!, stream);
      const bits = hashed(emitter, origin, indices(emitter, multiplyDims(...shape)));
      const top = shiftRight(emitter, bits, uint64(emitter, 40n));
      const value = emitter.node("Mul", [
        emitter.node("Cast", [top], { to: onnxType("float32") }),
        emitter.constant({ dtype: "float32", dims: [], data: Float32Array.of(2 ** -24) }),
      ]);
      emitter.node("Reshape", [value, emitter.sizes(shape)], {}, { outputs });
    },
    gradient: "random draws do not depend on weights",
  },
  keepMask: {
    emit: (emitter, node, inputs, outputs) => {
      const { stream, rate, shape } = node.attributes;
      const origin = originOf(emitter, inputs[0]!, stream);
      const keys = (start: string, count: Dim, dims: readonly number[]): string => {
        const high = shiftRight(
          emitter,
          hashed(emitter, start, indices(emitter, count)),
          uint64(emitter, 32n),
        );
        const narrow = emitter.node("Cast", [high], { to: uint32Type });
        return emitter.node("Reshape", [narrow, emitter.constant(int64Vector(dims))]);
      };
      const rows = keys(origin, multiplyDims(...shape.slice(0, -1)), [-1, 1]);
      const otherOrigin = emitter.node("BitwiseXor", [origin, uint64(emitter, -1n)]);
      const columns = keys(otherOrigin, shape.at(-1) ?? 1, [1, -1]);
      let z = emitter.node("Add", [rows, columns]);
      z = emitter.node("BitwiseXor", [z, shiftRight(emitter, z, uint32(emitter, 16))]);
      // A multiplier of MurmurHash3's finaliser; the comparison reads the high bits.
      z = emitter.node("Mul", [z, uint32(emitter, 0x85ebca6b)]);
      const keep = emitter.node("Less", [uint32(emitter, Math.round(rate * 2 ** 32) - 1), z]);
      const scale = emitter.constant({ dtype: "float32", dims: [], data: Float32Array.of(1 / (1 - rate)) });
      const flat = emitter.node("Mul", [emitter.node("Cast", [keep], { to: onnxType("float32") }), scale]);
      emitter.node("Reshape", [flat, emitter.sizes(shape)], {}, { outputs });
    },
    gradient: "random draws do not depend on weights",
  },
};
