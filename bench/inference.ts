/**
 * `npm run bench -- inference`: a BLIP-2 of the published size (random weights) here and in transformers on PyTorch:
 * picture to soft prompt, prompt to first token, seconds per token, load time, peak memory. The rivals take turns, round by
 * round, each turn in a process of its own; medians over the rounds are compared. Never more than one model is in memory,
 * and what would not fit into the free memory is left out and named.
 *
 * --sizes full,small  --rounds 2  --threads N  --pictures 3  --tokens 6  --ours fp32,int8,int4  --peers bf16,fp32
 * --parts vision,bridge,languageModel (ours)  --folder FOLDER (default runs/bench-inference)
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { freemem } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { readModelFolder } from "../src/checkpoints/model-folder.js";
import { availableCpus, openDevice } from "../src/engine/node.js";
import { Blip2Runner, blip2Parts, type Blip2Part } from "../src/generation/blip-2-runner.js";
import { blip2Config } from "../src/models/blip-2.js";
import { precisions, type Precision } from "../src/loading/precision.js";
import type { ChildTask, InferenceMeasure } from "./inference-child.js";
import { checkpointSizes, ensureRandomCheckpoint } from "./random-checkpoint.js";
import { median } from "./runtime-profile.js";
import { inRepository } from "./repository.js";

interface Rival {
  readonly label: string;
  /** Bytes per weight that it will hold, roughly, at its peak. */
  readonly bytesPerWeight: number;
  readonly command: string;
  readonly args: readonly string[];
  readonly rounds: InferenceMeasure[];
}

const weightBytes: Readonly<Record<Precision | "bf16", number>> = {
  fp32: 4.4,
  int8: 1.6,
  int4: 1.3,
  bf16: 2.3,
};

/** Memory that can be had without driving others out. */
function availableMemory(): number {
  try {
    return Number(/^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "utf8"))![1]) * 1024;
  } catch {
    return freemem();
  }
}

/** The last line that a process prints, as JSON; a text says why there is none. */
function runChild(command: string, args: readonly string[]): Promise<InferenceMeasure | string> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    let [out, errors] = ["", ""];
    child.stdout.on("data", (text: Buffer) => (out += text.toString()));
    child.stderr.on("data", (text: Buffer) => (errors += text.toString()));
    child.on("error", (error) => resolve(`${command}: ${error.message}`));
    child.on("close", (code, signal) => {
      const line = out.trim().split("\n").at(-1) ?? "";
      if (code === 0 && line.startsWith("{")) resolve(JSON.parse(line) as InferenceMeasure);
      else resolve(`${command}: ${errors.trim().split("\n").at(-1) || `ended with ${signal ?? code}`}`);
    });
  });
}

function rivals(
  folder: string,
  ours: readonly Precision[],
  peers: readonly string[],
  common: Pick<ChildTask, "threads" | "pictures" | "tokens" | "parts">,
): Rival[] {
  const { threads, pictures, tokens } = common;
  const python = process.env["BLIP2_PYTHON"] ?? "python3";
  const numbers = ["--threads", threads, "--pictures", pictures, "--tokens", tokens].map(String);
  return [
    ...ours.map((precision) => ({
      label: `blip2 ${precision}`,
      bytesPerWeight: weightBytes[precision],
      command: process.execPath,
      args: [
        path.join(import.meta.dirname, "inference-child.js"),
        JSON.stringify({ folder, precision, ...common } satisfies ChildTask),
      ],
      rounds: [],
    })),
    ...peers.map((precision) => ({
      label: `PyTorch ${precision}`,
      bytesPerWeight: weightBytes[precision as "bf16"] ?? 4.4,
      command: python,
      args: [
        inRepository("reference/bench_inference.py"),
        "--folder",
        folder,
        "--precision",
        precision,
        ...numbers,
      ],
      rounds: [],
    })),
  ];
}

/** Makes the quantised copies, which a user waits for once. */
async function quantise(folder: string, precision: Precision): Promise<void> {
  const start = performance.now();
  let made = false;
  const { weights, config } = await readModelFolder(folder);
  await using device = openDevice({ threads: 1 });
  await Blip2Runner.load(device, blip2Config(config), weights, {
    precision,
    parts: [],
    onProgress: ({ detail }) => (made ||= detail === "quantise"),
  });
  if (made) {
    console.log(`${precision} copy made in ${((performance.now() - start) / 1000).toFixed(0)} s, once`);
  }
}

function show(all: readonly Rival[]): void {
  const value = (rival: Rival, key: "load" | "picture" | "prompt" | "token" | "peakBytes"): number =>
    median(rival.rounds.map((round) => round[key] ?? NaN));
  const cpu = (rival: Rival, key: "picture" | "prompt" | "token"): number =>
    median(rival.rounds.map((round) => round.cpu?.[key] ?? NaN));
  const reference = all.find(({ label, rounds }) => label === "PyTorch bf16" && rounds.length > 0);
  console.log("                 load s  picture s  prompt s  token s  tokens/s  peak GB");
  for (const rival of all) {
    if (rival.rounds.length === 0) continue;
    const token = value(rival, "token");
    const cells = [
      value(rival, "load").toFixed(1).padStart(6),
      value(rival, "picture").toFixed(3).padStart(9),
      value(rival, "prompt").toFixed(3).padStart(8),
      token.toFixed(3).padStart(7),
      (1 / token).toFixed(2).padStart(8),
      (value(rival, "peakBytes") / 1e9).toFixed(2).padStart(7),
    ];
    console.log(`${rival.label.padEnd(16)} ${cells.join("  ")}`);
  }
  console.log("processor seconds, all threads together:  picture  prompt  token");
  for (const rival of all) {
    if (rival.rounds.length === 0) continue;
    const cells = (["picture", "prompt", "token"] as const).map((key) =>
      cpu(rival, key).toFixed(3).padStart(7),
    );
    console.log(`${rival.label.padEnd(41)} ${cells.join(" ")}`);
  }
  if (reference === undefined) return;
  for (const rival of all) {
    if (rival === reference || rival.rounds.length === 0) continue;
    const ratio = (key: Parameters<typeof value>[1]): string =>
      (value(reference, key) / value(rival, key)).toFixed(2);
    console.log(
      `${rival.label} against PyTorch bf16: tokens/s x ${ratio("token")}, picture x ${ratio("picture")}, ` +
        `first token x ${ratio("prompt")}, processor time per token x ${(cpu(reference, "token") / cpu(rival, "token")).toFixed(2)}, ` +
        `per picture x ${(cpu(reference, "picture") / cpu(rival, "picture")).toFixed(2)}, memory ${(100 / Number(ratio("peakBytes"))).toFixed(0)} %`,
    );
  }
}

const list = (text: string): string[] => text.split(",").filter(Boolean);

function chosen<T extends string>(option: string, text: string, known: readonly T[]): T[] {
  const unknown = list(text).filter((name) => !known.includes(name as T));
  if (unknown.length > 0) throw new Error(`${option}: ${unknown.join()} is none of ${known.join(", ")}`);
  return list(text) as T[];
}

export async function inference(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      sizes: { type: "string", default: "full" },
      rounds: { type: "string", default: "2" },
      threads: { type: "string", default: String(availableCpus()) },
      pictures: { type: "string", default: "3" },
      tokens: { type: "string", default: "6" },
      ours: { type: "string", default: precisions.join() },
      peers: { type: "string", default: "bf16,fp32" },
      parts: { type: "string", default: blip2Parts.join() },
      folder: { type: "string", default: inRepository("runs/bench-inference") },
    },
  });
  const ours = chosen("--ours", values.ours, precisions);
  const peers = chosen("--peers", values.peers, ["bf16", "fp32"]);
  const parts: readonly Blip2Part[] = chosen("--parts", values.parts, blip2Parts);
  for (const size of chosen("--sizes", values.sizes, Object.keys(checkpointSizes))) {
    const folder = path.join(values.folder, size);
    const started = performance.now();
    await ensureRandomCheckpoint(folder, size);
    for (const precision of ours) await quantise(folder, precision);
    const { tensors } = (await readModelFolder(folder)).weights;
    const weights = [...tensors.values()].reduce((sum, { length }) => sum + length / 2, 0);
    console.log(`${size}: ${(weights / 1e9).toFixed(2)} thousand million weights, ${values.threads} threads`);
    const all = rivals(folder, ours, peers, {
      threads: Number(values.threads),
      pictures: Number(values.pictures),
      tokens: Number(values.tokens),
      parts,
    });
    const out = new Set<Rival>();
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const rival of all) {
        if (out.has(rival)) continue;
        const needed = rival.bytesPerWeight * weights + 5e8;
        const answer =
          availableMemory() < needed
            ? `${(needed / 1e9).toFixed(0)} GB of memory are needed, ${(availableMemory() / 1e9).toFixed(0)} are free`
            : await runChild(rival.command, rival.args);
        if (typeof answer === "string") {
          out.add(rival);
          console.log(`${rival.label} does not take part: ${answer}`);
        } else rival.rounds.push(answer);
      }
    }
    show(all);
    console.log(`done in ${((performance.now() - started) / 1000).toFixed(0)} s`);
  }
}
