/**
 * One measurement of `npm run bench -- inference`, in a process of its own so that its peak memory is its own.
 * Arguments: JSON of `ChildTask`. Prints one line of JSON, `InferenceMeasure`.
 */
import { readFileSync } from "node:fs";
import { readModelFolder } from "../src/checkpoints/model-folder.js";
import { openDevice } from "../src/engine/node.js";
import { Blip2Runner, blip2Parts, type Blip2Part } from "../src/generation/blip-2-runner.js";
import { float32Tensor, int64Tensor } from "../src/host-tensor.js";
import { blip2Config } from "../src/models/blip-2.js";
import type { Precision } from "../src/loading/precision.js";
import { median } from "./runtime-profile.js";

export interface ChildTask {
  readonly folder: string;
  readonly precision: Precision;
  readonly threads: number;
  readonly pictures: number;
  readonly tokens: number;
  /** Default: all. */
  readonly parts?: readonly Blip2Part[];
}

/** Seconds, and bytes of memory. */
export interface InferenceMeasure {
  readonly load: number;
  /** Picture to soft prompt. */
  readonly picture?: number;
  /** Soft prompt and eight words to the first token. */
  readonly prompt?: number;
  readonly token?: number;
  /** Processor seconds, all threads together: what a busy machine changes least. */
  readonly cpu?: {
    readonly load?: number;
    readonly picture?: number;
    readonly prompt?: number;
    readonly token?: number;
  };
  readonly peakBytes: number;
  /** Ids of greedy search, to see that the work was done. */
  readonly ids?: readonly number[];
}

const promptIds = [2, 300, 301, 302, 303, 304, 305, 306];

/** The process's highest resident memory, files that it maps included. */
function peakBytes(): number {
  try {
    const [, kilobytes] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))!;
    return Number(kilobytes) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024; // not Linux
  }
}

function largest(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** Seconds on the clock and of the processors. */
type Seconds = readonly [clock: number, cpu: number];

async function timed<T>(work: () => Promise<T>): Promise<[seconds: Seconds, result: T]> {
  const [start, cpuStart] = [performance.now(), process.cpuUsage()];
  const result = await work();
  const { user, system } = process.cpuUsage(cpuStart);
  return [[(performance.now() - start) / 1000, (user + system) / 1e6], result];
}

const medians = (all: readonly Seconds[]): Seconds => [
  median(all.map(([clock]) => clock)),
  median(all.map(([, cpu]) => cpu)),
];

async function measure(task: ChildTask): Promise<InferenceMeasure> {
  const { folder, precision, threads, pictures, tokens, parts = blip2Parts } = task;
  const opened = await readModelFolder(folder);
  const config = blip2Config(opened.config);
  await using device = openDevice({ threads });
  const onNotice = (notice: string): void => console.error(notice);
  const [[load, loadCpu], runner] = await timed(() =>
    Blip2Runner.load(device, config, opened.weights, { precision, parts, onNotice }),
  );
  const side = config.vision_config.image_size;
  const queries = config.num_query_tokens;
  const { text_config: text } = config;
  if (text.model_type !== "opt") throw new Error("the checkpoint to measure has OPT as its language model");
  const width = text.hidden_size;
  const result: { -readonly [K in keyof InferenceMeasure]?: InferenceMeasure[K] } = {};
  const cpu: { load: number; picture?: number; prompt?: number; token?: number } = { load: loadCpu };

  let soft = float32Tensor(
    Float32Array.from({ length: queries * width }, (_, i) => Math.sin(i)),
    [1, queries, width],
  );
  if (parts.includes("vision") && parts.includes("bridge")) {
    const pixels = float32Tensor(
      Float32Array.from({ length: 3 * side * side }, (_, i) => Math.sin(i * 0.37)),
      [1, 3, side, side],
    );
    const seconds: Seconds[] = [];
    for (let i = 0; i <= pictures; i++) {
      const [time, prompt] = await timed(() => runner.softPrompts(pixels));
      if (i > 0) seconds.push(time); // the first one warms up
      soft = prompt;
    }
    [result.picture, cpu.picture] = medians(seconds);
  }
  if (parts.includes("languageModel")) {
    const length = queries + promptIds.length;
    const prompt = {
      embeddings: soft,
      ids: int64Tensor(promptIds, [1, promptIds.length]),
      mask: int64Tensor(Array<number>(length).fill(1), [1, length]),
    };
    const prompts: Seconds[] = [];
    const steps: Seconds[] = [];
    const ids: number[] = [];
    for (let round = 0; round < 2; round++) {
      await using stepper = runner.languageModel.begin();
      const [first, [logits]] = await timed(() => stepper.prefill(prompt));
      if (round > 0) prompts.push(first);
      ids.length = 0;
      ids.push(largest(logits!));
      for (let i = 0; i < (round === 0 ? 1 : tokens); i++) {
        const [time, [next]] = await timed(() => stepper.advance([0], [ids.at(-1)!]));
        ids.push(largest(next!));
        if (round > 0) steps.push(time);
      }
    }
    [result.prompt, cpu.prompt] = medians(prompts);
    [result.token, cpu.token] = medians(steps);
    result.ids = ids;
  }
  return { ...result, cpu, load, peakBytes: peakBytes() };
}

console.log(JSON.stringify(await measure(JSON.parse(process.argv[2]!) as ChildTask)));
