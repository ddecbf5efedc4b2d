/**
 * T5's relative positions (Raffel et al. 2020, section 2.1): a learned number per head is added to each attention
 * score, chosen by how far the key is from the query. Distances share buckets, near ones finely, far ones
 * logarithmically. Shapes: H heads, T positions that look, S positions looked at.
 */
import { constant, integer, ops, subtractDims, type Dim, type Tensor } from "../engine/index.js";
import { int64Tensor } from "../host-tensor.js";
import { normal, type Initialiser, type Scope } from "./parameters.js";

export interface RelativePositionConfig {
  readonly buckets: number;
  /** From here on, all distances share a bucket. */
  readonly maxDistance: number;
  /** Whether keys after the query have buckets of their own; else they count as distance 0. */
  readonly bidirectional: boolean;
}

/**
 * The bucket of a distance `key position - query position`. In float32 throughout, because rounding decides
 * where a product is exactly a whole number.
 */
export function relativePositionBucket(distance: number, config: RelativePositionConfig): number {
  const { bidirectional, maxDistance } = config;
  const count = bidirectional ? Math.floor(config.buckets / 2) : config.buckets;
  const base = bidirectional && distance > 0 ? count : 0;
  const far = bidirectional ? Math.abs(distance) : Math.max(-distance, 0);
  const exact = Math.floor(count / 2);
  if (far < exact) return base + far;
  const { fround } = Math;
  const share = fround(fround(Math.log(fround(far / exact))) / fround(Math.log(maxDistance / exact)));
  return base + Math.min(count - 1, exact + Math.trunc(fround(share * (count - exact))));
}

/** The table `weight` [buckets, H] and the biases that it gives. */
export class RelativePositionBias {
  private readonly weight: Tensor;

  constructor(
    scope: Scope,
    private readonly heads: number,
    private readonly config: RelativePositionConfig,
    init: Initialiser = normal(0.02),
  ) {
    this.weight = scope.tensor("weight", [config.buckets, heads], init);
  }

  /** For the last T of S positions, looking at all. -> [1, H, T, S]. */
  forward(rows: Dim, columns: Dim): Tensor {
    const reach = this.config.maxDistance;
    const buckets = Array.from({ length: 2 * reach + 1 }, (_, i) =>
      relativePositionBucket(i - reach, this.config),
    );
    const byDistance = ops.gatherRows(this.weight, constant(int64Tensor(buckets, [buckets.length])));
    const places = ops.range(columns);
    const looking = ops.slice(places, 0, subtractDims(columns, rows), rows);
    const distance = ops.sub(ops.reshape(places, [1, columns]), ops.reshape(looking, [rows, 1]));
    const limited = ops.minimum(ops.maximum(distance, integer(-reach)), integer(reach));
    const bias = ops.gatherRows(byDistance, ops.add(limited, integer(reach)));
    return ops.reshape(ops.transpose(bias, [2, 0, 1]), [1, this.heads, rows, columns]);
  }
}
