/** Tells one frozen model from another, so that a resumed run notices that it would go on with other weights. */
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import type { TensorFile } from "../checkpoints/tensor-file.js";
import type { TensorEntry } from "../checkpoints/safetensors-header.js";
import { UserError } from "../errors.js";
import { codeOf } from "../files/atomic-write.js";

/** Of each tensor so many bytes are read: training changes all of them, and a model of many gigabytes is told in a moment. */
const sampledBytes = 512;

/**
 * A digest of `config`, of the tensors' names, kinds and shapes, and of a sample of each tensor's numbers. Where the files lie and when
 * they were written does not count. Throws a `UserError` if a file cannot be read.
 *
 * @param isRead which tensors count
 */
export async function modelDigest(
  config: unknown,
  { tensors }: Pick<TensorFile, "tensors">,
  isRead: (name: string) => boolean = () => true,
): Promise<string> {
  const named = [...tensors].filter(([name]) => isRead(name)).sort(([a], [b]) => (a < b ? -1 : 1));
  const byFile = new Map<string, TensorEntry[]>();
  for (const [, entry] of named) byFile.set(entry.file, [...(byFile.get(entry.file) ?? []), entry]);
  const samples = new Map<TensorEntry, Uint8Array>();
  for (const [path, entries] of byFile) await sample(path, entries, samples);
  const hash = createHash("sha256").update(JSON.stringify(config));
  for (const [name, entry] of named)
    hash
      .update(JSON.stringify([name, entry.dtype, entry.dims]))
      .update(samples.get(entry) ?? new Uint8Array());
  return hash.digest("hex").slice(0, 16);
}

/** From the middle of each tensor: the beginning of a table may belong to tokens that are never trained. */
async function sample(
  path: string,
  entries: readonly TensorEntry[],
  samples: Map<TensorEntry, Uint8Array>,
): Promise<void> {
  try {
    const file = await open(path);
    try {
      for (const entry of entries) {
        // What has no place in a file of its own is told by its shape.
        if (entry.offset < 0) continue;
        const length = Math.min(sampledBytes, entry.length);
        const bytes = new Uint8Array(length);
        const from = entry.offset + Math.floor((entry.length - length) / 2);
        const { bytesRead } = await file.read(bytes, 0, length, from);
        samples.set(entry, bytes.subarray(0, bytesRead));
      }
    } finally {
      await file.close();
    }
  } catch (error) {
    const code = codeOf(error);
    if (code === undefined) throw error;
    throw new UserError(`${path}: cannot be read (${code})`, { cause: error });
  }
}

/** A digest of files by their names. */
export function bytesDigest(files: Readonly<Record<string, Uint8Array>>): string {
  const hash = createHash("sha256");
  for (const name of Object.keys(files).sort())
    hash.update(JSON.stringify([name, files[name]!.length])).update(files[name]!);
  return hash.digest("hex").slice(0, 16);
}
