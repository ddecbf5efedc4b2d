/** The loop that all stages share, on a linear regression: parts, skipped steps, evaluations, and the log. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { z } from "zod";
import { input, ops, type HostTensors } from "../../src/engine/index.js";
import { float32Tensor, type HostTensor } from "../../src/host-tensor.js";
import { Parameters, zeros } from "../../src/nn/parameters.js";
import { slots } from "../../src/training/optimizer.js";
import { RunFolder } from "../../src/training/run-folder.js";
import { readLog } from "../../src/training/run-log.js";
import {
  train,
  trainerKeys,
  type Task,
  type TrainerConfig,
  type TrainingHooks,
} from "../../src/training/trainer.js";
import { expectClose } from "../golden-case.js";
import { testDevice } from "../nn/evaluate.js";

const device = testDevice();
const roots: string[] = [];
afterAll(async () => {
  await device.close();
  for (const root of roots) await rm(root, { recursive: true });
});

let out: string;
beforeEach(async () => {
  roots.push(await mkdtemp(join(tmpdir(), "blip2-trainer-")));
  out = join(roots.at(-1)!, "run");
});

const config = (keys: Partial<z.input<z.ZodObject<typeof trainerKeys>>> = {}): TrainerConfig =>
  z.strictObject(trainerKeys).parse({
    steps: 6,
    batchSize: 8,
    learningRate: { peak: 0.1, warmupSteps: 2, warmupStart: 0.02 },
    logEvery: 1,
    evaluateEvery: 100,
    checkpointEvery: 2,
    ...keys,
  });

interface Seams {
  /** Changes the numbers of a batch. */
  readonly poison?: (step: number, x: Float32Array) => void;
  readonly evaluate?: () => Promise<Record<string, number>>;
  readonly start?: readonly number[];
  /** Added to the loss as log(offset): 0 makes it infinite and leaves the gradients as they are. */
  readonly offset?: (step: number) => number;
}

/** Fits y = x w: rows are functions of their position, so that parts of any size cut the same batch. */
function regression({ batchSize, accumulate }: TrainerConfig, seams: Seams = {}): Task {
  const parameters = new Parameters(() => true);
  const w = parameters.declare("w", [3, 1], zeros);
  const rows = batchSize / accumulate;
  const [x, y] = [input("x", "float32", [rows, 3]), input("y", "float32", [rows, 1])];
  const error = ops.sub(ops.matmul(x, w), y);
  const loss = ops.add(ops.reduceMean(ops.mul(error, error)), ops.log(input("offset", "float32", [])));
  return {
    parameters,
    weights: new Map(),
    start: new Map([["w", float32Tensor(seams.start ?? [0.1, -0.2, 0.3], [3, 1])]]),
    loss,
    metrics: { doubled: ops.mul(loss, 2) },
    batch: (step, part): Promise<HostTensors> => {
      const first = step * batchSize + part * rows;
      const values = Float32Array.from({ length: rows * 3 }, (_, i) => Math.sin(1 + first * 3 + i));
      const wanted = Float32Array.from(
        { length: rows },
        (_, r) => values[3 * r]! - 2 * values[3 * r + 1]! + 0.5,
      );
      seams.poison?.(step, values);
      return Promise.resolve({
        x: float32Tensor(values, [rows, 3]),
        y: float32Tensor(wanted, [rows, 1]),
        offset: float32Tensor([seams.offset?.(step) ?? 1], []),
      });
    },
    evaluate: seams.evaluate ?? (() => Promise.resolve({})),
  };
}

async function run(
  settings: TrainerConfig,
  seams: Seams = {},
  { resume = false, folder = out, ...hooks }: TrainingHooks & { resume?: boolean; folder?: string } = {},
): Promise<HostTensor> {
  await using opened = await RunFolder.open(folder, settings, { resume });
  const { weights } = await train(device, regression(settings, seams), settings, opened, hooks);
  return weights.get("w")!;
}

async function savedWeight(settings: TrainerConfig): Promise<HostTensor> {
  await using opened = await RunFolder.open(out, settings, { resume: true });
  return opened.checkpoint!.tensors.get(slots.weight("w"))!;
}

it("learns the same from a batch in parts as from the whole", async () => {
  const whole = await run(config());
  const parts = await run(config({ accumulate: 4 }), {}, { folder: `${out}-parts` });
  expectClose("weights", parts, whole, { within: 1e-6 });
  const steps = async (folder: string) => (await readLog(folder)).filter((line) => "loss" in line);
  const [wholeLog, partLog] = [await steps(out), await steps(`${out}-parts`)];
  expect(wholeLog).toHaveLength(6);
  for (const [i, line] of wholeLog.entries()) {
    for (const name of ["loss", "doubled", "gradientNorm"])
      expect(partLog[i]![name]).toBeCloseTo(Number(line[name]), 5);
  }
});

it("stops where it is told to, and goes on from there as if it had not", async () => {
  const unbroken = await run(config(), {}, { folder: `${out}-unbroken` });
  const part = await run(config(), {}, { until: 3 });
  expect(part.data).not.toEqual(unbroken.data);
  expect(part.data).toEqual((await savedWeight(config())).data);
  await expect(run(config(), {}, { until: 2, resume: true })).rejects.toThrow("is at step 3 already");
  expect((await run(config(), {}, { until: 100, resume: true })).data).toEqual(unbroken.data);
});

describe("what is not finite", () => {
  it("costs its own step only", async () => {
    const said: string[] = [];
    const settings = config({ steps: 4 });
    const weights = await run(
      settings,
      { poison: (step, x) => step === 2 && x.fill(NaN) },
      { log: (line) => said.push(line) },
    );
    expect(weights.data.every(Number.isFinite)).toBe(true);
    expect(said).toEqual(["step 3: the gradients are not finite; the step was skipped"]);
    const lines = (await readLog(out)).filter((line) => "loss" in line || "skipped" in line);
    expect(lines.map(({ step, skipped }) => [step, skipped !== undefined])).toEqual([
      [1, false],
      [2, false],
      [3, true],
      [4, false],
    ]);
    expect(lines.every((line) => Object.values(line).every((value) => value !== null))).toBe(true);
  });

  it("stops the run when it goes on, naming the step, with the last good weights", async () => {
    const settings = config({ steps: 20, badStepsAllowed: 3 });
    const poison = (step: number, x: Float32Array): void => void (step >= 2 && x.fill(Infinity));
    await expect(run(settings, { poison })).rejects.toThrow(
      "training stopped at step 6: gradients were not finite in 4 steps in a row",
    );
    const good = await run(
      config({ steps: 20, badStepsAllowed: 3 }),
      {},
      { folder: `${out}-good`, signal: abortAfter(2).signal },
    ).catch(() => undefined);
    expect(good).toBeUndefined();
    expect((await savedWeight(settings)).data.every(Number.isFinite)).toBe(true);
  });

  it("is found in a poisoned weight", async () => {
    await expect(run(config({ badStepsAllowed: 0 }), { start: [1, NaN, 0] })).rejects.toThrow(
      "stopped at step 1",
    );
  });

  it("is found in the loss, where the gradients do not show it", async () => {
    const settings = config({ steps: 3, badStepsAllowed: 0 });
    await expect(run(settings, { offset: (step) => Number(step < 1) })).rejects.toThrow("stopped at step 2");
    // The second step changed nothing.
    const first = await run(
      config({ steps: 3 }),
      {},
      { folder: `${out}-one`, signal: abortAfter(1).signal },
    ).catch(() => undefined);
    expect(first).toBeUndefined();
    await using one = await RunFolder.open(`${out}-one`, config({ steps: 3 }), { resume: true });
    const afterFirst = one.checkpoint!;
    expect(afterFirst.step).toBe(1);
    expect((await savedWeight(settings)).data).toEqual(afterFirst.tensors.get(slots.weight("w"))!.data);
  });
});

/** A signal that is given while the loop reports step `steps`. */
function abortAfter(steps: number): { readonly signal: AbortSignal } {
  let asked = 0;
  // The loop looks once before each step.
  const signal = {
    get aborted() {
      return asked++ >= steps;
    },
  } as AbortSignal;
  return { signal };
}

describe("the log", () => {
  it("has each line once, however often the run died", async () => {
    const settings = config({ evaluateEvery: 2, logEvery: 1 });
    const evaluate = () => Promise.resolve({ measure: 1 });
    const dieAt = (death: number) => (step: number) => {
      if (step === death) throw new Error("killed");
    };
    for (const death of [1, 3, 5]) {
      const resume = death > 1;
      await expect(run(settings, { evaluate, poison: dieAt(death) }, { resume })).rejects.toThrow("killed");
    }
    const weights = await run(settings, { evaluate }, { resume: true });
    const kinds = (await readLog(out)).map(
      (line) => `${line["step"]} ${"measure" in line ? "measured" : "trained"}`,
    );
    expect(kinds).toEqual([
      "1 trained",
      "2 trained",
      "2 measured",
      "3 trained",
      "4 trained",
      "4 measured",
      "5 trained",
      "6 trained",
      "6 measured",
    ]);
    expect(weights.data).toEqual((await run(settings, { evaluate }, { folder: `${out}-unbroken` })).data);
  });

  it.each([2, 6])("misses no measure of a run that died while it was taken, at step %s", async (death) => {
    const settings = config({ evaluateEvery: 2 });
    let count = 0;
    const dying = () =>
      ++count === death / 2 ? Promise.reject(new Error("killed")) : Promise.resolve({ measure: 1 });
    await expect(run(settings, { evaluate: dying })).rejects.toThrow("killed");
    await using opened = await RunFolder.open(out, settings, { resume: true });
    const { last } = await train(
      device,
      regression(settings, { evaluate: () => Promise.resolve({ measure: 2 }) }),
      settings,
      opened,
    );
    expect(last["measure"]).toBe(2);
    const measured = (await readLog(out)).flatMap((line) => ("measure" in line ? [line["step"]] : []));
    expect(measured).toEqual([2, 4, 6]);
  });
});

describe("a batch that is being made", () => {
  const settings = config({ accumulate: 4, steps: 3 });
  /** A task whose parts are made late, but for one that fails at once; `under` counts those under way. */
  function late(fails: (step: number, part: number) => boolean): { task: Task; under: () => number } {
    const plain = regression(settings);
    let under = 0;
    const batch: Task["batch"] = async (step, part) => {
      under += 1;
      try {
        if (fails(step, part)) throw new Error(`part ${part} of step ${step}`);
        await new Promise((done) => setTimeout(done, 60));
        return await plain.batch(step, part);
      } finally {
        under -= 1;
      }
    };
    return { task: { ...plain, batch }, under: () => under };
  }

  it.each([0, 1, 2])("is waited for when a part of step %i fails, before anything is closed", async (bad) => {
    const { task, under } = late((step, part) => step === bad && part === 1);
    await using folder = await RunFolder.open(out, settings, { resume: false });
    await expect(train(device, task, settings, folder)).rejects.toThrow(`part 1 of step ${bad}`);
    expect(under()).toBe(0);
  });

  it.each([0, 1, 2])("is waited for when a signal comes after %i steps", async (steps) => {
    const { task, under } = late(() => false);
    const controller = new AbortController();
    if (steps === 0) controller.abort();
    await using folder = await RunFolder.open(out, settings, { resume: false });
    const stopped = train(device, task, settings, folder, {
      signal: controller.signal,
      onProgress: ({ step }) => step === steps && controller.abort(),
    });
    await expect(stopped).rejects.toThrow(`stopped at step ${steps}`);
    expect(under()).toBe(0);
  });
});
