/**
 * Dimensions of symbolic tensors: a fixed size, or a polynomial over named sizes such as `"B"`, `"B*T"`
 * or `"P+T"` that is known only when a session runs. Polynomials are kept in one canonical spelling, so
 * two dimensions are equal exactly when they are `===`.
 */
import { InternalError } from "../errors.js";

/** A fixed size, or a canonical polynomial over named sizes. */
export type Dim = number | string;
export type Shape = readonly Dim[];

/** Monomial (sorted factor names joined by `*`, `""` for the constant) to coefficient. */
type Polynomial = ReadonlyMap<string, number>;

const namePattern = /^[A-Za-z_][A-Za-z0-9_]*$/;

export function polynomialOf(dim: Dim): Polynomial {
  if (typeof dim === "number") return new Map(dim === 0 ? [] : [["", dim]]);
  const terms = new Map<string, number>();
  for (const term of dim.split("+")) {
    let coefficient = 1;
    const names: string[] = [];
    for (const factor of term.split("*")) {
      if (/^-?\d+$/.test(factor)) coefficient *= Number(factor);
      else if (namePattern.test(factor)) names.push(factor);
      else throw new InternalError(`dimension "${dim}": "${factor}" is neither a name nor a whole number`);
    }
    const monomial = names.sort().join("*");
    terms.set(monomial, (terms.get(monomial) ?? 0) + coefficient);
  }
  return terms;
}

function canonical(terms: Polynomial): Dim {
  const kept = [...terms].filter(([, coefficient]) => coefficient !== 0);
  if (kept.length === 0) return 0;
  if (kept.length === 1 && kept[0]![0] === "") return kept[0]![1];
  return kept
    .sort(([a], [b]) => (a === "" ? 1 : b === "" ? -1 : a < b ? -1 : 1))
    .map(([monomial, coefficient]) => {
      if (monomial === "") return String(coefficient);
      return coefficient === 1 ? monomial : `${coefficient}*${monomial}`;
    })
    .join("+");
}

export function addDims(...dims: readonly Dim[]): Dim {
  const sum = new Map<string, number>();
  for (const dim of dims) {
    for (const [monomial, coefficient] of polynomialOf(dim)) {
      sum.set(monomial, (sum.get(monomial) ?? 0) + coefficient);
    }
  }
  return canonical(sum);
}

export function multiplyDims(...dims: readonly Dim[]): Dim {
  let product: Polynomial = new Map([["", 1]]);
  for (const dim of dims) {
    const next = new Map<string, number>();
    for (const [a, ca] of product) {
      for (const [b, cb] of polynomialOf(dim)) {
        const monomial = [...a.split("*"), ...b.split("*")].filter(Boolean).sort().join("*");
        next.set(monomial, (next.get(monomial) ?? 0) + ca * cb);
      }
    }
    product = next;
  }
  return canonical(product);
}

/** `a - b`. */
export function subtractDims(a: Dim, b: Dim): Dim {
  return addDims(a, multiplyDims(-1, b));
}

/** Whether a dimension is one name, without arithmetic. */
export function isName(dim: Dim): boolean {
  return typeof dim === "string" && namePattern.test(dim);
}

/** The names in a dimension. */
export function namesOf(dim: Dim): readonly string[] {
  const names = [...polynomialOf(dim).keys()].flatMap((monomial) => monomial.split("*").filter(Boolean));
  return [...new Set(names)];
}

/** The value of a dimension when its names are bound. */
export function evaluateDim(dim: Dim, sizes: Readonly<Record<string, number>>): number {
  let total = 0;
  for (const [monomial, coefficient] of polynomialOf(dim)) {
    let value = coefficient;
    for (const name of monomial.split("*").filter(Boolean)) {
      const size = sizes[name];
      if (size === undefined) throw new InternalError(`dimension "${dim}": "${name}" has no value`);
      value *= size;
    }
    total += value;
  }
  return total;
}

/** The canonical spelling of a dimension given by hand, for example `"T+P"` becomes `"P+T"`. */
export function dimension(dim: Dim): Dim {
  return typeof dim === "number" ? dim : canonical(polynomialOf(dim));
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, axis) => dim === b[axis]);
}

export function showShape(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** The shape of an elementwise result after numpy broadcasting. Throws when the shapes do not fit. */
export function broadcastShapes(where: string, ...shapes: readonly Shape[]): Shape {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  const result: Dim[] = [];
  for (let axis = 0; axis < rank; axis++) {
    let size: Dim = 1;
    for (const shape of shapes) {
      const dim = shape[shape.length - rank + axis] ?? 1;
      if (dim === 1 || dim === size) continue;
      if (size !== 1) {
        throw new InternalError(`${where}: shapes ${shapes.map(showShape).join(" and ")} do not broadcast`);
      }
      size = dim;
    }
    result.push(size);
  }
  return result;
}
