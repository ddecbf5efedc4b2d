/** Checkpoints in several files: an index maps each tensor's name to the file (shard) that holds it. */
import { basename, dirname, join } from "node:path";
import { UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import { mustStayInside } from "../files/inside-folder.js";
import { readJsonObject } from "../files/json-file.js";
import { quoted } from "../quoted.js";
import type { TensorEntry } from "./safetensors-header.js";
import type { TensorFile } from "./tensor-file.js";

/**
 * Opens the checkpoint whose index is `path`; `extension` is that of its shards, and `open` opens one of them.
 * Throws `UserError` if a shard lies elsewhere, or if index and shards disagree about a tensor.
 */
export async function openShards(
  path: string,
  extension: string,
  open: (path: string) => Promise<TensorFile>,
): Promise<TensorFile> {
  const folder = dirname(path);
  const weightMap = await readWeightMap(path, extension);
  const tensors = new Map<string, TensorEntry>();
  const holders = new Map<string, TensorFile>();
  let metadata: Readonly<Record<string, string>> = {};
  for (const shard of new Set(weightMap.values())) {
    await mustStayInside(folder, shard);
    const opened = await open(join(folder, shard));
    metadata = { ...metadata, ...opened.metadata };
    for (const [name, entry] of opened.tensors) {
      const listed = weightMap.get(name);
      if (listed !== shard) {
        throw new UserError(
          `${path}: the index places tensor ${quoted(name)} in ${listed ?? "no shard"}, but ${shard} holds it; fetch the checkpoint again`,
        );
      }
      tensors.set(name, entry);
      holders.set(name, opened);
    }
  }
  const absent = [...weightMap].filter(([name]) => !tensors.has(name));
  if (absent.length > 0) {
    const [name, shard] = absent[0]!;
    throw new UserError(
      `${path}: ${absent.length} listed tensors are not in their shards, the first is ${quoted(name)} in ${shard}; fetch the checkpoint again`,
    );
  }
  const holderOf = (name: string): TensorFile => {
    const holder = holders.get(name);
    if (!holder) throw new UserError(`${path}: has no tensor ${quoted(name)}`);
    return holder;
  };
  return {
    path,
    tensors,
    metadata,
    read: async (name) => holderOf(name).read(name),
    async readAll(names = tensors.keys()) {
      const byHolder = new Map<TensorFile, string[]>();
      for (const name of names) {
        const holder = holderOf(name);
        const wanted = byHolder.get(holder) ?? [];
        wanted.push(name);
        byHolder.set(holder, wanted);
      }
      const result = new Map<string, HostTensor>();
      for (const [holder, wanted] of byHolder)
        for (const [name, tensor] of await holder.readAll(wanted)) result.set(name, tensor);
      return result;
    },
  };
}

async function readWeightMap(path: string, extension: string): Promise<Map<string, string>> {
  const { weight_map: map } = await readJsonObject(path);
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new UserError(
      `${path}: a weight_map from tensor names to shard files is required, got ${Array.isArray(map) ? "a list" : typeof map}`,
    );
  }
  for (const [name, shard] of Object.entries(map)) {
    // A shard elsewhere would let a downloaded index point at any file of this machine.
    if (
      typeof shard !== "string" ||
      shard !== basename(shard) ||
      shard.includes("\\") ||
      shard.includes("\0") ||
      !shard.endsWith(extension)
    ) {
      throw new UserError(
        `${path}: weight_map places tensor ${quoted(name)} in ${quoted(shard)}; a ${extension} file name in the same folder is required`,
      );
    }
  }
  return new Map(Object.entries(map as Record<string, string>));
}
