/**
 * `npm run bench -- ten-steps --against TREE`: ten steps of every training, with one thread and fixed seeds, by this tree and by another
 * checkout of the repository that has its `node_modules`. Compared are the logged losses and, bit for bit, all weights and moments
 * of the last checkpoint. A refactor leaves both as they were.
 *
 * --against TREE (without it this tree's figures are printed alone)  --only TRAINING,...  --keep FOLDER (left there in place of a temporary one)
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { inRepository } from "./repository.js";

const common = {
  steps: 10,
  batchSize: 8,
  accumulate: 2,
  learningRate: { peak: 3e-3, warmupSteps: 3 },
  logEvery: 1,
  evaluateEvery: 5,
  checkpointEvery: 10,
  seed: 3,
};

interface Training {
  readonly name: string;
  /** As the verb names it. */
  readonly stage: string;
  /** The rest of the configuration. */
  readonly config: object;
  /** Keys that take the model of an earlier training. */
  readonly models?: Readonly<Record<string, string>>;
}

/** In the order in which they need each other. */
const trainings: readonly Training[] = [
  {
    name: "opt",
    stage: "language-model",
    config: { model: { hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, ffn_dim: 64 } },
  },
  {
    name: "t5",
    stage: "language-model",
    config: {
      model: { model_type: "t5", d_model: 32, d_kv: 16, d_ff: 64, num_heads: 2, num_layers: 2 },
      condensedShare: 0.3,
      maxTextLength: 96,
    },
  },
  {
    name: "vision",
    stage: "vision",
    config: {
      model: {
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 3,
        num_attention_heads: 2,
        image_size: 48,
        patch_size: 12,
      },
      textTower: { hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, ffn_dim: 64 },
      sharedSize: 16,
      patchWeight: 1,
    },
  },
  {
    name: "stage1",
    stage: "stage1",
    config: {
      qformer: { hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64 },
      queries: 4,
      sharedSize: 16,
    },
    models: { vision: "vision" },
  },
  {
    name: "stage2-opt",
    stage: "stage2",
    config: { maxTextLength: 48 },
    models: { stage1: "stage1", languageModel: "opt" },
  },
  {
    name: "stage2-t5",
    stage: "stage2",
    config: { maxTextLength: 48 },
    models: { stage1: "stage1", languageModel: "t5" },
  },
];

export interface TenSteps {
  /** The loss of every step, as logged. */
  readonly losses: readonly number[];
  /** Of all tensors of the last checkpoint, by name. */
  readonly checkpoint: string;
}

/** A digest of names, shapes and bytes of all tensors, whatever their order and the file's metadata. */
async function tensorsOf(file: string): Promise<string> {
  const handle = await open(file);
  try {
    const size = Buffer.alloc(8);
    await handle.read(size, 0, 8, 0);
    const length = Number(size.readBigUInt64LE());
    const header = Buffer.alloc(length);
    await handle.read(header, 0, length, 8);
    const entries = Object.entries(
      JSON.parse(header.toString()) as Record<
        string,
        { dtype: string; shape: number[]; data_offsets: [number, number] }
      >,
    ).filter(([name]) => name !== "__metadata__");
    const hash = createHash("sha256");
    for (const [name, { dtype, shape, data_offsets: offsets }] of entries.sort(([a], [b]) =>
      a < b ? -1 : 1,
    )) {
      const data = Buffer.alloc(offsets[1] - offsets[0]);
      await handle.read(data, 0, data.length, 8 + length + offsets[0]);
      hash.update(`${name} ${dtype} ${shape.join("x")} `).update(data);
    }
    return hash.digest("hex").slice(0, 16);
  } finally {
    await handle.close();
  }
}

function blip2(tree: string, args: readonly string[]): void {
  const { status, stderr } = spawnSync(process.execPath, ["--import", "tsx", "src/cli/main.ts", ...args], {
    // Where the loader of TypeScript is found; all paths are whole.
    cwd: tree,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  });
  if (status !== 0) throw new Error(`${tree}: blip2 ${args.join(" ")} ended with ${status}: ${stderr}`);
}

/** Ten steps of each named training by the sources of `tree`, in `folder`. */
async function tenSteps(
  tree: string,
  folder: string,
  names: readonly string[],
): Promise<Map<string, TenSteps>> {
  await mkdir(folder, { recursive: true });
  const counts = [
    "--count",
    "40",
    "--validation",
    "12",
    "--test",
    "12",
    "--compositional",
    "6",
    "--text",
    "80",
  ];
  const inFolder = (...names: readonly string[]): string => path.join(folder, ...names);
  blip2(tree, ["scenes", "--out", inFolder("scenes"), "--seed", "5", ...counts]);
  const found = new Map<string, TenSteps>();
  for (const { name, stage, config, models = {} } of trainings) {
    const folders = Object.entries(models).map(([key, model]) => [key, inFolder(model, "model")] as const);
    const whole = { data: inFolder("scenes"), ...common, ...config, ...Object.fromEntries(folders) };
    await writeFile(inFolder(`${name}.json`), JSON.stringify(whole));
    const run = inFolder(name);
    blip2(tree, ["train", stage, "--config", `${run}.json`, "--out", run, "--threads", "1"]);
    const log = (await readFile(inFolder(name, "log.jsonl"), "utf8")).trim().split("\n");
    const losses = log
      .map((line) => JSON.parse(line) as Record<string, number>)
      .flatMap(({ loss }) => (loss === undefined ? [] : [loss]));
    const checkpoint = await tensorsOf(inFolder(name, "checkpoint.safetensors"));
    if (names.includes(name)) found.set(name, { losses, checkpoint });
  }
  return found;
}

export async function compareTenSteps(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: { against: { type: "string" }, only: { type: "string" }, keep: { type: "string" } },
  });
  const all = trainings.map(({ name }) => name);
  const names = values.only?.split(",") ?? all;
  const unknown = names.filter((name) => !all.includes(name));
  if (unknown.length > 0) throw new Error(`--only: ${unknown.join(", ")} is none of ${all.join(", ")}`);
  const folder =
    values.keep === undefined
      ? await mkdtemp(path.join(tmpdir(), "blip2-steps-"))
      : path.resolve(values.keep);
  try {
    const here = await tenSteps(inRepository("."), path.join(folder, "here"), names);
    const there =
      values.against === undefined
        ? undefined
        : await tenSteps(path.resolve(values.against), path.join(folder, "there"), names);
    for (const [name, { losses, checkpoint }] of here) {
      console.log(`${name}: losses ${losses.join(" ")}; weights and moments ${checkpoint}`);
      const other = there?.get(name);
      if (other === undefined) continue;
      const isEqual = other.checkpoint === checkpoint && other.losses.join() === losses.join();
      console.log(
        `${name}: ${isEqual ? "equal" : `DIFFERENT from ${other.losses.join(" ")}; ${other.checkpoint}`}`,
      );
      if (!isEqual) process.exitCode = 1;
    }
  } finally {
    if (values.keep === undefined) await rm(folder, { recursive: true, force: true });
  }
}
