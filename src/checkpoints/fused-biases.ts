/**
 * EVA's attention has no bias for keys: LAVIS stores `q_bias` and `v_bias`, and so do early revisions on the hub. Everyone
 * else reads one `qkv.bias`, with zeros for the keys. Here the two are shown as that one.
 */
import { UserError } from "../errors.js";
import { bytesPerElement, type HostTensor } from "../host-tensor.js";
import type { LazyTensor, TensorEntry, TensorFile } from "./safetensors.js";

/** `PATH.q_bias` and `PATH.v_bias` -> `PATH.qkv.bias`. */
const part = /^(.*self_attn)\.([qv])_bias$/;

/** The names without the pairs, and what takes the place of each pair. Throws `UserError` for half a pair. */
function pairsOf(
  tensors: ReadonlyMap<string, Pick<LazyTensor, "dtype" | "dims">>,
  where: string,
): Map<string, readonly [query: string, value: string]> {
  const pairs = new Map<string, readonly [string, string]>();
  for (const name of tensors.keys()) {
    const path = part.exec(name)?.[1];
    if (path === undefined) continue;
    const [query, value] = [`${path}.q_bias`, `${path}.v_bias`];
    const [a, b] = [tensors.get(query), tensors.get(value)];
    const fit =
      a !== undefined &&
      b !== undefined &&
      a.dims.length === 1 &&
      a.dims[0] === b.dims[0] &&
      a.dtype === b.dtype;
    if (!fit) {
      throw new UserError(
        `${where}: ${query} and ${value} are required together, as vectors of one length and type`,
      );
    }
    if (tensors.has(`${path}.qkv.bias`))
      throw new UserError(`${where}: has both ${path}.qkv.bias and ${query}; one of them is allowed`);
    pairs.set(`${path}.qkv.bias`, [query, value]);
  }
  return pairs;
}

async function fused(
  query: { read(): Promise<HostTensor> },
  value: { read(): Promise<HostTensor> },
): Promise<HostTensor> {
  const [q, v] = [await query.read(), await value.read()];
  const length = q.data.length;
  const data = new (q.data.constructor as new (length: number) => typeof q.data)(3 * length);
  data.set(q.data as never, 0);
  data.set(v.data as never, 2 * length);
  return { dtype: q.dtype, dims: [3 * length], data };
}

/** The same file with each pair of biases as one tensor; the file itself if it has none. */
export function withFusedBiases(file: TensorFile): TensorFile {
  const pairs = pairsOf(file.tensors, file.path);
  if (pairs.size === 0) return file;
  const tensors = new Map<string, TensorEntry>();
  for (const [name, entry] of file.tensors) if (!part.test(name)) tensors.set(name, entry);
  for (const [name, [query]] of pairs) {
    const entry = file.tensors.get(query)!;
    const dims = [3 * entry.dims[0]!];
    tensors.set(name, { ...entry, dims, length: dims[0]! * bytesPerElement[entry.dtype], computed: true });
  }
  const read = async (name: string): Promise<HostTensor> => {
    const [query, value] = pairs.get(name) ?? [];
    if (query === undefined || value === undefined) return file.read(name);
    return fused({ read: () => file.read(query) }, { read: () => file.read(value) });
  };
  return {
    ...file,
    tensors,
    read,
    readAll: async (names = tensors.keys()) => {
      const wanted = [...names];
      const result = await file.readAll(wanted.filter((name) => !pairs.has(name)));
      for (const name of wanted) if (pairs.has(name)) result.set(name, await read(name));
      return result;
    },
  };
}

/** The same for tensors that are read later. Throws `UserError` for half a pair; `where` names the file. */
export function fuseBiases(tensors: ReadonlyMap<string, LazyTensor>, where: string): Map<string, LazyTensor> {
  const result = new Map([...tensors].filter(([name]) => !part.test(name)));
  for (const [name, [query, value]] of pairsOf(tensors, where)) {
    const [q, v] = [tensors.get(query)!, tensors.get(value)!];
    result.set(name, { dtype: q.dtype, dims: [3 * q.dims[0]!], read: () => fused(q, v) });
  }
  return result;
}
