/**
 * Tensors that a checkpoint does not hold as such but that follow from those it holds: a position table for
 * another picture size, a bias that older files store in parts. Readers see them like any other tensor.
 */
import { elementCount, type HostTensor } from "../host-tensor.js";
import type { TensorFile } from "./tensor-file.js";

export interface DerivedTensor {
  readonly dims: readonly number[];
  /** Names in the file; they are hidden, because the derived tensor stands for them. */
  readonly from: readonly string[];
  /** Takes the tensors of `from` as the file stores them, gives float32 of `dims`. */
  readonly derive: (sources: readonly HostTensor[]) => HostTensor;
}

/**
 * The file with derived tensors, by name. Their entries have `offset` -1: they can be read, not mapped.
 */
export function withDerivedTensors(
  file: TensorFile,
  derived: ReadonlyMap<string, DerivedTensor>,
): TensorFile {
  if (derived.size === 0) return file;
  const tensors = new Map(file.tensors);
  for (const { from } of derived.values()) for (const name of from) tensors.delete(name);
  for (const [name, { dims }] of derived) {
    const length = 4 * elementCount(dims);
    tensors.set(name, { file: file.path, dtype: "float32", dims, offset: -1, length });
  }
  const read = async (name: string): Promise<HostTensor> => {
    const recipe = derived.get(name);
    if (recipe === undefined) return file.read(name);
    return recipe.derive(await Promise.all(recipe.from.map((source) => file.read(source))));
  };
  return {
    ...file,
    tensors,
    read,
    async readAll(names = tensors.keys()) {
      const wanted = [...names];
      const result = await file.readAll(wanted.filter((name) => !derived.has(name)));
      for (const name of wanted) if (derived.has(name)) result.set(name, await read(name));
      return result;
    },
  };
}
