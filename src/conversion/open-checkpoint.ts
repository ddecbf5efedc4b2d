/** A checkpoint in any of the layouts that are read: a file of tensors, or a folder that holds one beside its config.json. */
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { UserError } from "../errors.js";
import { codeOf } from "../files/atomic-write.js";
import { mustStayInside } from "../files/inside-folder.js";
import { readJsonObject, type JsonObject } from "../files/json-file.js";
import { openPyTorch } from "../checkpoints/pytorch.js";
import { openSafetensors, type LazyTensor, type TensorFile } from "../checkpoints/safetensors.js";

export interface Checkpoint {
  /** The file that was opened. */
  readonly path: string;
  /** Where it lies. */
  readonly folder: string;
  readonly tensors: ReadonlyMap<string, LazyTensor>;
  /** config.json of a folder. */
  readonly config?: JsonObject;
  /** Entries of a `.pth` that hold no tensors. */
  readonly leftOut: readonly string[];
}

/** In the order of preference. */
const weightFiles = [
  "model.safetensors",
  "model.safetensors.index.json",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
];

/** Opens `path`, a file or a folder. Throws `UserError` if it is none of the layouts that are read. */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  if (!(await isFolder(path))) return openWeights(path, undefined);
  const files = await readdir(path);
  const name = weightFiles.find((file) => files.includes(file));
  if (name === undefined || !files.includes("config.json")) {
    const other = files.find((file) => /\.(pth|pt|bin)$/.test(file));
    throw new UserError(
      `${path}: not a model folder: config.json and one of ${weightFiles.join(", ")} are required` +
        (other === undefined ? "" : `; to convert ${other}, give the file itself`),
    );
  }
  await mustStayInside(path, name);
  await mustStayInside(path, "config.json");
  return openWeights(join(path, name), await readJsonObject(join(path, "config.json")));
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (codeOf(error) === "ENOENT") throw new UserError(`${path}: no such file or folder`, { cause: error });
    throw new UserError(`${path}: cannot be read (${codeOf(error)})`, { cause: error });
  }
}

async function openWeights(path: string, config: JsonObject | undefined): Promise<Checkpoint> {
  const isSafetensors = /\.safetensors(\.index\.json)?$/.test(basename(path));
  const file = isSafetensors ? { ...(await openSafetensors(path)), leftOut: [] } : await openPyTorch(path);
  return {
    path,
    folder: dirname(path),
    tensors: lazyTensors(file),
    leftOut: file.leftOut,
    ...(config && { config }),
  };
}

function lazyTensors(file: TensorFile): Map<string, LazyTensor> {
  return new Map(
    [...file.tensors].map(([name, { dtype, dims }]) => [name, { dtype, dims, read: () => file.read(name) }]),
  );
}
