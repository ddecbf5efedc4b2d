/**
 * `npm run bench -- stage2-start`: memory when stage 2 is ready for its first step, beside that of inference with the same language model,
 * taken out of a BLIP-2 folder of random float16 weights in shards. Linux only.
 *
 * --sizes opt-1.3b (or small, full)  --folder runs/bench/SIZE  --threads N
 */
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { writeScenes } from "../src/data/scenes/index.js";
import { availableCpus } from "../src/engine/node.js";
import { ensureRandomCheckpoint } from "./random-checkpoint.js";
import { inRepository } from "./repository.js";
import type { StartMeasure, StartTask } from "./stage-2-start-child.js";

const child = fileURLToPath(new URL("./stage-2-start-child.js", import.meta.url));

async function measured(task: StartTask): Promise<StartMeasure> {
  const { stdout } = await promisify(execFile)(process.execPath, [child, JSON.stringify(task)]);
  return JSON.parse(stdout.trim().split("\n").at(-1)!) as StartMeasure;
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;

export async function stage2Start(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      sizes: { type: "string", default: "opt-1.3b" },
      folder: { type: "string" },
      threads: { type: "string", default: String(availableCpus()) },
    },
  });
  const threads = Number(values.threads);
  const folder = path.resolve(values.folder ?? inRepository(`runs/bench/${values.sizes}`));
  await ensureRandomCheckpoint(folder, values.sizes);
  const work = await mkdtemp(path.join(tmpdir(), "blip2-stage2-start-"));
  try {
    const data = path.join(work, "scenes");
    await writeScenes({
      out: data,
      seed: 5,
      count: 40,
      validation: 8,
      test: 8,
      compositional: 6,
      textCount: 0,
      textTestCount: 0,
    });
    const config = {
      data,
      stage1: inRepository("models/scenes-retrieval"),
      languageModel: folder,
      maxTextLength: 32,
      steps: 1,
      batchSize: 4,
      learningRate: { peak: 1e-3 },
    };
    const inference = await measured({ folder, threads });
    const training = await measured({ folder, threads, training: { config, out: path.join(work, "run") } });
    console.log(`${values.sizes}, ${threads} threads of ${cpus()[0]!.model}`);
    for (const [name, { resident, mapped, peak, largestBuffer, seconds }] of Object.entries({
      inference,
      training,
    }))
      console.log(
        `${name.padEnd(10)} resident ${megabytes(resident)} (${megabytes(mapped)} of files), peak ${megabytes(peak)}, largest buffer of JavaScript ${megabytes(largestBuffer)}, ${seconds.toFixed(0)} s`,
      );
    console.log(`training / inference: ${(training.resident / inference.resident).toFixed(2)}`);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
