/** Model folders in the Hugging Face layout: config.json, weights in safetensors, and small files beside them. */
import { readdir, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { InternalError, UserError } from "../errors.js";
import { type DType, type HostTensor } from "../host-tensor.js";
import { codeOf, recoverFolder, writeFolderAtomic } from "../files/atomic-write.js";
import { toFloat16, toFloat32 } from "../float16.js";
import { listedNames } from "../listed.js";
import { withFusedBiases } from "./fused-biases.js";
import { mustStayInside } from "../files/inside-folder.js";
import { readJsonObject, type JsonObject } from "../files/json-file.js";
import {
  openSafetensors,
  writeSafetensors,
  type LazyTensor,
  type TensorFile,
  type WriteProgress,
} from "./safetensors.js";

const weightsName = "model.safetensors";

/** An opened model folder; no weight is read yet. */
export interface ModelFolder {
  /** The folder that was read. */
  readonly path: string;
  /** config.json */
  readonly config: JsonObject;
  readonly weights: TensorFile;
  /** preprocessor_config.json, if there is one. */
  readonly preprocessor?: JsonObject;
  /** generation_config.json, if there is one. */
  readonly generationConfig?: JsonObject;
  /** Names of all files in the folder, sorted. */
  readonly files: readonly string[];
}

/**
 * Opens a model folder. An interrupted `writeModelFolder` is completed first.
 * Throws `UserError` if the folder, its config.json, or its weights are missing or broken.
 */
export async function readModelFolder(folder: string): Promise<ModelFolder> {
  const path = await recoverFolder(folder);
  const files = await listFiles(path);
  const config = await readOptionalJson(path, files, "config.json");
  if (!config) {
    throw new UserError(
      `${path}: not a model folder: it has no config.json; give a folder as published on the Hugging Face hub or written by blip2 train`,
    );
  }
  const preprocessor = await readOptionalJson(path, files, "preprocessor_config.json");
  const generationConfig = await readOptionalJson(path, files, "generation_config.json");
  const weights = weightsFile(path, files);
  await mustStayInside(path, weights);
  return {
    path,
    config,
    weights: withFusedBiases(await openSafetensors(join(path, weights))),
    ...(preprocessor && { preprocessor }),
    ...(generationConfig && { generationConfig }),
    files,
  };
}

async function listFiles(path: string): Promise<string[]> {
  try {
    if ((await stat(path)).isDirectory()) return (await readdir(path)).sort();
  } catch (error) {
    if (codeOf(error) === "ENOENT")
      throw new UserError(`${path}: this folder does not exist`, { cause: error });
    throw new UserError(`${path}: cannot be read (${codeOf(error)})`, { cause: error });
  }
  throw new UserError(`${path}: a model folder is required, this is a file`);
}

function weightsFile(path: string, files: readonly string[]): string {
  const wanted = [weightsName, "model.safetensors.index.json"];
  const found = wanted.find((name) => files.includes(name));
  if (found) return found;
  const other = files.find((name) => /\.(bin|pth|pt|h5|msgpack)$/.test(name));
  const remedy = other
    ? `it has ${other}, which must be converted first: blip2 convert FOLDER OUT`
    : "fetch the folder again, it may be incomplete";
  throw new UserError(`${path}: ${wanted.join(" or ")} is required, neither is there; ${remedy}`);
}

async function readOptionalJson(
  folder: string,
  files: readonly string[],
  name: string,
): Promise<JsonObject | undefined> {
  if (!files.includes(name)) return undefined;
  await mustStayInside(folder, name);
  return readJsonObject(join(folder, name));
}

/**
 * Throws `UserError` if a config announces more layers than the file can hold, before a model of that many is built. `config` is
 * that of one part or one with parts inside.
 */
export function layersMustFit(config: object, tensors: ReadonlyMap<string, unknown>, where: string): void {
  for (const [key, value] of Object.entries(config) as [string, unknown][]) {
    if (typeof value === "object" && value !== null && key.endsWith("_config"))
      layersMustFit(value, tensors, `${where}: ${key}`);
    else if (/^num_(?:hidden_|decoder_)?layers$/.test(key) && Number(value) > tensors.size)
      throw new UserError(
        `${where}: ${key} is ${String(value)}, but the weights are ${tensors.size} tensors in all; check that config and weights belong together`,
      );
  }
}

/** Names that may differ without an error. */
export interface LoadTolerance {
  /** Expected tensors that may be absent (tied weights, for example). */
  readonly optional?: (name: string) => boolean;
  /** Tensors in the file that nobody expects and that are skipped. */
  readonly ignored?: (name: string) => boolean;
  /** Told of other tensors that nobody expects, which are skipped then; without it they are an error. */
  readonly extra?: (notice: string) => void;
}

/** What `checkTensors` found. Each name of both sides is in exactly one list. */
export interface LoadReport {
  /** Expected and present, in the expected order. */
  readonly loaded: readonly string[];
  /** Optional and absent. */
  readonly absent: readonly string[];
  /** Present and ignored. */
  readonly skipped: readonly string[];
}

/**
 * Compares the tensors that a model expects with those that a file has.
 * Throws one `UserError` that names every missing, unexpected and misshapen tensor; `where` names the file in it.
 */
export function checkTensors(
  expected: ReadonlyMap<string, readonly number[]>,
  found: ReadonlyMap<string, { readonly dims: readonly number[] }>,
  where: string,
  { optional = () => false, ignored = () => false, extra }: LoadTolerance = {},
): LoadReport {
  const loaded: string[] = [];
  const absent: string[] = [];
  const skipped: string[] = [];
  const missing: string[] = [];
  const misshapen: string[] = [];
  const unexpected: string[] = [];
  for (const [name, dims] of expected) {
    const tensor = found.get(name);
    if (!tensor) (optional(name) ? absent : missing).push(name);
    else if (sameDims(dims, tensor.dims)) loaded.push(name);
    else misshapen.push(`${name} (required [${dims.join(", ")}], got [${tensor.dims.join(", ")}])`);
  }
  for (const name of found.keys()) {
    if (!expected.has(name)) (ignored(name) ? skipped : unexpected).push(name);
  }
  const problems = [
    ...paragraph("missing", missing),
    ...paragraph("of another shape", misshapen),
    ...paragraph("not expected", unexpected),
  ];
  const onlyExtra = missing.length === 0 && misshapen.length === 0;
  if (extra !== undefined && unexpected.length > 0 && onlyExtra) {
    extra(`${where}: holds ${unexpected.length} tensors that nothing here reads: ${listedNames(unexpected)}`);
    return { loaded, absent, skipped: [...skipped, ...unexpected] };
  }
  if (problems.length > 0) {
    throw new UserError(
      `${where}: the weights do not fit the model of its config (${loaded.length} of ${expected.size} tensors fit); ` +
        `check that config and weights belong together\n${problems.join("\n")}`,
    );
  }
  return { loaded, absent, skipped };
}

function sameDims(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis]);
}

function paragraph(what: string, names: readonly string[]): string[] {
  return names.length === 0 ? [] : [`${names.length} ${what}:\n  ${listedNames(names, "\n  ")}`];
}

/** What `writeModelFolder` stores. */
export interface ModelFolderContent {
  readonly config: JsonObject;
  readonly tensors:
    Readonly<Record<string, HostTensor | LazyTensor>> | ReadonlyMap<string, HostTensor | LazyTensor>;
  /** Float tensors are stored as this, or as they are; whole-number tensors as they are. */
  readonly dtype: "float16" | "float32" | "unchanged";
  /** Further files by name: text or bytes as they are, objects as JSON. */
  readonly files?: Readonly<Record<string, string | Uint8Array | object>>;
  readonly onTensor?: WriteProgress;
}

/**
 * Writes a model folder in one piece (see `writeFolderAtomic`). An older model folder at this place is replaced.
 * Throws `UserError` if something else is there, the disk is full, or a weight does not fit float16.
 */
export async function writeModelFolder(path: string, content: ModelFolderContent): Promise<void> {
  const { tensors, dtype, onTensor } = content;
  const named: [string, HostTensor | LazyTensor][] =
    tensors instanceof Map ? [...tensors] : Object.entries(tensors);
  const stored = new Map(named.map(([name, tensor]) => [name, storedAs(tensor, dtype, name)]));
  const files = { ...content.files, "config.json": content.config };
  for (const name of Object.keys(files)) {
    if (name !== basename(name) || name === weightsName) {
      throw new InternalError(`writeModelFolder: ${name} cannot be an extra file`);
    }
  }
  await writeFolderAtomic(
    path,
    async (folder) => {
      await writeSafetensors(join(folder, weightsName), stored, { format: "pt" }, onTensor);
      for (const [name, value] of Object.entries(files)) {
        const raw = typeof value === "string" || value instanceof Uint8Array;
        await writeFile(join(folder, name), raw ? value : `${JSON.stringify(value, null, 2)}\n`);
      }
    },
    { replaceable: (entries) => entries.includes("config.json") && entries.includes(weightsName) },
  );
}

type StoredDType = ModelFolderContent["dtype"];

function storedAs<T extends HostTensor | LazyTensor>(
  tensor: T,
  dtype: StoredDType,
  name: string,
): T | HostTensor | LazyTensor {
  const target = storedDType(tensor.dtype, dtype);
  if (target === tensor.dtype) return tensor;
  const convert = (value: HostTensor): HostTensor =>
    target === "float16" ? toFloat16(value, name) : toFloat32(value);
  if ("data" in tensor) return convert(tensor);
  return { dtype: target, dims: tensor.dims, read: async () => convert(await tensor.read()) };
}

function storedDType(dtype: DType, wanted: StoredDType): DType {
  const isFloat = dtype === "float32" || dtype === "float16" || dtype === "bfloat16";
  return isFloat && wanted !== "unchanged" ? wanted : dtype;
}
