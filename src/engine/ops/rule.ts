/** What every op declares beside its builder: how it is written as ONNX, and how gradients pass it. */
import type { DType, HostTensor, StoredTensor } from "../../host-tensor.js";
import type { Dim, Shape } from "../dims.js";
import type { Node, OpName, Tensor } from "../graph.js";

/** An ONNX attribute value; a whole number is an INT, `{ float }` a FLOAT. */
export type OnnxAttribute =
  number | string | readonly number[] | { readonly float: number } | { readonly tensor: HostTensor };

/** How 8-bit weights stand in a product: as they are held, or shifted to 0..255; see `byte-products.ts`. */
export type ByteProducts = "signed" | "unsigned";

/** What an op's `emit` may call. Names are ONNX value names. */
export interface Emitter {
  /** The form of products of bytes that is exact where the model will run. */
  readonly byteProducts: ByteProducts;
  /** Appends an ONNX node with one output and returns that output's name. */
  node(
    type: string,
    inputs: readonly string[],
    attributes?: Readonly<Record<string, OnnxAttribute>>,
    options?: NodeOptions,
  ): string;
  /** A constant, shared when its contents are equal. */
  constant(value: HostTensor): string;
  /** A constant under a name of its own, in memory or in a file; written once. Returns `name`. */
  initializer(name: string, value: HostTensor | StoredTensor): string;
  /** A one-axis int64 value holding these dimensions, computed at run time where they are named. */
  sizes(shape: Shape): string;
}

export interface NodeOptions {
  readonly domain?: string;
  /** Output names to use; those not given are made up. */
  readonly outputs?: readonly string[];
}

export interface OpRule<K extends OpName> {
  /**
   * Writes the node. `inputs` and `outputs` are ONNX names; each output in `outputs` must be produced.
   */
  readonly emit: (
    emitter: Emitter,
    node: Node<K>,
    inputs: readonly string[],
    outputs: readonly string[],
  ) => void;
  /**
   * The gradients of the inputs, in order, given those of the outputs (undefined where none arrives).
   * Only inputs with `wants[i]` may be given one: no node is built for a gradient that nobody asked for.
   * A string says why an op passes none.
   */
  readonly gradient: GradientRule<K> | string;
}

export type GradientRule<K extends OpName> = (context: GradientContext<K>) => readonly (Tensor | undefined)[];

export interface GradientContext<K extends OpName> {
  readonly node: Node<K>;
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  /** The gradient of output 0. */
  readonly upstream: Tensor;
  readonly wants: readonly boolean[];
  /** The op builders, handed in so that op files need not import each other in a circle. */
  readonly ops: GradientOps;
}

type Binary = (a: Tensor | number, b: Tensor | number) => Tensor;
type Unary = (x: Tensor) => Tensor;
type Reshaping = (x: Tensor, shape: Shape) => Tensor;
interface ProductOptions {
  readonly transA?: boolean;
  readonly transB?: boolean;
}

/** The builders of `ops.ts` that gradients are made of. */
export interface GradientOps {
  readonly add: Binary;
  readonly sub: Binary;
  readonly mul: Binary;
  readonly div: Binary;
  readonly less: Binary;
  readonly lessOrEqual: Binary;
  readonly neg: Unary;
  readonly exp: Unary;
  readonly sigmoid: Unary;
  readonly madeAgain: Unary;
  readonly expand: Reshaping;
  readonly reshape: Reshaping;
  readonly sumTo: Reshaping;
  cast(x: Tensor, to: DType): Tensor;
  gatherLast(x: Tensor, ids: Tensor): Tensor;
  gatherRows(table: Tensor, ids: Tensor): Tensor;
  gemm(a: Tensor, b: Tensor, options?: ProductOptions, bias?: Tensor): Tensor;
  matmul(a: Tensor, b: Tensor, options?: ProductOptions & { readonly alpha?: number }): Tensor;
  multiplyDims(...dims: readonly Dim[]): Dim;
  pad(x: Tensor, axis: number, before: Dim, after: Dim): Tensor;
  reduceSum(x: Tensor, axes?: readonly number[], options?: { readonly keepDims?: boolean }): Tensor;
  scatterAddLast(x: Tensor, values: Tensor, ids: Tensor): Tensor;
  scatterAddRows(values: Tensor, ids: Tensor, rows: Dim): Tensor;
  sizeOf(dim: Dim): Tensor;
  slice(x: Tensor, axis: number, start: Dim, length: Dim): Tensor;
  transpose(x: Tensor, permutation: readonly number[]): Tensor;
  where(condition: Tensor, a: Tensor | number, b: Tensor | number): Tensor;
  zeros(shape: Shape, dtype?: DType): Tensor;
}

export type RuleTable<K extends OpName> = { readonly [P in K]: OpRule<P> };

/** An emit function for an op that is one ONNX node of the same arity. */
export function single(type: string, domain?: string): OpRule<OpName>["emit"] {
  return (emitter, _node, inputs, outputs) => {
    emitter.node(type, inputs, {}, domain === undefined ? { outputs } : { outputs, domain });
  };
}
