/** Whole processes that are ended: trainings killed at random moments, and programs that end while a model works. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Random } from "../../src/random.js";
import { makeTinyWorld } from "../../test/training/tiny-world.js";
import { inRepository } from "../repository.js";
import type { Verdict } from "./trial.js";

/** Tries with whole processes, one after the other. */
export interface ProcessKind {
  readonly name: string;
  readonly title: string;
  readonly rule: string;
  readonly count: number;
  readonly quick: number;
  /** Calls `tell` once for each try. */
  run(options: {
    readonly seed: string;
    readonly count: number;
    readonly signal: AbortSignal;
    readonly tell: (verdict: Verdict) => void;
  }): Promise<void>;
}

/** For any process here: far above what one takes. */
const longest = 180_000; // ms

async function ended(child: ChildProcess, signal: AbortSignal): Promise<{ code: unknown; stderr: string }> {
  let stderr = "";
  child.stderr?.on("data", (text: Buffer) => (stderr = (stderr + text.toString()).slice(-2000)));
  const kill = (): void => void child.kill("SIGKILL");
  const timer = setTimeout(kill, longest);
  signal.addEventListener("abort", kill);
  try {
    const [code, killedBy] = (await once(child, "close")) as [number | null, string | null];
    return { code: code ?? killedBy, stderr };
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", kill);
  }
}

const stages = ["language-model", "vision", "stage1"] as const;
const keys = { steps: 60, checkpointEvery: 2, evaluateEvery: 20 };

const kills: ProcessKind = {
  name: "kills",
  title: "trainings killed with SIGKILL",
  rule:
    "`blip2 train` of a language model, an image encoder and stage 1, each killed at random moments and resumed until it is done. " +
    "Right: the checkpoint at the end is byte for byte that of a run that was never stopped, and no other file is left behind.",
  count: 30,
  quick: 3,
  async run({ seed, count, signal, tell }) {
    const random = new Random(seed, "kills");
    const world = await makeTinyWorld();
    const checkpointOf = (name: string): Promise<Buffer> =>
      readFile(join(world.root, name, "checkpoint.safetensors"));
    try {
      const known = new Map<string, Buffer>();
      let left = count;
      for (let round = 0; left > 0; round++) {
        signal.throwIfAborted();
        const stage = stages[round % (count < 10 ? 1 : stages.length)]!;
        if (stage === "stage1" && !known.has("vision")) continue;
        if (!known.has(stage)) {
          await world.train(stage, stage, keys);
          known.set(stage, await checkpointOf(stage));
        }
        const name = `killed-${round}`;
        const config = await world.configFile(name, stage, keys);
        const run = join(world.root, name);
        const most = Math.min(left, 4);
        let [killed, isDone, fault] = [0, false, ""];
        while (!isDone && fault === "") {
          const entries = await readdir(run).catch((): string[] => []);
          const resume = entries.includes("config.json") ? ["--resume"] : [];
          const words = ["train", stage, "--config", config, "--out", run, "--threads", "1", ...resume];
          const child = spawn(process.execPath, [inRepository("dist/cli/main.js"), ...words], {
            stdio: ["ignore", "ignore", "pipe"],
          });
          const end = ended(child, signal);
          if (killed < most) {
            await Promise.race([end, sleep(random.between(100, 2500))]);
            child.kill("SIGKILL");
          }
          const { code, stderr } = await end;
          if (code === "SIGKILL") killed++;
          else if (code === 0) isDone = true;
          else fault = `exit ${String(code)}: ${stderr.slice(-300)}`;
        }
        if (fault === "" && !(await checkpointOf(name)).equals(known.get(stage)!))
          fault = "another checkpoint at the end";
        const stray = (await readdir(run)).filter((entry) => /tmp|\.new/.test(entry));
        if (fault === "" && stray.length > 0) fault = `left behind: ${stray.join(", ")}`;
        // What is wrong at the end is the fault of one of the kills, nobody knows of which.
        for (let i = 0; i < Math.max(killed, Number(fault !== "")); i++)
          tell(
            fault === "" ? { outcome: "right", form: stage } : { outcome: "wrong", form: stage, note: fault },
          );
        left -= Math.max(killed, Number(fault !== ""));
        await rm(run, { recursive: true, force: true });
      }
    } finally {
      await world.remove();
    }
  },
};

const program = "test/engine/fixtures/ends.ts";
const ways = { exit: 7, throw: 1, reject: 1, terminate: 5 } as const;

const exits: ProcessKind = {
  name: "exits",
  title: "processes that end while a model loads or writes",
  rule:
    "`process.exit(7)`, an uncaught error, an unhandled rejection, and `worker.terminate()` at random moments while `Blip2.load` or `generate` is under way. " +
    "Right: the exit code that was asked for.",
  count: 100,
  quick: 4,
  async run({ seed, count, signal, tell }) {
    const random = new Random(seed, "exits");
    for (let i = 0; i < count; i++) {
      signal.throwIfAborted();
      const way = Object.keys(ways)[i % 4] as keyof typeof ways;
      const work = i % 8 < 4 ? "load" : "generate";
      const delay = random.between(0, 400);
      const child = spawn(
        process.execPath,
        ["--import", "tsx", inRepository(program), way, work, String(delay)],
        { stdio: ["ignore", "ignore", "pipe"], cwd: inRepository(".") },
      );
      const { code, stderr } = await ended(child, signal);
      const form = `${way} while it ${work === "load" ? "loads" : "writes"}`;
      if (code === ways[way]) tell({ outcome: "right", form });
      else
        tell({
          outcome:
            code === "SIGKILL"
              ? "hung"
              : typeof code === "string" || Number(code) > 128
                ? "crashed"
                : "wrong",
          form,
          note: `after ${delay} ms: ${String(code)} in place of ${ways[way]}: ${stderr.slice(-300)}`,
        });
    }
  },
};

export const processKinds: readonly ProcessKind[] = [kills, exits];
