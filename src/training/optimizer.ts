/**
 * AdamW with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW, in the graph: master
 * weights, moments and gradients stay in the worker that computes them. Clipping is by the global norm.
 */
import { z } from "zod";
import { input, ops, type Device, type Program, type Tensor } from "../engine/index.js";
import { float32Tensor, elementCount, type HostTensor } from "../host-tensor.js";
import type { DeclaredParameter } from "../nn/parameters.js";

export const adamWSchema = z.strictObject({
  betas: z.tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)]).default([0.9, 0.98]),
  epsilon: z.number().positive().default(1e-8),
  weightDecay: z.number().nonnegative().default(0.05),
  /** Largest global gradient norm; 0 does not clip. */
  clipNorm: z.number().nonnegative().default(0),
});

export type AdamWConfig = z.infer<typeof adamWSchema>;

/** Where a parameter and what belongs to it stay in the worker. */
export const slots = {
  weight: (name: string): string => `weight ${name}`,
  firstMoment: (name: string): string => `first moment ${name}`,
  secondMoment: (name: string): string => `second moment ${name}`,
  gradient: (name: string): string => `gradient ${name}`,
  /** The gradient of a further part of the batch, before it is added. */
  partGradient: (name: string): string => `part gradient ${name}`,
} as const;

/** The references' groups: vectors and biases are not decayed; matrices, tables and the temperature are. */
export function isDecayed({ name, shape }: Pick<DeclaredParameter, "name" | "shape">): boolean {
  return shape.length !== 1 && !name.endsWith(".bias");
}

export class AdamW {
  private constructor(
    private readonly config: AdamWConfig,
    private readonly normProgram: Program,
    private readonly updateProgram: Program,
    private readonly addProgram: Program,
  ) {}

  static async create(
    device: Device,
    parameters: readonly DeclaredParameter[],
    config: AdamWConfig,
  ): Promise<AdamW> {
    const gradient = new Map(
      parameters.map(({ name, shape }) => [name, input(slots.gradient(name), "float32", shape)]),
    );
    const squares = [...gradient.values()].map((g) => ops.reduceSum(ops.mul(g, g)));
    const norm = ops.sqrt(squares.reduce((a, b) => ops.add(a, b)));
    const gradientSlots = Object.fromEntries(
      parameters.map(({ name }) => [slots.gradient(name), slots.gradient(name)]),
    );
    const normProgram = await device.compile({ norm }, { residentInputs: gradientSlots });

    const { updated, kept } = updateGraph(parameters, gradient, config);
    const updateProgram = await device.compile(updated, {
      residentInputs: { ...gradientSlots, ...kept },
      residentOutputs: Object.fromEntries(Object.entries(kept).map(([slot]) => [`new ${slot}`, slot])),
      reuseResidents: true,
    });

    const sums = parameters.map(({ name, shape }) => {
      const part = input(slots.partGradient(name), "float32", shape);
      return [`new ${slots.gradient(name)}`, ops.add(gradient.get(name)!, part)] as const;
    });
    const partSlots = Object.fromEntries(
      parameters.map(({ name }) => [slots.partGradient(name), slots.partGradient(name)]),
    );
    const addProgram = await device.compile(Object.fromEntries(sums), {
      residentInputs: { ...gradientSlots, ...partSlots },
      residentOutputs: Object.fromEntries(
        parameters.map(({ name }) => [`new ${slots.gradient(name)}`, slots.gradient(name)]),
      ),
      reuseResidents: true,
    });
    return new AdamW(config, normProgram, updateProgram, addProgram);
  }

  /** Adds the part gradients to the gradients. */
  async accumulate(): Promise<void> {
    await this.addProgram.run({});
  }

  /**
   * Updates weights and moments from the gradients in their slots, times `scale` (1 / parts of the
   * batch). Nothing changes when the gradient norm is not finite. `step` counts updates from 1.
   */
  async update(step: number, learningRate: number, scale = 1): Promise<{ readonly gradientNorm: number }> {
    const { norm } = await this.normProgram.run({});
    const gradientNorm = (norm!.data as Float32Array)[0]! * scale;
    if (!Number.isFinite(gradientNorm)) return { gradientNorm };
    const { betas, clipNorm } = this.config;
    const clip = clipNorm > 0 && gradientNorm > clipNorm ? clipNorm / (gradientNorm + 1e-6) : 1;
    const number = (value: number): HostTensor => float32Tensor([value], []);
    await this.updateProgram.run({
      "learning rate": number(learningRate),
      scale: number(scale * clip),
      "first correction": number(1 / (1 - betas[0] ** step)),
      "second correction": number(1 / Math.sqrt(1 - betas[1] ** step)),
    });
    return { gradientNorm };
  }
}

function updateGraph(
  parameters: readonly DeclaredParameter[],
  gradient: ReadonlyMap<string, Tensor>,
  { betas: [beta1, beta2], epsilon, weightDecay }: AdamWConfig,
): { readonly updated: Record<string, Tensor>; readonly kept: Record<string, string> } {
  const rate = input("learning rate", "float32", []);
  const scale = input("scale", "float32", []);
  const firstCorrection = input("first correction", "float32", []);
  const secondCorrection = input("second correction", "float32", []);
  const stepSize = ops.mul(rate, firstCorrection);
  const decay = ops.sub(1, ops.mul(rate, weightDecay));
  const updated: Record<string, Tensor> = {};
  const kept: Record<string, string> = {};
  for (const declared of parameters) {
    const { name, shape } = declared;
    const state = (slot: string): Tensor => {
      kept[slot] = slot;
      return input(slot, "float32", shape);
    };
    const weight = state(slots.weight(name));
    const first = state(slots.firstMoment(name));
    const second = state(slots.secondMoment(name));
    const g = ops.mul(gradient.get(name)!, scale);
    const newFirst = ops.add(ops.mul(first, beta1), ops.mul(g, 1 - beta1));
    const newSecond = ops.add(ops.mul(second, beta2), ops.mul(ops.mul(g, g), 1 - beta2));
    const denominator = ops.add(ops.mul(ops.sqrt(newSecond), secondCorrection), epsilon);
    const shrunk = isDecayed(declared) && weightDecay > 0 ? ops.mul(weight, decay) : weight;
    updated[`new ${slots.weight(name)}`] = ops.sub(shrunk, ops.mul(ops.div(newFirst, denominator), stepSize));
    updated[`new ${slots.firstMoment(name)}`] = newFirst;
    updated[`new ${slots.secondMoment(name)}`] = newSecond;
  }
  return { updated, kept };
}

/** Moments before the first step. */
export function zeroMoments(parameters: readonly DeclaredParameter[]): Record<string, HostTensor> {
  const zero = ({ shape }: DeclaredParameter): HostTensor =>
    float32Tensor(new Float32Array(elementCount(shape)), shape);
  return Object.fromEntries(
    parameters.flatMap((declared) => [
      [slots.firstMoment(declared.name), zero(declared)],
      [slots.secondMoment(declared.name), zero(declared)],
    ]),
  );
}
