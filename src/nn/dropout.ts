/** Dropout whose draws replay exactly: each application has its own stream of one counter-based seed. */
import { ops, type Tensor } from "../engine/index.js";

/** Hands out streams in the order of use, so equal graphs draw equal masks. */
export class Dropout {
  private streams = 0;

  /** @param seed uint64 scalar, fed anew at each step; without one nothing is dropped. */
  constructor(private readonly seed?: Tensor) {}

  apply(x: Tensor, rate: number): Tensor {
    if (this.seed === undefined || rate === 0) return x;
    return ops.dropout(x, rate, this.seed, this.streams++);
  }
}

/** Evaluation: nothing is dropped. */
export const noDropout = new Dropout();
