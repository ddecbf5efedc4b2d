/**
 * The layout of src/, checked by reading import lines: one direction between layers, no cycles between files, types
 * included, the runtime only in the engine, Node's own modules only where they are named, and out of reach of what shall
 * run in a browser. The tables below hold the rules.
 */
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

/** Each row may import from the rows above it, never from its own neighbours or from below. */
const layers: readonly (readonly string[])[] = [
  ["engine"],
  ["nn"],
  ["models"],
  ["objectives", "loading"],
  ["training", "generation", "retrieval", "conversion"],
  ["evaluation"],
  ["recipes"],
  ["cli"],
];

/** Leaves know nothing of the layers; any layer above the engine may use them. */
const leaves: Readonly<Record<string, readonly string[]>> = {
  files: [],
  hub: ["files"],
  checkpoints: ["files"],
  images: ["files"],
  text: ["files"],
  data: ["images", "text", "files"],
  metrics: ["text"],
};

/** Importable from everywhere; import nothing but each other. */
const foundation: readonly string[] = [
  "src/errors.ts",
  "src/notices.ts",
  "src/host-tensor.ts",
  "src/float16.ts",
  "src/random.ts",
  "src/quoted.ts",
  "src/listed.ts",
  "src/json.ts",
  "src/check-options.ts",
  "src/raw-tensors.ts",
  "src/open-calls.ts",
];

const publicSurface = "src/index.ts";

/** Only the files listed may touch Node's own modules in these folders. */
const portableFolders: readonly string[] = ["engine", "nn", "models", "generation", "objectives"];

/** Files of these folders shall also run in a browser: no chain of imports, types included, leads from them to Node. */
const browserFolders: readonly string[] = [
  "src/engine/",
  "src/nn/",
  "src/models/",
  "src/objectives/",
  "src/generation/search/",
];
/** The device that Node runs, and what it is made of. */
const nodeDevice: readonly string[] = ["src/engine/node.ts"];
const nodeFiles: readonly string[] = [
  "src/engine/cpu-count.ts",
  "src/engine/placement.ts",
  "src/engine/runtime-host.ts",
  "src/engine/session.ts",
  "src/engine/session-worker.ts",
  "src/engine/usage-reports.ts",
];

const maxLines = 450;
const medianBelow = 120;
/** Path -> why it is better in one piece. */
const longFiles: Readonly<Record<string, string>> = {};

interface ImportLine {
  readonly specifier: string;
  readonly kind: "static" | "type" | "dynamic";
}

function readImports(source: string): ImportLine[] {
  const code = source.replace(/^\s*(?:\/\/|\/?\*).*$/gm, "");
  const found: ImportLine[] = [];
  const statement = /^(?:import|export)\s+(type\s+)?(?:[^"';=()]*?(?:\s|\})from\s+)?["']([^"']+)["']/gm;
  for (const [, typeOnly, specifier = ""] of code.matchAll(statement)) {
    found.push({ specifier, kind: typeOnly === undefined ? "static" : "type" });
  }
  for (const [, specifier = ""] of code.matchAll(/\b(?:import|require)\s*\(\s*["'`]([^"'`]+)["'`]/g)) {
    found.push({ specifier, kind: "dynamic" });
  }
  return found;
}

/** `src/nn/linear.ts` and `../engine/ops.js` make `src/engine/ops.ts`; a package or a Node module makes nothing. */
function resolveLocal(importer: string, specifier: string): string | undefined {
  if (!specifier.startsWith(".")) return undefined;
  return path.posix.join(path.posix.dirname(importer), specifier).replace(/\.js$/, ".ts");
}

const folderOf = (file: string): string => file.split("/")[1] ?? "";
const layerOf = (file: string): number => layers.findIndex((row) => row.includes(folderOf(file)));

/** Why `importer` may not import `target`, or nothing if it may. */
function forbiddenArrow(importer: string, target: string): string | undefined {
  const [from, to] = [folderOf(importer), folderOf(target)];
  if (foundation.includes(target)) return undefined;
  if (foundation.includes(importer)) return "the foundation imports nothing but itself";
  if (importer === publicSurface) {
    return to === "cli" ? "the public surface does not know the command line" : undefined;
  }
  if (target === publicSurface) return from === "cli" ? undefined : "only the command line uses the surface";
  if (from === to) return undefined;
  const mayImport = leaves[from];
  if (mayImport !== undefined) {
    return mayImport.includes(to) ? undefined : `${from} is a leaf and may not import ${to}`;
  }
  if (to in leaves) return from === "engine" ? "the engine knows tensors only" : undefined;
  const [fromLayer, toLayer] = [layerOf(importer), layerOf(target)];
  if (toLayer === -1) return "the target has no place in the layers";
  return toLayer < fromLayer ? undefined : `${from} may not import ${to}: the arrow points upward`;
}

/** The first cycle met from each file, as the list of its files, each cycle once. */
function findCycles(graph: ReadonlyMap<string, readonly string[]>): string[][] {
  const cycles: string[][] = [];
  const done = new Set<string>();
  const trail: string[] = [];
  const visit = (file: string): void => {
    const start = trail.indexOf(file);
    if (start >= 0) {
      cycles.push([...trail.slice(start), file]);
      return;
    }
    if (done.has(file)) return;
    trail.push(file);
    for (const target of graph.get(file) ?? []) visit(target);
    trail.pop();
    done.add(file);
  };
  for (const file of graph.keys()) visit(file);
  return cycles;
}

/** Why a file cannot run in a browser: the shortest chain of imports from it to a module that one lacks. */
function wayToNode(
  start: string,
  graph: ReadonlyMap<string, readonly string[]>,
  needed: ReadonlyMap<string, readonly string[]>,
): string | undefined {
  const cameFrom = new Map<string, string | undefined>([[start, undefined]]);
  for (const file of cameFrom.keys()) {
    const [specifier] = needed.get(file) ?? [];
    if (specifier !== undefined) {
      const chain = [specifier];
      for (let at: string | undefined = file; at !== undefined; at = cameFrom.get(at)) chain.unshift(at);
      return chain.join(" -> ");
    }
    for (const target of graph.get(file) ?? []) if (!cameFrom.has(target)) cameFrom.set(target, file);
  }
  return undefined;
}

/** All violations in a tree of sources, given as path (from the repository's root) -> text. */
function findViolations(sources: ReadonlyMap<string, string>): string[] {
  const violations: string[] = [];
  const graph = new Map<string, string[]>();
  /** What a browser lacks, by the file that imports it. */
  const needed = new Map<string, string[]>();

  for (const [file, source] of sources) {
    const folder = folderOf(file);
    const targets: string[] = [];
    graph.set(file, targets);

    const placed = layerOf(file) >= 0 || folder in leaves;
    if (!placed && file !== publicSurface && !foundation.includes(file)) {
      violations.push(`${file}: has no place in the layers`);
    }
    if (/^utils?\b/.test(path.posix.basename(file))) {
      violations.push(`${file}: name it for what it holds, not utils`);
    }
    const lines = source.trimEnd().split("\n").length;
    if (lines > maxLines && !(file in longFiles)) {
      violations.push(`${file}: ${lines} lines, more than ${maxLines}, and no reason given`);
    }

    for (const { specifier, kind } of readImports(source)) {
      if (/^onnxruntime(?:-|$)/.test(specifier) && folder !== "engine") {
        violations.push(`${file}: imports ${specifier} outside src/engine`);
      }
      if (specifier.startsWith("node:") && portableFolders.includes(folder) && !nodeFiles.includes(file)) {
        violations.push(`${file}: imports ${specifier}, which a browser lacks`);
      }
      if (/^node:|^onnxruntime-node(?:\/|$)/.test(specifier))
        needed.set(file, [...(needed.get(file) ?? []), specifier]);
      const target = resolveLocal(file, specifier);
      // A verb loads its work inside run(), so that help and usage errors wait for no native library.
      const light = target === undefined ? specifier.startsWith("node:") : folderOf(target) === "cli";
      if (folder === "cli" && kind === "static" && !light && !(target && foundation.includes(target))) {
        violations.push(`${file}: imports ${specifier} at the top; use await import() where it is needed`);
      }
      if (target === undefined) continue;
      const reason = forbiddenArrow(file, target);
      if (reason !== undefined) violations.push(`${file}: imports ${specifier}: ${reason}`);
      targets.push(target);
    }
  }

  for (const file of sources.keys()) {
    if (!browserFolders.some((folder) => file.startsWith(folder))) continue;
    if (nodeFiles.includes(file) || nodeDevice.includes(file)) continue;
    // What a file imports itself is told above.
    const way = needed.has(file) ? undefined : wayToNode(file, graph, needed);
    if (way !== undefined) violations.push(`not for a browser: ${way}`);
  }
  for (const cycle of findCycles(graph)) violations.push(`import cycle: ${cycle.join(" -> ")}`);
  return violations;
}

function readTree(root: string, folder: string): Map<string, string> {
  const entries = readdirSync(path.join(root, folder), { recursive: true, withFileTypes: true });
  const sources = new Map<string, string>();
  for (const entry of entries) {
    if (!entry.isFile() || !entry.name.endsWith(".ts")) continue;
    const file = path.join(entry.parentPath, entry.name);
    sources.set(path.relative(root, file).split(path.sep).join("/"), readFileSync(file, "utf8"));
  }
  return sources;
}

const root = fileURLToPath(new URL("../", import.meta.url));

describe("the layout of src", () => {
  test("keeps the one direction of imports and the other layout rules", () => {
    const sources = readTree(root, "src");
    expect(sources.size).toBeGreaterThan(5);
    expect(findViolations(sources)).toEqual([]);
  });

  test("has short files, as a rule", () => {
    const lengths = [...readTree(root, "src").values()].map((source) => source.trimEnd().split("\n").length);
    lengths.sort((a, b) => a - b);
    expect(lengths[Math.floor(lengths.length / 2)]).toBeLessThan(medianBelow);
  });

  test("decides what is T5's in the language models and in the conversion alone", () => {
    const deciding = [...readTree(root, "src")].filter(([, source]) => /"t5"|isT5/.test(source));
    const folders = new Set(deciding.map(([file]) => file.split("/").slice(0, -1).join("/")));
    expect([...folders].sort()).toEqual(["src/conversion", "src/models/language"]);
  });

  test("lists no exception that is not needed", () => {
    const sources = readTree(root, "src");
    for (const file of nodeFiles) {
      const imports = readImports(sources.get(file) ?? "");
      expect(
        imports.some(({ specifier }) => specifier.startsWith("node:")),
        file,
      ).toBe(true);
    }
    for (const file of Object.keys(longFiles)) {
      expect((sources.get(file) ?? "").trimEnd().split("\n").length, file).toBeGreaterThan(maxLines);
    }
  });
});

describe("the checker itself", () => {
  const check = (files: Record<string, string>): string[] => findViolations(new Map(Object.entries(files)));

  test("accepts what the layers allow", () => {
    const violations = check({
      "src/errors.ts": "",
      "src/host-tensor.ts": `import { InternalError } from "./errors.js";`,
      "src/engine/session.ts": `import { Worker } from "node:worker_threads";\nimport * as ort from "onnxruntime-node";`,
      "src/engine/op.ts": `import type { Dims } from "./dims.js";`,
      "src/engine/dims.ts": "",
      "src/engine/graph.ts": `import { op } from "./op.js";\nimport { UserError } from "../errors.js";`,
      "src/nn/linear.ts": `import { op } from "../engine/op.js";`,
      "src/text/tokenizer.ts": `import { readFile } from "node:fs/promises";`,
      "src/data/batch.ts": `import { tokenize } from "../text/tokenizer.js";`,
      "src/models/opt.ts": `import {\n  linear,\n  type Linear,\n} from "../nn/linear.js";`,
      "src/training/loop.ts": `import { opt } from "../models/opt.js";\nimport { batch } from "../data/batch.js";`,
      "src/index.ts": `export { train } from "./training/loop.js";`,
      "src/cli/verbs/train.ts": `export const run = async () => (await import("../../training/loop.js")).train();`,
    });
    expect(violations).toEqual([]);
  });

  test.each([
    ["an upward arrow", "src/nn/linear.ts", `import { opt } from "../models/opt.js";`, /points upward/],
    ["an upward type", "src/engine/op.ts", `import type { Linear } from "../nn/linear.js";`, /points upward/],
    ["an upward re-export", "src/models/opt.ts", `export * from "../training/loop.js";`, /points upward/],
    ["a neighbour", "src/generation/beam.ts", `import { step } from "../training/loop.js";`, /points upward/],
    ["a hidden arrow", "src/nn/linear.ts", `const m = await import("../cli/run.js");`, /points upward/],
    ["many lines", "src/nn/mlp.ts", `import {\n  a,\n  b,\n} from "../models/opt.js";`, /points upward/],
    ["a leaf that climbs", "src/images/resize.ts", `import { op } from "../engine/op.js";`, /is a leaf/],
    ["a leaf's neighbour", "src/text/prompt.ts", `import { f } from "../images/resize.js";`, /is a leaf/],
    ["a leaf in the engine", "src/engine/op.ts", `import { f } from "../text/prompt.js";`, /tensors only/],
    ["a busy foundation", "src/errors.ts", `import { op } from "./engine/op.js";`, /foundation/],
    ["a surface with verbs", "src/index.ts", `export { run } from "./cli/run.js";`, /command line/],
    ["use of the surface", "src/training/loop.ts", `import { Blip2 } from "../index.js";`, /surface/],
    [
      "the runtime outside",
      "src/nn/linear.ts",
      `import * as ort from "onnxruntime-node";`,
      /outside src\/engine/,
    ],
    ["the runtime, loaded late", "src/cli/run.ts", `await import("onnxruntime-web");`, /outside src\/engine/],
    ["a Node module", "src/models/opt.ts", `import { readFileSync } from "node:fs";`, /a browser lacks/],
    [
      "a heavy verb",
      "src/cli/verbs/train.ts",
      `import { loop } from "../../training/loop.js";`,
      /await import/,
    ],
    ["a heavy package", "src/cli/verbs/train.ts", `import sharp from "sharp";`, /await import/],
    ["a stray folder", "src/helpers/thing.ts", "", /no place/],
    ["a grab bag", "src/nn/utils.ts", "", /not utils/],
    ["a grab bag of a kind", "src/nn/utils-shape.ts", "", /not utils/],
    ["a long file", "src/nn/long.ts", "//\n".repeat(451), /451 lines/],
  ])("refuses %s", (_, file, source, message) => {
    expect(check({ [file]: source }).join("\n")).toMatch(message);
  });

  test("finds a cycle between files, and names it once", () => {
    const violations = check({
      "src/nn/a.ts": `import { b } from "./b.js";`,
      "src/nn/b.ts": `export { c } from "./c.js";`,
      "src/nn/c.ts": `import "./a.js";`,
    });
    expect(violations).toEqual(["import cycle: src/nn/a.ts -> src/nn/b.ts -> src/nn/c.ts -> src/nn/a.ts"]);
  });

  test("finds a cycle of types too", () => {
    const a = `import type { B } from "./b.js";`;
    const found = ["import cycle: src/nn/a.ts -> src/nn/b.ts -> src/nn/a.ts"];
    expect(check({ "src/nn/a.ts": a, "src/nn/b.ts": `import { a } from "./a.js";` })).toEqual(found);
    expect(check({ "src/nn/a.ts": a, "src/nn/b.ts": `export type { A } from "./a.js";` })).toEqual(found);
    const inline = `export const b = (a: import("./a.js").A) => a;`;
    expect(check({ "src/nn/a.ts": a, "src/nn/b.ts": inline })).toEqual(found);
  });

  test("follows what shall run in a browser to Node, by any chain", () => {
    const node = { "src/checkpoints/file.ts": `import { open } from "node:fs/promises";` };
    const found = (file: string, source: string): string[] => check({ ...node, [file]: source });
    const chain = "src/checkpoints/file.ts -> node:fs/promises";
    for (const source of [
      `import { read } from "../checkpoints/file.js";`,
      `import type { File } from "../checkpoints/file.js";`,
      `export type { File } from "../checkpoints/file.js";`,
      `const { read } = await import("../checkpoints/file.js");`,
    ])
      expect(found("src/models/opt.ts", source)).toEqual([
        `not for a browser: src/models/opt.ts -> ${chain}`,
      ]);
    expect(
      check({
        ...node,
        "src/checkpoints/names.ts": `export type { File } from "./file.js";`,
        "src/nn/layer.ts": `import type { File } from "../checkpoints/names.js";`,
      }),
    ).toEqual([`not for a browser: src/nn/layer.ts -> src/checkpoints/names.ts -> ${chain}`]);
    expect(
      check({
        "src/engine/session.ts": `import { Worker } from "node:worker_threads";`,
        "src/engine/node.ts": `export { open } from "./session.js";`,
        "src/generation/search/beam.ts": `import { open } from "../../engine/node.js";`,
        "src/generation/blip-2.ts": `import { open } from "../engine/node.js";`,
      }),
    ).toEqual([
      "not for a browser: src/generation/search/beam.ts -> src/engine/node.ts -> src/engine/session.ts -> node:worker_threads",
    ]);
    expect(
      check({
        "src/engine/run.ts": `import ort from "onnxruntime-node";`,
        "src/nn/a.ts": `import "../engine/run.js";`,
      }),
    ).toEqual(["not for a browser: src/nn/a.ts -> src/engine/run.ts -> onnxruntime-node"]);
    expect(found("src/training/loop.ts", `import { read } from "../checkpoints/file.js";`)).toEqual([]);
  });

  test("is not misled by comments and strings", () => {
    const source = [
      `// import { opt } from "../models/opt.js";`,
      `/** import { opt } from "../models/opt.js"; */`,
      ` * {@link import("../models/opt.js")}`,
      `export const text = 'from "../models/opt.js"';`,
      `export type Kind = "a" | "../models/opt.js";`,
    ].join("\n");
    expect(readImports(source)).toEqual([]);
  });
});
