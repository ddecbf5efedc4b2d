/** Writes a symbolic graph as an ONNX model in memory. */
import { InternalError, UserError } from "../errors.js";
import type { DType, FrozenValue, HostTensor, StoredTensor } from "../host-tensor.js";
import { topologicalOrder } from "./autodiff.js";
import { multiplyDims, polynomialOf, showShape, type Dim, type Shape } from "./dims.js";
import type { Node, OpName, Tensor } from "./graph.js";
import {
  attributeType,
  encodeModel,
  externalLocation,
  type OnnxAttributeRecord,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValueInfo,
} from "./onnx-schema.js";
import { opTable } from "./op-table.js";
import { onnxType } from "./ops/elementwise.js";
import { heldForms, type HeldForm } from "./ops/held-weights.js";
import type { ByteProducts, Emitter, NodeOptions, OnnxAttribute, OpRule } from "./ops/rule.js";

/** A graph input as a caller must feed it. */
export interface InputSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
}

export interface EmittedModel {
  readonly bytes: Uint8Array;
  readonly inputs: readonly InputSpec[];
  readonly outputs: readonly InputSpec[];
  /** ONNX nodes written, for tests and profiles. */
  readonly nodeTypes: readonly string[];
}

/** Values of weights by checkpoint name. */
export type Weights = ReadonlyMap<string, HostTensor>;

/** Values of frozen weights by checkpoint name, in memory, in files, or quantised. */
export type FrozenWeights = ReadonlyMap<string, FrozenValue>;

/** Says where the model will find a tensor: a name beside itself, and the first byte in there. */
export type Locate = (tensor: StoredTensor) => { readonly location: string; readonly offset: number };

/**
 * Emits the graph that computes `outputs`. Every `frozen` leaf must have a value of its shape in
 * `weights`; float16 and bfloat16 values are written as they are and widened in the graph (the runtime
 * folds that at load). Tensors in files are referred to, at the places that `locate` gives.
 * Throws a `UserError` that names all weights that are missing or misshapen.
 *
 * `refused` names an output to put before them that is no tensor; see `session-worker.ts`. `byteProducts`: what the
 * processor asks for, see there.
 */
export function emit(
  outputs: Readonly<Record<string, Tensor>>,
  weights: FrozenWeights = new Map(),
  locate: Locate = unplaced,
  refused?: string,
  byteProducts: ByteProducts = "signed",
): EmittedModel {
  const order = topologicalOrder(deepestFirst(Object.values(outputs)));
  return new ModelWriter(weights, order, outputs, locate, refused, byteProducts).write();
}

const unplaced: Locate = ({ file }) => {
  throw new InternalError(`emit: nobody says where the model finds ${file}`);
};

/**
 * The runtime carries out what the last node needs first. So outputs go from the longest way to the shortest: gradients
 * are then made layer by layer on the way back, and what belongs to a layer is freed before the next is begun.
 */
function deepestFirst(roots: readonly Tensor[]): readonly Tensor[] {
  const depths = new Map<Node, number>();
  for (const node of topologicalOrder(roots)) {
    depths.set(node, 1 + Math.max(0, ...node.inputs.map((child) => depths.get(child.node)!)));
  }
  return roots.toSorted((a, b) => depths.get(b.node)! - depths.get(a.node)!);
}

const bytesOf = (value: HostTensor): Uint8Array =>
  new Uint8Array(value.data.buffer, value.data.byteOffset, value.data.byteLength);

/** Names of inner values; the sign keeps them apart from those that callers choose. */
const innerName = (index: number): string => `%${index}`;

class ModelWriter implements Emitter {
  private readonly nodes: OnnxNode[] = [];
  private readonly initializers: OnnxTensor[] = [];
  private readonly inputs: InputSpec[] = [];
  private readonly names = new Map<Tensor, string>();
  private readonly constants = new Map<string, string>();
  private readonly constantNames = new Set<string>();
  private readonly dimensionSources = new Map<string, { readonly input: string; readonly axis: number }>();
  private readonly dimensionValues = new Map<Dim, string>();
  private readonly used: ReadonlySet<Tensor>;
  /** Frozen weights by name; each is written in the form that its first user asks for. */
  private readonly held = new Map<string, FrozenValue>();
  private readonly written = new Set<string>();
  /** Names of graph inputs and frozen weights. */
  private readonly taken = new Set<string>();
  private counter = 0;

  constructor(
    private readonly weights: FrozenWeights,
    private readonly order: readonly Node[],
    private readonly outputs: Readonly<Record<string, Tensor>>,
    private readonly locate: Locate,
    private readonly refused: string | undefined,
    readonly byteProducts: ByteProducts,
  ) {
    this.used = new Set([...order.flatMap((node) => node.inputs), ...Object.values(outputs)]);
  }

  write(): EmittedModel {
    this.writeLeaves();
    for (const node of this.order) this.writeNode(node);
    return this.finish();
  }

  private writeLeaves(): void {
    const problems: string[] = [];
    for (const node of this.order) {
      const tensor = node.outputs[0]!;
      if (node.kind === "input" || node.kind === "parameter") {
        const { name } = (node as Node<"input">).attributes;
        this.take(name);
        this.names.set(tensor, name);
        this.inputs.push({ name, dtype: tensor.dtype, shape: tensor.shape });
        for (const [axis, dim] of tensor.shape.entries()) {
          if (typeof dim === "string" && !this.dimensionSources.has(dim))
            this.dimensionSources.set(dim, { input: name, axis });
        }
      } else if (node.kind === "frozen") {
        const { name } = (node as Node<"frozen">).attributes;
        const value = this.weights.get(name);
        if (value === undefined) problems.push(`${name} is missing`);
        else if (showShape(value.dims) !== showShape(tensor.shape)) {
          problems.push(`${name} must be ${showShape(tensor.shape)}, is ${showShape(value.dims)}`);
        } else if (this.held.get(name) !== value) {
          this.take(name);
          this.held.set(name, value);
        }
      } else if (node.kind === "constant") {
        this.names.set(tensor, this.constant((node as Node<"constant">).attributes.value));
      }
    }
    if (problems.length > 0)
      throw new UserError(`frozen weights do not fit the model: ${problems.join("; ")}`);
  }

  private take(name: string): void {
    if (this.taken.has(name)) throw new InternalError(`emit: two graph inputs or weights are called ${name}`);
    this.taken.add(name);
  }

  /** The value of a leaf, if it is a frozen weight. */
  private heldValue(tensor: Tensor | undefined): FrozenValue | undefined {
    if (tensor?.node.kind !== "frozen") return undefined;
    return this.held.get((tensor.node as Node<"frozen">).attributes.name);
  }

  /** A frozen weight as float32, written where it is first used. */
  private frozenWeight(name: string, value: FrozenValue): string {
    const known = this.constants.get(`frozen ${name}`);
    if (known !== undefined) return known;
    if ("quantised" in value) {
      throw new InternalError(
        `emit: ${name} is held as ${value.quantised}, which serves x W^T only: neither gradients nor other ops read it`,
      );
    }
    const stored = this.initializer(name, value);
    const widened =
      value.dtype === "float32" ? stored : this.node("Cast", [stored], { to: onnxType("float32") });
    this.constants.set(`frozen ${name}`, widened);
    return widened;
  }

  initializer(name: string, value: HostTensor | StoredTensor): string {
    if (this.written.has(name)) return name;
    this.written.add(name);
    const tensor = { name, dims: value.dims, dataType: onnxType(value.dtype) };
    if ("data" in value) this.initializers.push({ ...tensor, rawData: bytesOf(value) });
    else {
      const place = { ...this.locate(value), length: value.length };
      const externalData = Object.entries(place).map(([key, entry]) => ({ key, value: String(entry) }));
      this.initializers.push({ ...tensor, externalData, dataLocation: externalLocation });
    }
    return name;
  }

  private writeNode(node: Node): void {
    if (node.kind === "stopGradient") {
      this.names.set(node.outputs[0]!, this.nameOf(node.inputs[0]!));
      return;
    }
    if (node.outputs.some((output) => this.names.has(output))) return;
    const outputs = node.outputs.map((output, index) => {
      // An optional output that nobody reads is not asked for: kernels skip it, and fusions match.
      if (index > 0 && !this.used.has(output)) return "";
      const name = innerName(this.counter++);
      this.names.set(output, name);
      return name;
    });
    const form = heldForms[node.kind] as HeldForm<OpName> | undefined;
    const weight = form && node.inputs[form.operand];
    const value = this.heldValue(weight);
    if (form && value && form.takes(node, value)) {
      const { name } = (weight!.node as Node<"frozen">).attributes;
      const others = node.inputs.map((child) => (child === weight ? "" : this.nameOf(child)));
      form.emit(this, node, { name, value }, others, outputs);
      return;
    }
    const rule = opTable[node.kind] as OpRule<OpName>;
    const inputs = node.inputs.map((child) => this.nameOf(child));
    rule.emit(this, node, inputs, outputs);
  }

  private nameOf(tensor: Tensor): string {
    const value = this.heldValue(tensor);
    if (value !== undefined) {
      return this.frozenWeight((tensor.node as Node<"frozen">).attributes.name, value);
    }
    const name = this.names.get(tensor);
    if (name === undefined) throw new InternalError(`emit: ${tensor} has not been written yet`);
    return name;
  }

  node(
    type: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, OnnxAttribute>> = {},
    options: NodeOptions = {},
  ): string {
    const output = [...(options.outputs ?? [innerName(this.counter++)])];
    while (output.at(-1) === "") output.pop();
    this.nodes.push({
      opType: type,
      input: inputs,
      output,
      name: `${type}_${this.nodes.length}`,
      domain: options.domain ?? "",
      attribute: Object.entries(attributes).map(([name, value]) => attributeRecord(name, value)),
    });
    return output[0]!;
  }

  constant(value: HostTensor): string {
    const bytes = bytesOf(value);
    // Only small constants are worth comparing.
    const key = bytes.length <= 64 ? `${value.dtype} ${value.dims.join("x")} ${bytes.join()}` : undefined;
    const known = key === undefined ? undefined : this.constants.get(key);
    if (known !== undefined) return known;
    const name = innerName(this.counter++);
    this.constantNames.add(name);
    this.initializers.push({ name, dims: value.dims, dataType: onnxType(value.dtype), rawData: bytes });
    if (key !== undefined) this.constants.set(key, name);
    return name;
  }

  private int64Vector(values: readonly number[]): string {
    return this.constant({ dtype: "int64", dims: [values.length], data: BigInt64Array.from(values, BigInt) });
  }

  sizes(shape: Shape): string {
    if (shape.every((dim) => typeof dim === "number")) return this.int64Vector(shape);
    const parts = shape.map((dim) => this.dimensionVector(dim));
    return parts.length === 1 ? parts[0]! : this.node("Concat", parts, { axis: 0 });
  }

  /** A dimension as an int64 vector of one entry. */
  private dimensionVector(dim: Dim): string {
    if (typeof dim === "number") return this.int64Vector([dim]);
    const known = this.dimensionValues.get(dim);
    if (known !== undefined) return known;
    const source = this.dimensionSources.get(dim);
    let value: string;
    if (source !== undefined) {
      value = this.node("Shape", [source.input], { start: source.axis, end: source.axis + 1 });
    } else {
      const terms = [...polynomialOf(dim)].map(([monomial, coefficient]) => {
        const factors = monomial.split("*").filter(Boolean);
        if (factors.length === 1 && coefficient === 1 && multiplyDims(factors[0]!) === dim) {
          throw new InternalError(`emit: no graph input has the dimension ${dim}`);
        }
        const vectors = factors.map((factor) => this.dimensionVector(factor));
        if (coefficient !== 1 || vectors.length === 0) vectors.push(this.int64Vector([coefficient]));
        return vectors.reduce((a, b) => this.node("Mul", [a, b]));
      });
      value = terms.reduce((a, b) => this.node("Add", [a, b]));
    }
    this.dimensionValues.set(dim, value);
    return value;
  }

  private finish(): EmittedModel {
    const used = new Set<string>();
    const specs: InputSpec[] = [];
    const produced = new Map<string, string>();
    for (const [name, tensor] of Object.entries(this.outputs)) {
      if (this.taken.has(name))
        throw new InternalError(`emit: output ${name} has the name of an input or weight`);
      const inner = this.nameOf(tensor);
      const isLeaf = this.taken.has(inner) || this.constantNames.has(inner);
      // Renaming the producer's output costs nothing; a copy is needed only where two outputs share it.
      if (isLeaf || used.has(inner))
        this.node("Identity", [produced.get(inner) ?? inner], {}, { outputs: [name] });
      else produced.set(inner, name);
      used.add(inner);
      specs.push({ name, dtype: tensor.dtype, shape: tensor.shape });
    }
    if (this.refused !== undefined) this.node("SequenceEmpty", [], {}, { outputs: [this.refused] });
    const rename = (name: string): string => produced.get(name) ?? name;
    const nodes = this.nodes.map((node) => ({
      ...node,
      input: node.input.map(rename),
      output: node.output.map(rename),
    }));
    const bytes = encodeModel({
      irVersion: 10,
      producerName: "blip2",
      opsetImport: [
        { domain: "", version: 20 },
        { domain: "com.microsoft", version: 1 },
      ],
      graph: {
        name: "blip2",
        node: nodes,
        initializer: this.initializers,
        input: this.inputs.map(valueInfo),
        output: [
          ...(this.refused === undefined ? [] : [emptySequence(this.refused)]),
          ...specs.map(valueInfo),
        ],
      },
    });
    return { bytes, inputs: this.inputs, outputs: specs, nodeTypes: nodes.map((node) => node.opType) };
  }
}

function valueInfo({ name, dtype, shape }: InputSpec): OnnxValueInfo {
  const dim = shape.map((size) => (typeof size === "number" ? { dimValue: size } : { dimParam: size }));
  return { name, type: { tensorType: { elemType: onnxType(dtype), shape: { dim } } } };
}

function emptySequence(name: string): OnnxValueInfo {
  const tensorType = { elemType: onnxType("float32"), shape: { dim: [] } };
  return { name, type: { sequenceType: { elemType: { tensorType } } } };
}

function attributeRecord(name: string, value: OnnxAttribute): OnnxAttributeRecord {
  if (typeof value === "number") return { name, type: attributeType.int, i: value };
  if (typeof value === "string")
    return { name, type: attributeType.string, s: new TextEncoder().encode(value) };
  if ("float" in value) return { name, type: attributeType.float, f: value.float };
  if ("tensor" in value) {
    const { tensor } = value;
    return {
      name,
      type: attributeType.tensor,
      t: { name: "", dims: tensor.dims, dataType: onnxType(tensor.dtype), rawData: bytesOf(tensor) },
    };
  }
  return { name, type: attributeType.ints, ints: value };
}
