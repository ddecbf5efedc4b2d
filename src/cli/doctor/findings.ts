/** What `blip2 doctor` looks at. */
import { readFile, readdir, stat, statfs } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { ByteProducts } from "../../engine/index.js";
import { packageRoot } from "../package-root.js";
import { probeNativePackage, type NativePackage } from "./native-package.js";

export interface Findings {
  readonly ok: boolean;
  readonly problems: readonly string[];
  readonly package: { readonly name: string; readonly version: string; readonly path: string };
  readonly node: { readonly version: string; readonly required: string; readonly ok: boolean };
  readonly platform: { readonly os: string; readonly arch: string; readonly release: string };
  readonly cpus: { readonly available: number; readonly host: number; readonly model: string };
  readonly memory: {
    readonly totalBytes: number;
    readonly availableBytes: number;
    readonly limitBytes: number | null;
  };
  readonly onnxruntime: NativePackage<{ readonly providers: readonly Provider[] }>;
  readonly int8: ByteArithmetic;
  /** Whether the runtime reports its use to its maker: only where somebody has asked for it. */
  readonly usageReports: boolean;
  readonly sharp: NativePackage<{ readonly libraries: { readonly [name: string]: string } }>;
  readonly models: readonly BundledModel[];
  readonly disk: { readonly path: string; readonly freeBytes: number };
}

/** Where the runtime can compute. What is not bundled asks for libraries that are installed separately. */
export interface Provider {
  readonly name: string;
  readonly bundled: boolean;
}

/** How weights of 8 bits are multiplied here. */
export type ByteArithmetic =
  { readonly ok: true; readonly products: ByteProducts } | { readonly ok: false; readonly error: string };

export type BundledModel =
  | {
      readonly name: string;
      readonly complete: true;
      readonly type: string;
      readonly bytes: number;
    }
  | { readonly name: string; readonly complete: false; readonly error: string };

export async function inspectMachine(signal: AbortSignal): Promise<Findings> {
  const root = fileURLToPath(packageRoot);
  const { usageReportsAreOn, withoutUsageReports } = await import("../../engine/node.js");
  withoutUsageReports();
  const [description, cpus, onnxruntime, sharp, models, { bavail, bsize }] = await Promise.all([
    readFile(path.join(root, "package.json"), "utf8"),
    inspectCpus(),
    probeNativePackage<{ providers: Provider[] }>(
      "onnxruntime-node",
      "{ version: library.env.versions.node ?? library.env.versions.common, providers: library.listSupportedBackends() }",
      signal,
    ),
    probeNativePackage<{ libraries: { [name: string]: string } }>(
      "sharp",
      "(({ sharp, ...libraries }) => ({ version: sharp, libraries }))(library.versions)",
      signal,
    ),
    inspectModels(path.join(root, "models")),
    statfs(process.cwd()),
  ]);
  const int8: ByteArithmetic = onnxruntime.ok
    ? await inspectBytes()
    : { ok: false, error: "not known, as onnxruntime does not load" };
  const { name, version, engines } = JSON.parse(description) as {
    name: string;
    version: string;
    engines: { node: string };
  };
  const node = {
    version: process.versions.node,
    required: engines.node,
    ok: isAtLeast(process.versions.node, engines.node),
  };

  const problems: string[] = [];
  if (!node.ok)
    problems.push(`Node ${engines.node} is required, this is ${node.version}; install a newer one.`);
  for (const library of [onnxruntime, sharp]) {
    if (!library.ok) problems.push(`${capitalise(library.error)}; install blip2 again on this platform.`);
  }
  if (onnxruntime.ok && !int8.ok) problems.push(`${capitalise(int8.error)}.`);
  for (const model of models) {
    if (!model.complete) problems.push(`Bundled model ${model.name} is broken: ${model.error}.`);
  }

  // 0 or nearly 2^64 where there is no control group with a limit
  const limit = process.constrainedMemory();
  const hasLimit = limit !== undefined && limit > 0 && limit < os.totalmem();
  return {
    ok: problems.length === 0,
    problems,
    package: { name, version, path: root },
    node,
    platform: { os: process.platform, arch: process.arch, release: os.release() },
    cpus,
    memory: {
      totalBytes: os.totalmem(),
      availableBytes: process.availableMemory(),
      limitBytes: hasLimit ? limit : null,
    },
    onnxruntime,
    int8,
    usageReports: usageReportsAreOn(),
    sharp,
    models,
    disk: { path: process.cwd(), freeBytes: bavail * bsize },
  };
}

async function inspectCpus(): Promise<Findings["cpus"]> {
  const { availableCpus } = await import("../../engine/node.js");
  const host = os.cpus();
  return { available: availableCpus(), host: host.length, model: host[0]?.model.trim() ?? "unknown" };
}

async function inspectBytes(): Promise<ByteArithmetic> {
  const { openDevice } = await import("../../engine/node.js");
  await using device = openDevice({ threads: 1 });
  try {
    return { ok: true, products: await device.byteProducts() };
  } catch (error) {
    return { ok: false, error: error instanceof Error ? error.message : String(error) };
  }
}

/** Every folder below `folder` that has a config.json, or should have one because it has weights. */
export async function inspectModels(folder: string): Promise<BundledModel[]> {
  let files: string[];
  try {
    files = await readdir(folder, { recursive: true });
  } catch {
    return []; // an installation without bundled models
  }
  const marks = files.filter((file) => /^config\.json$|\.safetensors$/.test(path.basename(file)));
  const names = [...new Set(marks.map((file) => path.dirname(file)))].toSorted();
  return Promise.all(names.map((name) => inspectModel(folder, name)));
}

/** What a model needs beside its weights, by the `model_type` of its config.json. */
async function companionsOf(type: string): Promise<readonly string[]> {
  if (type === "blip-2") return ["preprocessor_config.json", "tokenizer.json"];
  const { familyNames } = await import("../../models/language/families.js");
  return familyNames.some((family) => family === type) ? ["tokenizer.json"] : [];
}

async function inspectModel(folder: string, name: string): Promise<BundledModel> {
  const { readModelFolder } = await import("../../checkpoints/model-folder.js");
  try {
    const { config, files, path: at } = await readModelFolder(path.join(folder, name));
    const type = typeof config["model_type"] === "string" ? config["model_type"] : "unknown";
    const missing = (await companionsOf(type)).filter((file) => !files.includes(file));
    if (missing.length > 0) return { name, complete: false, error: `it lacks ${missing.join(" and ")}` };
    const sizes = await Promise.all(files.map(async (file) => (await stat(path.join(at, file))).size));
    return { name, complete: true, type, bytes: sizes.reduce((sum, size) => sum + size, 0) };
  } catch (error) {
    return { name, complete: false, error: error instanceof Error ? error.message : String(error) };
  }
}

/** Understands the one form that package.json uses: `>=20.19`. */
function isAtLeast(version: string, range: string): boolean {
  const wanted = range
    .replace(/^>=\s*/, "")
    .split(".")
    .map(Number);
  const found = version.split(".").map(Number);
  for (const [place, number] of wanted.entries()) {
    if (found[place] !== number) return (found[place] ?? 0) > number;
  }
  return true;
}

function capitalise(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}
