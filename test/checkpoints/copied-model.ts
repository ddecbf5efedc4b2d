/** A checkpoint in a folder of its own with a cache folder beside, for tests of its quantised copy. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { vi } from "vitest";
import { openQuantised, type Quantisation } from "../../src/checkpoints/quantised-file.js";
import { openSafetensors, writeSafetensors, type TensorFile } from "../../src/checkpoints/safetensors.js";
import { float32Tensor, type HostTensor, type TypedArray } from "../../src/host-tensor.js";

export interface Folders {
  readonly root: string;
  readonly cache: string;
  /** Where the copy lies. */
  readonly place: string;
  remove(): Promise<void>;
}

/** Makes the folders and lets this process's cache be in them. */
export async function copyFolders(): Promise<Folders> {
  const root = await mkdtemp(join(tmpdir(), "blip2-test-"));
  const cache = await mkdtemp(join(tmpdir(), "blip2-test-cache-"));
  vi.stubEnv("XDG_CACHE_HOME", cache);
  return {
    root,
    cache,
    place: join(root, "blip2-int8.safetensors"),
    remove: async () => {
      vi.unstubAllEnvs();
      for (const folder of [root, cache]) await rm(folder, { recursive: true });
    },
  };
}

/** Sides of the matrices: a and b are held in 8 bits, b as a table too, c and d in 4. */
export const [n, k] = [6, 40];
const wave = (step: number): HostTensor =>
  float32Tensor(
    Float32Array.from({ length: n * k }, (_, i) => Math.fround(Math.sin(i * step))),
    [n, k],
  );
export const content: Readonly<Record<string, HostTensor>> = {
  "a.weight": wave(0.7),
  "b.weight": wave(0.3),
  "c.weight": wave(1.1),
  "d.weight": wave(1.7),
  "norm.weight": float32Tensor([1, 2, 3], [3]),
};
const form: Quantisation["form"] = (name) => {
  if (!/^[a-d]\.weight$/.test(name)) return undefined;
  return { bits: name < "c" ? 8 : 4, table: name === "b.weight" };
};

export async function source(root: string, tensors = content): Promise<TensorFile> {
  await writeSafetensors(join(root, "model.safetensors"), tensors);
  return openSafetensors(join(root, "model.safetensors"));
}

export interface Opened {
  readonly made: boolean;
  readonly remarks: string[];
  readonly copy: TensorFile;
}

export async function opened(file: TensorFile): Promise<Opened> {
  let made = false;
  const remarks: string[] = [];
  const copy = await openQuantised(file, {
    precision: "int8",
    form,
    onProgress: ({ detail }) => (made ||= detail === "quantise"),
    onNotice: (remark) => remarks.push(remark),
  });
  return { made, remarks, copy };
}

export const bytesOf = (data: TypedArray): Buffer =>
  Buffer.from(data.buffer, data.byteOffset, data.byteLength);
