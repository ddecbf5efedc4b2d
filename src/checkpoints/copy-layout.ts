/** What a quantised copy of a checkpoint holds, tensor by tensor. It follows from the checkpoint, so a copy can be held against it. */
import { UserError } from "../errors.js";
import type { FrozenValue, HostTensor } from "../host-tensor.js";
import { int4Block } from "./quantise.js";
import { quoted } from "../quoted.js";
import type { DeclaredTensor, TensorEntry, TensorFile } from "./safetensors.js";

/** How a tensor is held; undefined: as it is. `table`: as it is, too. */
export type CopiedForm = { readonly bits: 8 | 4; readonly table: boolean } | undefined;

export interface CopiedTensor {
  readonly name: string;
  readonly entry: TensorEntry;
  readonly form: CopiedForm;
}

export interface CopyLayout {
  readonly plan: readonly CopiedTensor[];
  /** The tensors of the copy. */
  readonly declared: readonly DeclaredTensor[];
  /** How each quantised matrix is held, under its name: `held:NAME` is `int8 N K` or `int4 N K`. */
  readonly metadata: Readonly<Record<string, string>>;
}

/** The tensor that holds the seals of all others; see `copy-seal.ts`. */
export const sealsName = "blip2.seals";

const heldKey = (name: string): string => `held:${name}`;

/** Throws `UserError` for a matrix that is not of floats, and where a name of `source` is needed for the copy itself. */
export function copyLayout(
  source: TensorFile,
  kept: (name: string) => boolean,
  formOf: (name: string, dims: readonly number[]) => CopiedForm,
): CopyLayout {
  const plan: CopiedTensor[] = [];
  const declared = new Map<string, Pick<HostTensor, "dtype" | "dims">>();
  const metadata: Record<string, string> = {};
  const declare = (name: string, tensor: Pick<HostTensor, "dtype" | "dims">): void => {
    if (declared.has(name) || name === sealsName) {
      throw new UserError(
        `${source.path}: holds a tensor ${quoted(name)}, a name that the quantised copy needs for its own; remove or rename it, or use the precision fp32`,
      );
    }
    declared.set(name, { dtype: tensor.dtype, dims: tensor.dims });
  };
  for (const [name, entry] of source.tensors) {
    if (!kept(name)) continue;
    const form = formOf(name, entry.dims);
    plan.push({ name, entry, form });
    if (form === undefined || form.table) declare(name, entry);
    if (form === undefined) continue;
    if (!["float32", "float16", "bfloat16"].includes(entry.dtype)) {
      throw new UserError(
        `${source.path}: tensor ${quoted(name)} is ${entry.dtype}; float32, float16 or bfloat16 is required to quantise it`,
      );
    }
    const [n, k] = entry.dims as [number, number];
    const blocks = Math.ceil(k / int4Block);
    const held = form.bits === 8 ? "int8" : "int4";
    if (held === "int8") {
      declare(`${name}.int8`, { dtype: "int8", dims: [k, n] });
      declare(`${name}.scales`, { dtype: "float32", dims: [n] });
    } else {
      declare(`${name}.int4`, { dtype: "uint8", dims: [n, blocks, int4Block / 2] });
      declare(`${name}.scales`, { dtype: "float32", dims: [n, blocks] });
    }
    metadata[heldKey(name)] = `${held} ${n} ${k}`;
  }
  return { plan, declared: [...declared], metadata };
}

/** The values of the named weights of a checked copy, where they lie. Throws `UserError` for a name that it has not. */
export function frozenValues(copy: TensorFile, names: Iterable<string>): Map<string, FrozenValue> {
  const values = new Map<string, FrozenValue>();
  const entry = (name: string): TensorEntry => {
    const found = copy.tensors.get(name);
    if (found === undefined) throw new UserError(`${copy.path}: has no tensor ${quoted(name)}`);
    return found;
  };
  for (const name of names) {
    const how = copy.metadata[heldKey(name)]?.split(" ");
    if (how === undefined) {
      values.set(name, entry(name));
      continue;
    }
    const [quantised, n, k] = [how[0] as "int8" | "int4", Number(how[1]), Number(how[2])];
    const table = copy.tensors.get(name);
    values.set(name, {
      quantised,
      dims: [n, k],
      values: entry(`${name}.${quantised}`),
      scales: entry(`${name}.scales`),
      ...(table && { table }),
    });
  }
  return values;
}

/** How the tensors and the notes of `file` differ from what the layout asks for, if they do. */
export function layoutProblem(
  file: TensorFile,
  declared: readonly DeclaredTensor[],
  metadata: Readonly<Record<string, string>>,
): string | undefined {
  for (const [name, { dtype, dims }] of declared) {
    const found = file.tensors.get(name);
    if (found === undefined) return `lacks the tensor ${quoted(name)}`;
    if (found.dtype !== dtype || found.dims.join() !== dims.join()) {
      return `has the tensor ${quoted(name)} as ${found.dtype} ${quoted(found.dims)} where ${dtype} [${dims.join(",")}] is required`;
    }
  }
  if (file.tensors.size !== declared.length) {
    const expected = new Set(declared.map(([name]) => name));
    const other = [...file.tensors.keys()].find((name) => !expected.has(name));
    return `has a tensor ${quoted(other)} too many`;
  }
  const notes = new Set([...Object.keys(metadata), ...Object.keys(file.metadata)]);
  for (const key of notes) {
    if (file.metadata[key] !== metadata[key]) return `says otherwise of ${quoted(key)}`;
  }
  return undefined;
}
