/** One helper for every op: values and gradients against expected numbers and against finite differences. */
import { expect } from "vitest";
import { gradients, input, ops, type Device, type Tensor } from "../../src/engine/index.js";
import { elementCount, type HostTensor } from "../../src/host-tensor.js";
import { topologicalOrder } from "../../src/engine/autodiff.js";
import type { OpName } from "../../src/engine/graph.js";

export type Inputs = Readonly<Record<string, HostTensor>>;

export interface OpCase {
  readonly label: string;
  readonly inputs: Inputs;
  readonly build: (tensors: Readonly<Record<string, Tensor>>) => Tensor;
  readonly expected?: {
    readonly output: HostTensor;
    /** The gradient of the output with which `gradients` were made. */
    readonly upstream?: HostTensor;
    /** By input; only these inputs are differentiated. */
    readonly gradients?: Inputs;
  };
  /** Inputs to differentiate when no gradients are expected; all of float32 when not given. */
  readonly differentiate?: readonly string[];
}

/** A difference is allowed up to `absolute + relative * |expected|`. */
export interface Tolerance {
  readonly absolute: number;
  readonly relative: number;
}

export interface CheckOptions {
  readonly output: Tolerance;
  readonly gradient: Tolerance;
  /**
   * Finite differences: the step as a share of the input's root mean square, and the error allowed as a
   * share of the sum of |gradient * direction|.
   */
  readonly differences: { readonly step: number; readonly share: number };
}

/** Checks one case and returns the kinds of op in its forward graph. */
export async function checkOp(
  device: Device,
  testCase: OpCase,
  options: CheckOptions,
): Promise<ReadonlySet<OpName>> {
  const { inputs, expected } = testCase;
  const tensors = Object.fromEntries(
    Object.entries(inputs).map(([name, { dtype, dims }]) => [name, input(name, dtype, dims)]),
  );
  const y = testCase.build(tensors);
  const forward = new Set(topologicalOrder([y]).map((node) => node.kind));
  const wanted =
    testCase.differentiate ??
    Object.keys(expected?.gradients ?? inputs).filter((name) => inputs[name]!.dtype === "float32");
  const differentiable = y.dtype === "float32" && wanted.length > 0;

  const dims = expected?.output.dims ?? y.shape.map(Number);
  const upstream = expected?.upstream ?? randomTensor(dims, 77);
  const outputs: Record<string, Tensor> = { y };
  if (differentiable) {
    const loss = ops.reduceSum(ops.mul(y, input("upstream", "float32", dims)));
    const made = gradients(
      loss,
      wanted.map((name) => tensors[name]!),
    );
    for (const [i, name] of wanted.entries()) outputs[`gradient of ${name}`] = made[i]!;
  }
  const program = await device.compile(outputs);
  const used = new Set(program.inputs.map(({ name }) => name));
  const feed = (values: Inputs): Inputs =>
    Object.fromEntries(Object.entries({ ...values, upstream }).filter(([name]) => used.has(name)));
  const found = await program.run(feed(inputs));

  const where = testCase.label;
  expect(found.y!.dims, `${where}: dims`).toEqual(y.shape);
  if (expected !== undefined) expectClose(`${where}: output`, found.y!, expected.output, options.output);
  for (const name of differentiable ? wanted : []) {
    const gradient = found[`gradient of ${name}`]!;
    const reference = expected?.gradients?.[name];
    if (reference !== undefined)
      expectClose(`${where}: gradient of ${name}`, gradient, reference, options.gradient);
    // The golden files also probe far ends, where float32 differences show only rounding.
    if (numbers(inputs[name]!).some((value) => Math.abs(value) > 20)) continue;

    const direction = scaled(randomTensor(inputs[name]!.dims, 5), rootMeanSquare(inputs[name]!) || 1);
    const along = async (step: number): Promise<number> => {
      const moved = axpy(inputs[name]!, step, direction);
      const { y: value } = await program.run(feed({ ...inputs, [name]: moved }));
      return dot(value!, upstream);
    };
    const slope = async (step: number): Promise<number> =>
      ((await along(step)) - (await along(-step))) / (2 * step);
    const { step, share } = options.differences;
    // Richardson's extrapolation takes the error of the step from its square to its fourth power.
    const estimate = (4 * (await slope(step / 2)) - (await slope(step))) / 3;
    const products = numbers(gradient).map((value, i) => value * Number(direction.data[i]));
    const scale = products.reduce((sum, value) => sum + Math.abs(value), 0);
    const analytic = products.reduce((sum, value) => sum + value, 0);
    const error = Math.abs(analytic - estimate);
    expect(
      error,
      `${where}: along ${name} the gradient gives ${analytic}, differences ${estimate}`,
    ).toBeLessThanOrEqual(share * scale + 1e-4);
  }
  await program.release();
  return forward;
}

/** Fails at the first value that is further from the expected one than `tolerance` allows. */
function expectClose(what: string, found: HostTensor, expected: HostTensor, tolerance: Tolerance): void {
  expect(found.dims, `${what}: dims`).toEqual(expected.dims);
  for (let i = 0; i < elementCount(expected.dims); i++) {
    const [value, wanted] = [Number(found.data[i]), Number(expected.data[i])];
    const allowed = tolerance.absolute + tolerance.relative * Math.abs(wanted);
    if (!(Math.abs(value - wanted) <= allowed)) {
      expect.fail(`${what}: value ${i} is ${value}, expected ${wanted} (allowed difference ${allowed})`);
    }
  }
}

/** Reproducible values, roughly normal. */
export function randomTensor(dims: readonly number[], seed: number): HostTensor {
  let state = seed * 2654435761;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  const data = Float32Array.from({ length: elementCount(dims) }, () => 2 * (next() + next() + next() - 1.5));
  return { dtype: "float32", dims, data };
}

/** The values of a tensor of any element type. */
export function numbers(x: HostTensor): number[] {
  return Array.from(x.data as ArrayLike<number | bigint>, Number);
}

function axpy(x: HostTensor, factor: number, direction: HostTensor): HostTensor {
  const data = Float32Array.from(
    x.data as Float32Array,
    (value, i) => value + factor * Number(direction.data[i]),
  );
  return { ...x, data };
}

function scaled(x: HostTensor, factor: number): HostTensor {
  return { ...x, data: Float32Array.from(x.data as Float32Array, (value) => value * factor) };
}

function rootMeanSquare(x: HostTensor): number {
  return Math.sqrt(dot(x, x) / Math.max(1, x.data.length));
}

function dot(a: HostTensor, b: HostTensor): number {
  return numbers(a)
    .map((value, i) => value * Number(b.data[i]))
    .reduce((x, y) => x + y, 0);
}
