/**
 * The training loop that every stage shares: batch -> step graph (forward, losses, backward) -> AdamW ->
 * log, evaluation, checkpoint. A batch is a function of its step, and so are the random numbers of the
 * step, so a resumed run equals an unbroken one.
 */
import { z } from "zod";
import {
  gradients,
  learntParameters,
  type Device,
  type HostTensors,
  type Program,
  type Tensor,
  type FrozenWeights,
} from "../engine/index.js";
import { interrupted, UserError } from "../errors.js";
import { elementCount, type HostTensor } from "../host-tensor.js";
import type { DeclaredParameter, Parameters } from "../nn/parameters.js";
import { AdamW, adamWSchema, slots, zeroMoments } from "./optimizer.js";
import type { RunFolder } from "./run-folder.js";
import type { LogLine } from "./run-log.js";
import { learningRate, scheduleSchema } from "./schedule.js";

/** The keys that every training configuration has. */
export const trainerKeys = {
  seed: z.int().nonnegative().default(0),
  steps: z.int().positive(),
  batchSize: z.int().positive(),
  /** Parts that a batch is cut into, each run on its own; their gradients are added. */
  accumulate: z.int().positive().default(1),
  learningRate: scheduleSchema,
  optimizer: adamWSchema.prefault({}),
  logEvery: z.int().positive().default(20),
  evaluateEvery: z.int().positive().default(500),
  checkpointEvery: z.int().positive().default(200),
  /** Steps in a row whose gradients may be infinite or NaN before the run stops; each is skipped. */
  badStepsAllowed: z.int().nonnegative().default(5),
} as const;

/** For `refine` of every training configuration: a batch is cut into equal parts. */
export const equalParts: [
  check: (config: { batchSize: number; accumulate: number }) => boolean,
  problem: { path: string[]; message: string },
] = [
  ({ batchSize, accumulate }) => batchSize % accumulate === 0,
  { path: ["batchSize"], message: "must be a multiple of accumulate" },
];

export type TrainerConfig = z.infer<z.ZodObject<typeof trainerKeys>>;

/** What a stage brings: its graph, its data and its measures. */
export interface Task {
  readonly parameters: Parameters;
  /** Values of the frozen weights, where they lie. */
  readonly weights: FrozenWeights;
  /** Values of the trainable weights before the first step. */
  readonly start: ReadonlyMap<string, HostTensor>;
  readonly loss: Tensor;
  /** Scalars worth logging, over a batch. */
  readonly metrics: Readonly<Record<string, Tensor>>;
  /** The feeds of part `part` of step `step`, a function of both. */
  batch(step: number, part: number): Promise<HostTensors>;
  /** Measures the weights as they stand in the device's slots. */
  evaluate(): Promise<Readonly<Record<string, number>>>;
  /** Frees what its batches are read from, once the last one has been made. */
  close?(): Promise<void>;
}

export interface TrainingHooks {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((report: { step: number; total: number; detail: string }) => void) | undefined;
  readonly log?: ((line: string) => void) | undefined;
  /** Stops here, measured and saved, if this comes before the last step; resumed, the run goes on as if unbroken. */
  readonly until?: number | undefined;
  /** Is given the weights after every so many steps, but not after the last, which end up in the result. */
  readonly intermediate?: {
    readonly every: number;
    keep(step: number, weights: TrainingResult["weights"]): Promise<void>;
  };
}

export interface TrainingResult {
  readonly step: number;
  readonly weights: ReadonlyMap<string, HostTensor>;
  readonly last: LogLine;
}

/** Slots of all trainable weights, for programs that read them. */
export function weightSlots(parameters: Parameters): Record<string, string> {
  return Object.fromEntries(parameters.trainable.map(({ name }) => [name, slots.weight(name)]));
}

/**
 * Trains to `config.steps`, or to `hooks.until` where that is nearer. Ctrl-C (the signal) saves a checkpoint and throws `InterruptedError`. Steps
 * whose gradients are not finite are skipped and logged; too many in a row stop the run with a
 * `UserError` that names the step.
 */
export async function train(
  device: Device,
  task: Task,
  config: TrainerConfig,
  run: RunFolder,
  hooks: TrainingHooks = {},
): Promise<TrainingResult> {
  const declared = task.parameters.trainable;
  // An objective that is left out leaves its head without a gradient: such weights keep their start.
  const reached = learntParameters(task.loss);
  const trainable = declared.filter(({ name }) => reached.has(name));
  const stateSlots = stateSlotsOf(declared, trainable);
  await device.put(startingState(task, trainable, run));
  const stepProgram = await compileStep(device, task, trainable);
  const optimizer = await AdamW.create(device, trainable, config.optimizer);
  const partSlots = Object.fromEntries(
    trainable.map(({ name }) => [gradientOutput(name), slots.partGradient(name)]),
  );

  const end = Math.min(config.steps, hooks.until ?? config.steps);
  let step = run.checkpoint?.step ?? 0;
  if (step > end)
    throw new UserError(`${run.path} is at step ${step} already: name a later step to train until`);
  let saved = step;
  let last: LogLine = { step };
  const save = async (): Promise<void> => {
    if (saved === step) return;
    await run.save(step, await device.read(stateSlots));
    saved = step;
  };

  let badSteps = 0;
  let sums: Record<string, number> = {};
  let counted = 0;
  let clock = performance.now();
  const following = new NextBatch((wanted) => prepare(task, config, wanted));
  await using _following = following;
  if (step < end) following.begin(step);
  while (step < end) {
    if (hooks.signal?.aborted) {
      await save();
      throw interrupted(hooks.signal, `stopped at step ${step}; continue with --resume`);
    }
    const parts = await following.take();
    // The next batch is made while the worker computes this one.
    if (step + 1 < end) following.begin(step + 1);
    const metrics: Record<string, number> = {};
    for (const [part, feeds] of parts.entries()) {
      const results = await stepProgram.run(feeds, part === 0 ? {} : { residentOutputs: partSlots });
      if (part > 0) await optimizer.accumulate();
      for (const [name, value] of Object.entries(results)) {
        metrics[name] = (metrics[name] ?? 0) + Number(value.data[0]) / config.accumulate;
      }
    }
    const rate = learningRate(config.learningRate, step, config.steps);
    const isUsable = Number.isFinite(metrics["loss"]!);
    const { gradientNorm } = isUsable
      ? await optimizer.update(step + 1, rate, 1 / config.accumulate)
      : { gradientNorm: NaN };
    step += 1;

    if (!Number.isFinite(gradientNorm)) {
      badSteps += 1;
      await run.log({ step, skipped: "gradients not finite" });
      hooks.log?.(`step ${step}: the gradients are not finite; the step was skipped`);
      if (badSteps > config.badStepsAllowed) {
        await save();
        throw new UserError(
          `training stopped at step ${step}: gradients were not finite in ${badSteps} steps in a row; lower the learning rate or look at the data`,
        );
      }
    } else {
      badSteps = 0;
      for (const [name, value] of Object.entries({ ...metrics, gradientNorm }))
        sums[name] = (sums[name] ?? 0) + value;
      counted += 1;
    }

    const isLast = step === end;
    if ((step % config.logEvery === 0 || isLast) && counted > 0) {
      const seconds = (performance.now() - clock) / 1000 / counted;
      last = rounded({
        step,
        ...Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / counted])),
        learningRate: rate,
        secondsPerStep: seconds,
      });
      await run.log(last);
      [sums, counted, clock] = [{}, 0, performance.now()];
    }
    hooks.onProgress?.({ step, total: config.steps, detail: `loss ${metrics["loss"]!.toFixed(3)}` });
    if (step % config.evaluateEvery === 0 || isLast) {
      const measured = rounded({ step, ...(await task.evaluate()) });
      last = { ...last, ...measured };
      await run.log(measured);
      clock = performance.now();
    }
    if (hooks.intermediate !== undefined && step % hooks.intermediate.every === 0 && !isLast) {
      const before = performance.now();
      await hooks.intermediate.keep(step, await currentWeights(device, declared));
      clock += performance.now() - before;
    }
    // Last, so that a run that dies while it measures takes that measure when it is resumed.
    if (step % config.checkpointEvery === 0 || isLast) await save();
  }
  return { step, weights: await currentWeights(device, declared), last };
}

/**
 * The batch that is being made while the one before is computed. However the loop is left, it is waited for: what it reads from must not be
 * closed under it, and nobody else would hear of its failure.
 */
class NextBatch implements AsyncDisposable {
  private pending: Promise<readonly HostTensors[]> | undefined;

  constructor(private readonly make: (step: number) => Promise<readonly HostTensors[]>) {}

  begin(step: number): void {
    this.pending = this.make(step);
    this.pending.catch(() => {
      // Reported when it is taken.
    });
  }

  take(): Promise<readonly HostTensors[]> {
    const taken = this.pending!;
    this.pending = undefined;
    return taken;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pending?.catch(() => undefined);
  }
}

async function currentWeights(
  device: Device,
  declared: readonly DeclaredParameter[],
): Promise<TrainingResult["weights"]> {
  const values = await device.read(declared.map(({ name }) => slots.weight(name)));
  return new Map(declared.map(({ name }) => [name, values[slots.weight(name)]!]));
}

const gradientOutput = (name: string): string => `gradient of ${name}`;

function stateSlotsOf(
  declared: readonly DeclaredParameter[],
  trainable: readonly DeclaredParameter[],
): string[] {
  const moments = trainable.flatMap(({ name }) => [slots.firstMoment(name), slots.secondMoment(name)]);
  return [...declared.map(({ name }) => slots.weight(name)), ...moments];
}

/**
 * Frozen matrices of more bytes are held once for both directions. Below, memory is no matter: each direction has its own form, which
 * is a little faster, and sums in another order, so that runs come to the same bits as those of earlier versions.
 */
const smallFrozen = 2 ** 28;

/** Bytes of frozen weights in memory, where they are float32. */
const heldBytes = (weights: FrozenWeights): number =>
  [...weights.values()].reduce((sum, { dims }) => sum + 4 * elementCount(dims), 0);

async function compileStep(
  device: Device,
  task: Task,
  trainable: readonly DeclaredParameter[],
): Promise<Program> {
  const parts = gradients(
    task.loss,
    trainable.map(({ tensor }) => tensor),
  );
  const outputs: Record<string, Tensor> = { loss: task.loss, ...task.metrics };
  for (const [i, { name }] of trainable.entries()) outputs[gradientOutput(name)] = parts[i]!;
  return device.compile(outputs, {
    weights: task.weights,
    residentInputs: weightSlots(task.parameters),
    residentOutputs: Object.fromEntries(
      trainable.map(({ name }) => [gradientOutput(name), slots.gradient(name)]),
    ),
    readsBothWays: heldBytes(task.weights) > smallFrozen,
    // No step reads the gradients of the one before.
    reuseResidents: true,
  });
}

async function prepare(task: Task, config: TrainerConfig, step: number): Promise<readonly HostTensors[]> {
  const parts = Array.from({ length: config.accumulate }, (_, part) => task.batch(step, part));
  // The first that fails does not end the others, which still read.
  await Promise.allSettled(parts);
  return Promise.all(parts);
}

function startingState(
  task: Task,
  trainable: readonly DeclaredParameter[],
  run: RunFolder,
): Record<string, HostTensor> {
  const declared = task.parameters.trainable;
  const saved = run.checkpoint?.tensors;
  if (saved === undefined) {
    const weights = declared.map(({ name }) => [slots.weight(name), task.start.get(name)!] as const);
    return { ...Object.fromEntries(weights), ...zeroMoments(trainable) };
  }
  const wanted = stateSlotsOf(declared, trainable);
  const missing = wanted.filter((name) => !saved.has(name));
  if (missing.length > 0) {
    throw new UserError(
      `${run.path}: the checkpoint lacks ${missing.join(", ")}; it belongs to another model`,
    );
  }
  return Object.fromEntries(wanted.map((name) => [name, saved.get(name)!]));
}

function rounded(line: Record<string, number>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(line).map(([name, value]) => [name, Number(value.toPrecision(6))]),
  );
}
