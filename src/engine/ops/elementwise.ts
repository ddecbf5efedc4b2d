/** Elementwise ops with numpy broadcasting. */
import { InternalError } from "../../errors.js";
import type { DType } from "../../host-tensor.js";
import { broadcastShapes, sameShape } from "../dims.js";
import { makeTensor, scalar, type OpName, type Tensor } from "../graph.js";
import { single, type RuleTable } from "./rule.js";

const onnxTypeNumber: { readonly [K in DType]: number } = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  uint64: 13,
  bfloat16: 16,
};

/** The number that ONNX gives an element type (TensorProto.DataType). */
export function onnxType(dtype: DType): number {
  return onnxTypeNumber[dtype];
}

type Operand = Tensor | number;

function operands(where: string, a: Operand, b: Operand): readonly [Tensor, Tensor] {
  const left = typeof a === "number" ? scalar(a) : a;
  const right = typeof b === "number" ? scalar(b) : b;
  if (left.dtype !== right.dtype)
    throw new InternalError(`${where}: element types ${left.dtype} and ${right.dtype} differ`);
  return [left, right];
}

/** What `expand` repeats, or the tensor itself. */
const unrepeated = (x: Tensor): Tensor => (x.node.kind === "expand" ? x.node.inputs[0]! : x);

function binary<K extends "add" | "sub" | "mul" | "div" | "maximum" | "minimum">(kind: K) {
  return (a: Operand, b: Operand): Tensor => {
    const [left, right] = operands(kind, a, b);
    const shape = broadcastShapes(kind, left.shape, right.shape);
    // Repeated values need no memory and no work of their own: the op broadcasts, or its result is repeated.
    const sources = [unrepeated(left), unrepeated(right)] as const;
    const small = broadcastShapes(kind, sources[0].shape, sources[1].shape);
    const y = makeTensor<OpName>(kind, sources, {}, left.dtype, small);
    return sameShape(small, shape) ? y : makeTensor("expand", [y], { shape }, y.dtype, shape);
  };
}

function comparison<K extends "equal" | "less" | "lessOrEqual">(kind: K) {
  return (a: Operand, b: Operand): Tensor => {
    const [left, right] = operands(kind, a, b);
    return makeTensor<OpName>(
      kind,
      [left, right],
      {},
      "bool",
      broadcastShapes(kind, left.shape, right.shape),
    );
  };
}

function logical<K extends "and" | "or">(kind: K) {
  return (a: Tensor, b: Tensor): Tensor => {
    if (a.dtype !== "bool" || b.dtype !== "bool")
      throw new InternalError(`${kind}: needs bool tensors, got ${a} and ${b}`);
    return makeTensor<OpName>(kind, [a, b], {}, "bool", broadcastShapes(kind, a.shape, b.shape));
  };
}

function unary<
  K extends "neg" | "exp" | "log" | "sqrt" | "erf" | "tanh" | "sigmoid" | "abs" | "stopGradient",
>(kind: K) {
  return (x: Tensor): Tensor => makeTensor<OpName>(kind, [x], {}, x.dtype, x.shape);
}

export const add = binary("add");
export const sub = binary("sub");
export const mul = binary("mul");
export const div = binary("div");
export const maximum = binary("maximum");
export const minimum = binary("minimum");
export const equal = comparison("equal");
export const less = comparison("less");
export const lessOrEqual = comparison("lessOrEqual");
export const and = logical("and");
export const or = logical("or");
export const neg = unary("neg");
export const exp = unary("exp");
export const log = unary("log");
export const sqrt = unary("sqrt");
export const erf = unary("erf");
export const tanh = unary("tanh");
export const sigmoid = unary("sigmoid");
export const abs = unary("abs");
/** The same value, through which no gradient passes. */
export const stopGradient = unary("stopGradient");

export function not(x: Tensor): Tensor {
  return makeTensor("not", [x], {}, "bool", x.shape);
}

/** True where a float is neither infinite nor NaN. */
export function isFinite(x: Tensor): Tensor {
  return makeTensor("isFinite", [x], {}, "bool", x.shape);
}

/** `condition ? a : b`, elementwise with broadcasting. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  const [left, right] = operands("where", a, b);
  const shape = broadcastShapes("where", condition.shape, left.shape, right.shape);
  return makeTensor("where", [condition, left, right], {}, left.dtype, shape);
}

export function cast(x: Tensor, to: DType): Tensor {
  return x.dtype === to ? x : makeTensor("cast", [x], { to }, to, x.shape);
}

const noGradient = "its result is not differentiable";

export const elementwiseRules: RuleTable<
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "maximum"
  | "minimum"
  | "neg"
  | "exp"
  | "log"
  | "sqrt"
  | "erf"
  | "tanh"
  | "sigmoid"
  | "abs"
  | "where"
  | "cast"
  | "equal"
  | "less"
  | "lessOrEqual"
  | "and"
  | "or"
  | "not"
  | "isFinite"
  | "stopGradient"
> = {
  add: {
    emit: single("Add"),
    gradient: ({ inputs: [a, b], upstream: g, wants, ops }) => [
      wants[0] ? ops.sumTo(g, a!.shape) : undefined,
      wants[1] ? ops.sumTo(g, b!.shape) : undefined,
    ],
  },
  sub: {
    emit: single("Sub"),
    gradient: ({ inputs: [a, b], upstream: g, wants, ops }) => [
      wants[0] ? ops.sumTo(g, a!.shape) : undefined,
      wants[1] ? ops.neg(ops.sumTo(g, b!.shape)) : undefined,
    ],
  },
  mul: {
    emit: single("Mul"),
    gradient: ({ inputs: [a, b], upstream: g, wants, ops }) => {
      if (a === b) return [ops.mul(ops.mul(g, 2), a!)];
      return [
        wants[0] ? ops.sumTo(ops.mul(g, b!), a!.shape) : undefined,
        wants[1] ? ops.sumTo(ops.mul(g, a!), b!.shape) : undefined,
      ];
    },
  },
  div: {
    emit: single("Div"),
    gradient: ({ inputs: [a, b], outputs: [y], upstream: g, wants, ops }) => {
      const quotient = ops.div(g, b!);
      return [
        wants[0] ? ops.sumTo(quotient, a!.shape) : undefined,
        wants[1] ? ops.neg(ops.sumTo(ops.mul(quotient, y!), b!.shape)) : undefined,
      ];
    },
  },
  // Ties share nothing: the first operand takes the whole gradient.
  maximum: {
    emit: single("Max"),
    gradient: ({ inputs: [a, b], upstream: g, wants, ops }) => {
      const first = ops.lessOrEqual(b!, a!);
      return [
        wants[0] ? ops.sumTo(ops.where(first, g, 0), a!.shape) : undefined,
        wants[1] ? ops.sumTo(ops.where(first, 0, g), b!.shape) : undefined,
      ];
    },
  },
  minimum: {
    emit: single("Min"),
    gradient: ({ inputs: [a, b], upstream: g, wants, ops }) => {
      const first = ops.lessOrEqual(a!, b!);
      return [
        wants[0] ? ops.sumTo(ops.where(first, g, 0), a!.shape) : undefined,
        wants[1] ? ops.sumTo(ops.where(first, 0, g), b!.shape) : undefined,
      ];
    },
  },
  neg: { emit: single("Neg"), gradient: ({ upstream, ops }) => [ops.neg(upstream)] },
  exp: { emit: single("Exp"), gradient: ({ outputs: [y], upstream, ops }) => [ops.mul(upstream, y!)] },
  log: { emit: single("Log"), gradient: ({ inputs: [x], upstream, ops }) => [ops.div(upstream, x!)] },
  sqrt: {
    emit: single("Sqrt"),
    gradient: ({ outputs: [y], upstream, ops }) => [ops.div(ops.mul(upstream, 0.5), y!)],
  },
  // d/dx erf(x) = 2 / sqrt(pi) * exp(-x^2)
  erf: {
    emit: single("Erf"),
    gradient: ({ inputs: [x], upstream, ops }) => [
      ops.mul(upstream, ops.mul(ops.exp(ops.neg(ops.mul(x!, x!))), 2 / Math.sqrt(Math.PI))),
    ],
  },
  tanh: {
    emit: single("Tanh"),
    gradient: ({ outputs: [y], upstream, ops }) => [ops.mul(upstream, ops.sub(1, ops.mul(y!, y!)))],
  },
  sigmoid: {
    emit: single("Sigmoid"),
    gradient: ({ outputs: [y], upstream, ops }) => [ops.mul(upstream, ops.mul(y!, ops.sub(1, y!)))],
  },
  abs: {
    emit: single("Abs"),
    gradient: ({ inputs: [x], upstream, ops }) => [ops.where(ops.less(x!, 0), ops.neg(upstream), upstream)],
  },
  where: {
    emit: single("Where"),
    gradient: ({ inputs: [condition, a, b], upstream: g, wants, ops }) => [
      undefined,
      wants[1] ? ops.sumTo(ops.where(condition!, g, 0), a!.shape) : undefined,
      wants[2] ? ops.sumTo(ops.where(condition!, 0, g), b!.shape) : undefined,
    ],
  },
  cast: {
    emit: (emitter, node, inputs, outputs) => {
      emitter.node("Cast", inputs, { to: onnxType(node.attributes.to) }, { outputs });
    },
    gradient: ({ inputs: [x], upstream, ops }) => [ops.cast(upstream, x!.dtype)],
  },
  equal: { emit: single("Equal"), gradient: noGradient },
  less: { emit: single("Less"), gradient: noGradient },
  lessOrEqual: { emit: single("LessOrEqual"), gradient: noGradient },
  and: { emit: single("And"), gradient: noGradient },
  or: { emit: single("Or"), gradient: noGradient },
  not: { emit: single("Not"), gradient: noGradient },
  isFinite: {
    emit: (emitter, _node, inputs, outputs) => {
      const bad = emitter.node("Or", [emitter.node("IsNaN", inputs), emitter.node("IsInf", inputs)]);
      emitter.node("Not", [bad], {}, { outputs });
    },
    gradient: noGradient,
  },
  stopGradient: { emit: single("Identity"), gradient: "it stops gradients by design" },
};
