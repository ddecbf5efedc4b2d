/** A training step that a benchmark times on both sides. */
import type { HostTensors, Tensor } from "../src/engine/index.js";
import type { DeclaredParameter } from "../src/nn/parameters.js";

export interface Work {
  readonly title: string;
  /** Arguments of reference/bench_training_step.py for the same work; `folder` takes files that it needs. */
  readonly peerArguments: (folder: string) => readonly string[];
  readonly parameters: readonly DeclaredParameter[];
  readonly loss: Tensor;
  /** Inputs that are fed at each step, when PyTorch did not make them. */
  readonly inputs: () => HostTensors;
  /** Floating-point operations of the matrix products of one step, where they are worth a rate. */
  readonly flops?: number;
}
