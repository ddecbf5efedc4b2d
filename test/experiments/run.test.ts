/** Experiments over a tiny world: trained, measured, stopped and gone on with, passed over when done. */
import { appendFile, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, it } from "vitest";
import { Places, type Arm, type Experiment, type Plan } from "../../bench/experiments/experiment.js";
import { readResults, readTraining } from "../../bench/experiments/results.js";
import { Runner, type RunnerOptions } from "../../bench/experiments/run.js";
import { withLockFile } from "../../src/files/lock-file.js";
import { InterruptedError, UserError } from "../../src/errors.js";
import { makeTinyWorld, trainBefore, type TinyWorld } from "../training/tiny-world.js";

let world: TinyWorld;
let places: Places;
beforeAll(async () => {
  world = await makeTinyWorld();
  await trainBefore(world, "stage2");
  for (const stage of ["stage1", "stage2"] as const) await world.configFile(stage, stage);
  places = new Places(world.root);
}, 300_000);
afterAll(() => world.remove());

let said: string[];
beforeEach(async () => {
  said = [];
  for (const folder of ["runs", "docs"]) await rm(join(world.root, folder), { recursive: true, force: true });
});

const stage1 = (steps: number, overrides: Record<string, unknown> = {}) =>
  ({ stage: "stage1", base: "stage1.json", measureEvery: 2, overrides: { steps, ...overrides } }) as const;
const stage2 = (steps: number, overrides: Record<string, unknown> = {}) =>
  ({ stage: "stage2", base: "stage2.json", measureEvery: 2, overrides: { steps, ...overrides } }) as const;

const training = (name: string, ...stages: (Arm & { kind: "training" })["stages"]): Arm => ({
  kind: "training",
  name,
  label: name,
  stages,
});

const planOf = (...experiments: Experiment[]): Plan => ({
  experiments,
  measured: { data: "scenes", pairs: 6, rerank: 3, captions: 3, questions: 4, allQuestions: 5 },
});

const runner = (plan: Plan, options: Partial<RunnerOptions> = {}): Runner =>
  new Runner({ plan, places, threads: 1, say: (line) => said.push(line), ...options });

const short = (steps = 3): Plan =>
  planOf({ name: "short", seeds: [4, 5], arms: [training("plain", stage1(steps))] });

const resultsOf = (experiment: string) => readResults(places.resultsOf(experiment));

it("trains chains of stages, measures them on their way, and publishes", { timeout: 240_000 }, async () => {
  const plan = planOf(
    {
      name: "chains",
      seeds: [1],
      arms: [training("both", stage1(2), stage2(4)), training("alone", stage2(3, { freshQFormer: true }))],
    },
    {
      name: "asked",
      seeds: [0],
      arms: [
        { kind: "vqa", name: "words", label: "words", model: "stage2-made/model", given: "description" },
      ],
    },
    {
      name: "again",
      seeds: [1],
      arms: [{ kind: "shared", name: "alone", label: "x", experiment: "chains" }],
    },
  );
  await world.train("stage2", "stage2-made", { steps: 1 });
  await runner(plan).run("all");

  const results = await resultsOf("chains");
  expect(results.map(({ arm, step }) => [arm, step])).toEqual([
    ["both", 2],
    ["both", 4],
    ["alone", 2],
    ["alone", 3],
  ]);
  for (const { measures, seconds, config, seed } of results) {
    expect(Object.keys(measures)).toEqual(
      expect.arrayContaining(["validation loss", "captions kindF1", "vqa accuracy"]),
    );
    expect(measures["vqa questions"]).toBe(4);
    expect(seed).toBe(1);
    expect(config["stage2"]).toMatchObject({ seed: 1, data: "scenes" });
    expect(seconds).toBeTypeOf("number");
  }
  // Stage 2 of the chain began with the stage 1 of the chain.
  expect(results[0]!.config).toMatchObject({
    stage1: { steps: 2, seed: 1 },
    stage2: { stage1: "runs/experiments/chains/both/seed-1/stage1/model" },
  });
  expect(JSON.stringify(results)).not.toContain(world.root);
  expect(await readResults(places.published("chains").results)).toHaveLength(4);
  const published = await readTraining(places.published("chains").training);
  expect(published.map(({ arm, step }) => `${arm} ${step}`)).toEqual([
    "alone 1",
    "alone 2",
    "alone 3",
    ...[1, 2, 3, 4].map((step) => `both ${step}`),
  ]);
  const [asked] = await resultsOf("asked");
  expect(asked).toMatchObject({ arm: "words", step: 0, measures: { questions: 5 } });
  // The shared arm is that of the other experiment: it was not run twice, and has no folder of its own.
  expect(await readdir(join(world.root, "runs/experiments"))).toEqual(["asked", "chains"]);
});

it("passes over what is done, byte for byte", { timeout: 120_000 }, async () => {
  await runner(short()).run("short");
  const results = await resultsOf("short");
  expect(results.map(({ seed, step }) => [seed, step])).toEqual([
    [4, 2],
    [4, 3],
    [5, 2],
    [5, 3],
  ]);
  for (const { step, measures } of results) {
    expect(measures).toHaveProperty("itm accuracy");
    expect("itm image to text recall@1" in measures).toBe(step === 3);
  }
  const bytes = async (): Promise<string> => readFile(places.resultsOf("short"), "utf8");
  const checkpoint = join(world.root, "runs/experiments/short/plain/seed-4/stage1/checkpoint.safetensors");
  const [before, time] = [await bytes(), (await stat(checkpoint)).mtimeMs];
  said = [];
  await runner(short()).run("all");
  expect(await bytes()).toBe(before);
  expect((await stat(checkpoint)).mtimeMs).toBe(time);
  expect(said.filter((line) => line.includes("was trained before"))).toHaveLength(2);

  // What was lost is measured again; half a line, as a kill leaves it, is no obstacle.
  const lines = before.split("\n");
  await writeFile(places.resultsOf("short"), `${lines[0]}\n${lines[1]!.slice(0, 40)}`);
  await runner(short()).run("short");
  expect((await resultsOf("short")).map(({ seed, step }) => `${seed} ${step}`).sort()).toEqual([
    "4 2",
    "4 3",
    "5 2",
    "5 3",
  ]);

  // A longer training is another one.
  await expect(runner(short(4)).run("short")).rejects.toThrow(
    /2 of 2 pieces failed[^]*steps\).*remove the folder/,
  );
  // Once the old one is gone, the new one takes its place, and its results that of the old ones.
  await rm(join(world.root, "runs/experiments/short/plain"), { recursive: true });
  await runner(short(2)).run("short", 4);
  const published = await readResults(places.published("short").results);
  expect(published.map(({ seed, step }) => `${seed} ${step}`)).toEqual(["4 2", "5 2", "5 3"]);

  // So is one from another model.
  await appendFile(join(world.root, "vision/model/config.json"), " ");
  await expect(runner(short(2)).run("short", 4)).rejects.toThrow("the model in vision");
});

it("goes on where it was stopped, to the same end", { timeout: 120_000 }, async () => {
  const controller = new AbortController();
  const stopping = runner(short(6), {
    signal: controller.signal,
    tellEvery: 0,
    say: (line) => {
      if (line.includes("stage1 4/6")) controller.abort();
    },
  });
  await expect(stopping.run("short", 4)).rejects.toBeInstanceOf(InterruptedError);
  expect(await resultsOf("short")).toEqual([]);
  await runner(short(6)).run("short", 4);
  expect(said).toContain("short plain seed 4: stage1: training goes on");
  const broken = await resultsOf("short");
  expect(broken.map(({ step }) => step)).toEqual([2, 4, 6]);

  await rm(join(world.root, "runs"), { recursive: true });
  await runner(short(6)).run("short", 4);
  const unbroken = await resultsOf("short");
  expect(broken.map(({ measures }) => measures)).toEqual(unbroken.map(({ measures }) => measures));
});

it("leaves a piece that another process holds for last", { timeout: 120_000 }, async () => {
  const folder = join(world.root, "runs/experiments/short/plain/seed-4");
  await mkdir(folder, { recursive: true });
  let free = (): void => undefined;
  let held = Promise.resolve();
  await new Promise<void>((taken) => {
    held = withLockFile(join(folder, "lock"), () => {
      taken();
      return new Promise<void>((resolve) => (free = resolve));
    });
  });
  await runner(short(2), {
    say: (line) => {
      said.push(line);
      if (line.includes("waiting for the process")) free();
    },
  }).run("short");
  await held;
  expect((await resultsOf("short")).map(({ seed }) => seed)).toEqual([5, 4]);
});

it("goes on with the rest after a failure, and tells of it at the end", { timeout: 120_000 }, async () => {
  const plan = planOf({
    name: "mixed",
    seeds: [1],
    arms: [training("broken", stage2(2, { languageModel: "nowhere" })), training("whole", stage1(2))],
  });
  await expect(runner(plan).run("mixed")).rejects.toThrow(
    /1 of 2 pieces failed[^]*mixed\/broken\/seed-1.*nowhere cannot be read.*train or fetch this model first/,
  );
  expect((await resultsOf("mixed")).map(({ arm }) => arm)).toEqual(["whole"]);
});

it("runs one arm of several", { timeout: 120_000 }, async () => {
  const arms = [training("first", stage1(2)), training("second", stage1(2))];
  await runner(planOf({ name: "armed", seeds: [1], arms })).run("armed", undefined, "second");
  expect((await resultsOf("armed")).map(({ arm }) => arm)).toEqual(["second"]);
  expect(await readdir(join(world.root, "runs/experiments/armed"))).not.toContain("first");
});

it("names what it does not know", async () => {
  await expect(runner(short()).run("long")).rejects.toThrow("long is no experiment: all, short are known");
  await expect(runner(short()).run("short", 9)).rejects.toThrow("--only 9: no such seed in short");
  await expect(runner(short()).run("short", undefined, "gone")).rejects.toThrow(
    "--arm gone: no such arm in short",
  );
  const plan = planOf({
    name: "odd",
    seeds: [1],
    arms: [training("keys", stage1(2, { querys: 3 }))],
  });
  await expect(runner(plan).run("odd")).rejects.toThrow(UserError);
  await expect(runner(plan).run("odd")).rejects.toThrow("querys");
});
