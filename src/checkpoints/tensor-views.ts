/** Other looks at the tensors of a file: under other names, and one by one as they are wanted. Nothing is read for them. */
import { UserError } from "../errors.js";
import { readBytes, withFile } from "../files/byte-source.js";
import { toFloat32 } from "../float16.js";
import { bytesPerElement, elementCount } from "../host-tensor.js";
import { typedArray, type LazyTensor, type TensorEntry, type TensorFile } from "./safetensors.js";

/**
 * The tensors of a file that `nameOf` gives a name, under that name. Two of one name are the caller's mistake, as the second
 * hides the first.
 */
export function renamedTensors(file: TensorFile, nameOf: (name: string) => string | undefined): TensorFile {
  const names = new Map<string, string>();
  const tensors = new Map<string, TensorEntry>();
  for (const [name, entry] of file.tensors) {
    const seen = nameOf(name);
    if (seen === undefined) continue;
    names.set(seen, name);
    tensors.set(seen, entry);
  }
  const stored = (name: string): string => {
    const own = names.get(name);
    if (own === undefined) throw new UserError(`${file.path}: has no tensor ${JSON.stringify(name)}`);
    return own;
  };
  return {
    ...file,
    tensors,
    read: (name) => file.read(stored(name)),
    async readAll(wanted = tensors.keys()) {
      const seen = new Map([...wanted].map((name) => [stored(name), name]));
      const values = await file.readAll(seen.keys());
      return new Map([...values].map(([name, value]) => [seen.get(name)!, value]));
    },
  };
}

/** The named tensors (default: all), each read when it is asked for. */
export function lazyTensors(
  file: TensorFile,
  names: Iterable<string> = file.tensors.keys(),
): Map<string, LazyTensor> {
  return new Map(
    [...names].map((name) => {
      const { dtype, dims } = file.tensors.get(name)!;
      return [name, { dtype, dims, read: () => file.read(name) }];
    }),
  );
}

/** Elements of a piece. */
const pieceSize = 2 ** 20;

/** Gives `visit` a tensor's values in order, as float32 and in pieces, so that a large one is never in memory whole. */
export async function visitFloat32(
  file: TensorFile,
  name: string,
  visit: (piece: Float32Array) => void,
): Promise<void> {
  const entry = file.tensors.get(name);
  if (entry === undefined || entry.offset < 0 || entry.computed === true) {
    visit(toFloat32(await file.read(name)).data as Float32Array);
    return;
  }
  const { dtype, dims, offset } = entry;
  const [count, size] = [elementCount(dims), bytesPerElement[dtype]];
  await withFile(entry.file, async (handle) => {
    for (let done = 0; done < count; done += pieceSize) {
      const length = Math.min(pieceSize, count - done);
      const { buffer } = await readBytes(handle, entry.file, offset + done * size, length * size);
      visit(toFloat32({ dtype, dims: [length], data: typedArray(dtype, buffer) }).data as Float32Array);
    }
  });
}
