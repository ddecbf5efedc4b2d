/** The optimizer and the schedule against torch.optim.AdamW: twelve steps with clipping, warm-up and cosine. */
import { readFileSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { Parameters, zeros } from "../../src/nn/parameters.js";
import { AdamW, adamWSchema, isDecayed, slots, zeroMoments } from "../../src/training/optimizer.js";
import { learningRate, scheduleSchema } from "../../src/training/schedule.js";
import { expectClose, readGoldenCase } from "../golden-case.js";
import { testDevice } from "../nn/evaluate.js";

interface Config {
  readonly betas: [number, number];
  readonly eps: number;
  readonly weight_decay: number;
  readonly decayed: readonly string[];
  readonly not_decayed: readonly string[];
  readonly max_grad_norm: number;
  readonly schedule: Readonly<
    Record<"warmup_steps" | "total_steps" | "warmup_lr" | "peak_lr" | "min_lr", number>
  >;
}

interface Step {
  readonly lr: number;
  readonly grad_norm: number;
}

const device = testDevice();
afterAll(() => device.close());

const golden = await readGoldenCase<Config>("optimizer", "adamw");
const { steps } = JSON.parse(
  readFileSync(new URL("../golden/optimizer/adamw.json", import.meta.url), "utf8"),
) as { steps: readonly Step[] };
const {
  warmup_steps: warmupSteps,
  total_steps: total,
  warmup_lr: warmupStart,
  peak_lr: peak,
  min_lr: minimum,
} = golden.config.schedule;
const schedule = { peak, minimum, warmupSteps, warmupStart };

function declare(): Parameters {
  const parameters = new Parameters(() => true);
  for (const [name, { dims }] of golden.weights) parameters.declare(name, dims, zeros);
  return parameters;
}

it("decays what the reference decays", () => {
  const decayed = declare().trainable.filter(isDecayed);
  expect(decayed.map(({ name }) => name).sort()).toEqual([...golden.config.decayed].sort());
});

it("gives the reference's rate in every step", () => {
  expect(steps).toHaveLength(total);
  for (const [step, { lr }] of steps.entries())
    expect(learningRate(schedule, step, total)).toBeCloseTo(lr, 12);
});

it("updates as the reference does", async () => {
  const { trainable } = declare();
  const { betas, eps, weight_decay: weightDecay, max_grad_norm: clipNorm } = golden.config;
  const optimizer = await AdamW.create(device, trainable, { betas, epsilon: eps, weightDecay, clipNorm });
  const weights = trainable.map(({ name }) => [slots.weight(name), golden.weights.get(name)!] as const);
  await device.put({ ...Object.fromEntries(weights), ...zeroMoments(trainable) });
  for (const [step, { lr, grad_norm: norm }] of steps.entries()) {
    const gradients = trainable.map(
      ({ name }) => [slots.gradient(name), golden.gradients[`step${step}/${name}`]!] as const,
    );
    await device.put(Object.fromEntries(gradients));
    const { gradientNorm } = await optimizer.update(step + 1, lr);
    expect(gradientNorm / norm).toBeCloseTo(1, 5);
    const places = { "": slots.weight, "exp_avg/": slots.firstMoment, "exp_avg_sq/": slots.secondMoment };
    for (const [prefix, slot] of Object.entries(places)) {
      const values = await device.read(trainable.map(({ name }) => slot(name)));
      for (const { name } of trainable) {
        const key = `step${step}/${prefix}${name}`;
        expectClose(key, values[slot(name)], golden.outputs[key], { within: 2e-6, floor: 1e-3 });
      }
    }
  }
});

it("leaves everything alone when the gradients are not finite", async () => {
  const { trainable } = declare();
  const optimizer = await AdamW.create(device, trainable, adamWSchema.parse({}));
  const weights = trainable.map(({ name }) => [slots.weight(name), golden.weights.get(name)!] as const);
  await device.put({ ...Object.fromEntries(weights), ...zeroMoments(trainable) });
  const gradients = trainable.map(({ name, shape }, i) => {
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(i === 0 ? NaN : 1);
    return [slots.gradient(name), { dtype: "float32" as const, dims: shape, data }] as const;
  });
  await device.put(Object.fromEntries(gradients));
  expect((await optimizer.update(1, 1e-3)).gradientNorm).toBeNaN();
  const values = await device.read(trainable.map(({ name }) => slots.weight(name)));
  for (const { name } of trainable) expect(values[slots.weight(name)]).toEqual(golden.weights.get(name));
});

describe("the schedule", () => {
  it("rises linearly to the peak, and falls along half a cosine to the minimum", () => {
    const long = scheduleSchema.parse({ peak: 1, minimum: 0.1, warmupSteps: 10, warmupStart: 0.5 });
    const rates = Array.from({ length: 101 }, (_, step) => learningRate(long, step, 101));
    expect(rates[0]).toBeCloseTo(0.5);
    expect(rates[5]).toBeCloseTo(0.75);
    expect(rates[10]).toBeCloseTo(1);
    expect(rates[55]).toBeCloseTo(0.55);
    expect(rates[100]).toBeCloseTo(0.1);
    for (let step = 11; step <= 100; step++) expect(rates[step]!).toBeLessThan(rates[step - 1]!);
  });

  it("works without warm-up, and in one step", () => {
    const plain = scheduleSchema.parse({ peak: 1 });
    expect(learningRate(plain, 0, 5)).toBe(1);
    expect(learningRate(plain, 4, 5)).toBeCloseTo(0);
    expect(learningRate(plain, 0, 1)).toBe(1);
  });
});
