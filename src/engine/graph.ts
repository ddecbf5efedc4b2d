/**
 * The symbolic graph: immutable nodes made by the op builders in `ops/`, each with its shape known (up to
 * named dimensions) when it is built. Nothing is computed here; `emit.ts` turns a graph into an ONNX
 * model and `session.ts` runs it.
 */
import { InternalError } from "../errors.js";
import type { DType, HostTensor } from "../host-tensor.js";
import { dimension, showShape, type Dim, type Shape } from "./dims.js";

type Nothing = Readonly<Record<never, never>>;

/** Every op of the engine with its attributes. The rule table must hold an entry for each key. */
export interface OpAttributes {
  // Leaves.
  input: { readonly name: string };
  parameter: { readonly name: string };
  frozen: { readonly name: string };
  constant: { readonly value: HostTensor };
  // Elementwise.
  add: Nothing;
  sub: Nothing;
  mul: Nothing;
  div: Nothing;
  maximum: Nothing;
  minimum: Nothing;
  neg: Nothing;
  exp: Nothing;
  log: Nothing;
  sqrt: Nothing;
  erf: Nothing;
  tanh: Nothing;
  sigmoid: Nothing;
  abs: Nothing;
  where: Nothing;
  cast: { readonly to: DType };
  equal: Nothing;
  less: Nothing;
  lessOrEqual: Nothing;
  and: Nothing;
  or: Nothing;
  not: Nothing;
  isFinite: Nothing;
  stopGradient: Nothing;
  // Activations.
  relu: Nothing;
  gelu: { readonly approximate: "none" | "tanh" };
  normalShare: Nothing;
  geluSlope: Nothing;
  quickGelu: Nothing;
  softmax: Nothing;
  logSoftmax: Nothing;
  layerNorm: { readonly epsilon: number };
  rmsNorm: { readonly epsilon: number };
  // Linear algebra.
  gemm: { readonly transA: boolean; readonly transB: boolean };
  matmul: { readonly transA: boolean; readonly transB: boolean; readonly alpha: number };
  // Movement.
  reshape: { readonly shape: Shape };
  transpose: { readonly permutation: readonly number[] };
  expand: { readonly shape: Shape };
  concat: { readonly axis: number };
  slice: { readonly axis: number; readonly start: Dim; readonly length: Dim };
  pad: { readonly axis: number; readonly before: Dim; readonly after: Dim };
  range: { readonly size: Dim };
  size: { readonly dim: Dim };
  zeros: { readonly shape: Shape };
  // Reductions.
  reduceSum: { readonly axes: readonly number[] };
  reduceMean: { readonly axes: readonly number[] };
  cumulativeSum: { readonly axis: number };
  argmax: Nothing;
  // Indexing.
  gatherRows: Nothing;
  scatterAddRows: { readonly rows: Dim };
  gatherLast: Nothing;
  scatterAddLast: Nothing;
  logLikelihood: Nothing;
  // Random.
  uniform: { readonly stream: number; readonly shape: Shape };
  keepMask: { readonly stream: number; readonly rate: number; readonly shape: Shape };
}

export type OpName = keyof OpAttributes;

/** An application of one op. */
export interface Node<K extends OpName = OpName> {
  readonly kind: K;
  readonly inputs: readonly Tensor[];
  readonly attributes: OpAttributes[K];
  readonly outputs: readonly Tensor[];
}

/** One symbolic value: an output of a node. */
export class Tensor {
  constructor(
    readonly node: Node,
    readonly index: number,
    readonly dtype: DType,
    readonly shape: Shape,
  ) {}

  get rank(): number {
    return this.shape.length;
  }

  toString(): string {
    return `${this.node.kind} ${this.dtype}${showShape(this.shape)}`;
  }
}

/** Builds a node and its output tensors. Op builders check their arguments before they call this. */
export function makeNode<K extends OpName>(
  kind: K,
  inputs: readonly Tensor[],
  attributes: OpAttributes[K],
  outputs: readonly { readonly dtype: DType; readonly shape: Shape }[],
): readonly Tensor[] {
  const made: Tensor[] = [];
  const node: Node<K> = { kind, inputs, attributes, outputs: made };
  for (const [index, { dtype, shape }] of outputs.entries()) made.push(new Tensor(node, index, dtype, shape));
  return made;
}

/** A node with one output. */
export function makeTensor<K extends OpName>(
  kind: K,
  inputs: readonly Tensor[],
  attributes: OpAttributes[K],
  dtype: DType,
  shape: Shape,
): Tensor {
  return makeNode(kind, inputs, attributes, [{ dtype, shape }])[0]!;
}

/** A value that the caller feeds at each run. Named dimensions are bound by what is fed. */
export function input(name: string, dtype: DType, shape: Shape): Tensor {
  return makeTensor("input", [], { name }, dtype, shape.map(dimension));
}

/** A trainable weight: fed like an input, and a valid target of `gradients`. */
export function parameter(name: string, shape: readonly number[]): Tensor {
  return makeTensor("parameter", [], { name }, "float32", shape);
}

/** A frozen weight: a constant of the emitted model, found by name among the session's weights. */
export function frozen(name: string, shape: readonly number[]): Tensor {
  return makeTensor("frozen", [], { name }, "float32", shape);
}

/** A small constant that is written into the emitted model. */
export function constant(value: HostTensor): Tensor {
  return makeTensor("constant", [], { value }, value.dtype, value.dims);
}

/** A float32 scalar constant. */
export function scalar(value: number): Tensor {
  return constant({ dtype: "float32", dims: [], data: Float32Array.of(value) });
}

/** An int64 scalar constant. */
export function integer(value: number): Tensor {
  return constant({ dtype: "int64", dims: [], data: BigInt64Array.of(BigInt(value)) });
}

/**
 * Checks a tensor against a shape written with one-letter names, for example
 * `expectShape("attention", x, "B T D", sizes)`; names seen for the first time are bound in `sizes`.
 */
export function expectShape(
  where: string,
  tensor: Tensor,
  pattern: string,
  sizes: Record<string, Dim> = {},
): void {
  const names = pattern.split(" ").filter(Boolean);
  const fail = (): never => {
    const bound = names
      .map((name) => (/^\d+$/.test(name) ? name : `${name}=${sizes[name] ?? "?"}`))
      .join(", ");
    throw new InternalError(`${where}: required [${bound}], got ${showShape(tensor.shape)}`);
  };
  if (names.length !== tensor.rank) fail();
  for (const [axis, name] of names.entries()) {
    const dim = tensor.shape[axis]!;
    if (/^\d+$/.test(name)) {
      if (dim !== Number(name)) fail();
    } else {
      const known = sizes[name];
      if (known === undefined) sizes[name] = dim;
      else if (known !== dim) fail();
    }
  }
}
