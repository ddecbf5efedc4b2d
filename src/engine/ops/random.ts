/**
 * Counter-based random numbers in the graph: value `i` of a stream is a hash of (seed, stream, i), so a
 * run that knows its seed replays its draws exactly, whatever the thread count. The hash is the
 * finaliser of SplitMix64 (Steele, Lea, Flood 2014).
 */
import { InternalError } from "../../errors.js";
import { dimension, multiplyDims, type Shape } from "../dims.js";
import { makeTensor, type Tensor } from "../graph.js";
import type { Emitter, RuleTable } from "./rule.js";

/** Independent float32 values, uniform in [0, 1), a function of `seed` (uint64 scalar) and `stream`. */
export function uniform(seed: Tensor, stream: number, shape: Shape): Tensor {
  if (seed.dtype !== "uint64" || seed.rank !== 0)
    throw new InternalError(`uniform: seed must be a uint64 scalar, got ${seed}`);
  const target = shape.map(dimension);
  return makeTensor("uniform", [seed], { stream, shape: target }, "float32", target);
}

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

export const randomRules: RuleTable<"uniform"> = {
  uniform: {
    emit: (emitter, node, inputs, outputs) => {
      const { stream, shape } = node.attributes;
      const count = emitter.node("Squeeze", [emitter.sizes([multiplyDims(...shape)])]);
      const bound = (value: bigint) =>
        emitter.constant({ dtype: "int64", dims: [], data: BigInt64Array.of(value) });
      const index = emitter.node("Cast", [emitter.node("Range", [bound(0n), count, bound(1n)])], { to: 13 });
      // The stream's own origin is hashed too, so that neighbouring streams do not overlap.
      const origin = finalise(
        emitter,
        emitter.node("Add", [inputs[0]!, uint64(emitter, golden * BigInt(stream + 1))]),
      );
      const state = emitter.node("Add", [origin, emitter.node("Mul", [index, uint64(emitter, golden)])]);
      const top = emitter.node("BitShift", [finalise(emitter, state), uint64(emitter, 40n)], {
        direction: "RIGHT",
      });
      const value = emitter.node("Mul", [
        emitter.node("Cast", [top], { to: 1 }),
        emitter.constant({ dtype: "float32", dims: [], data: Float32Array.of(2 ** -24) }),
      ]);
      emitter.node("Reshape", [value, emitter.sizes(shape)], {}, { outputs });
    },
    gradient: "random draws do not depend on weights",
  },
};
