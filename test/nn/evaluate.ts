/** Runs small graphs in tests. */
import type { Device, HostTensors, Tensor } from "../../src/engine/index.js";
import { openDevice } from "../../src/engine/node.js";
import { elementCount, type HostTensor } from "../../src/host-tensor.js";

/** A device with one thread: the tests' graphs are tiny. */
export const testDevice = (): Device => openDevice({ threads: 1 });

/**
 * Compiles the graph of `outputs`, runs it once and frees it. `weights` serve frozen and trainable
 * leaves alike; of `feeds` only what the graph reads is fed.
 */
export async function evaluate(
  device: Device,
  outputs: Readonly<Record<string, Tensor>>,
  feeds: HostTensors = {},
  weights: ReadonlyMap<string, HostTensor> = new Map(),
): Promise<HostTensors> {
  const program = await device.compile(outputs, { weights });
  const values = { ...Object.fromEntries(weights), ...feeds };
  const wanted = program.inputs.flatMap(({ name }) => {
    const value = values[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  const result = await program.run(Object.fromEntries(wanted));
  await program.release();
  return result;
}

/** The numbers of a tensor as nested lists. */
export function nested(tensor: HostTensor): unknown {
  const build = (axis: number, start: number): unknown => {
    if (axis === tensor.dims.length) return Number(tensor.data[start]);
    const width = elementCount(tensor.dims.slice(axis + 1));
    return Array.from({ length: tensor.dims[axis]! }, (_, i) => build(axis + 1, start + i * width));
  };
  return build(0, 0);
}

/** Rows `from` to `to` of the first axis. */
export function rowsOf(tensor: HostTensor, from: number, to: number): HostTensor {
  return sliceOf(tensor, 0, from, to);
}

/** Entries `from` to `to` of one axis. */
export function sliceOf(tensor: HostTensor, axis: number, from: number, to: number): HostTensor {
  const outer = elementCount(tensor.dims.slice(0, axis));
  const inner = elementCount(tensor.dims.slice(axis + 1));
  const size = tensor.dims[axis]!;
  const width = (to - from) * inner;
  const data = new (tensor.data.constructor as Float32ArrayConstructor)(outer * width);
  for (let i = 0; i < outer; i++) {
    const start = (i * size + from) * inner;
    data.set(tensor.data.subarray(start, start + width) as Float32Array, i * width);
  }
  return { ...tensor, dims: tensor.dims.map((dim, i) => (i === axis ? to - from : dim)), data };
}
