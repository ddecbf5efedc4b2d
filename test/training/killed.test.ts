/** A training process that is killed again and again, as by a power cut, still ends where an unbroken one does. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openSafetensors } from "../../src/checkpoints/safetensors.js";
import { readLog } from "../../src/training/run-log.js";
import { makeTinyWorld, type TinyWorld } from "./tiny-world.js";

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));

let world: TinyWorld;
beforeAll(async () => {
  world = await makeTinyWorld();
}, 120_000);
afterAll(() => world.remove());

const pause = (milliseconds: number): Promise<void> => new Promise((done) => setTimeout(done, milliseconds));

it("survives SIGKILL at any moment, and Ctrl-C", { timeout: 240_000 }, async () => {
  const keys = { steps: 300, checkpointEvery: 1, evaluateEvery: 20 };
  await world.train("language-model", "unbroken", keys);
  const config = await world.configFile("killed", "language-model", keys);
  const run = join(world.root, "killed");
  const stepOfCheckpoint = async (): Promise<number> => {
    const entries = await readdir(run).catch((): string[] => []);
    if (!entries.includes("checkpoint.safetensors")) return 0;
    return Number((await openSafetensors(join(run, "checkpoint.safetensors"))).metadata["step"]);
  };

  let [step, kills] = [0, 0];
  for (let round = 0; round < 3; round++) {
    const words = ["train", "language-model", "--config", config, "--out", run, "--threads", "1"];
    const resume = (await readdir(run).catch((): string[] => [])).includes("config.json") ? ["--resume"] : [];
    const child = spawn(process.execPath, ["--import", "tsx", main, ...words, ...resume], {
      stdio: "ignore",
    });
    const ended = once(child, "exit");
    while (child.exitCode === null && (await stepOfCheckpoint()) === step) await pause(3);
    // Somewhere within a few steps.
    await pause(17 * round);
    child.kill(round === 1 ? "SIGINT" : "SIGKILL");
    await ended;
    if (round === 1) expect(child.exitCode).toBe(130);
    kills += Number(child.signalCode === "SIGKILL");
    const reached = await stepOfCheckpoint();
    expect(reached).toBeGreaterThan(step);
    step = reached;
  }
  expect(kills).toBeGreaterThan(0);

  await world.train("language-model", "killed", keys, { resume: true });
  const checkpoint = (name: string): Promise<Buffer> =>
    readFile(join(world.root, name, "checkpoint.safetensors"));
  expect((await checkpoint("killed")).equals(await checkpoint("unbroken"))).toBe(true);
  const places = async (name: string) =>
    (await readLog(join(world.root, name))).map((line) => [line["step"], "answers" in line]);
  expect(await places("killed")).toEqual(await places("unbroken"));
  expect((await readdir(run)).filter((name) => name.startsWith("."))).toEqual([]);
});
