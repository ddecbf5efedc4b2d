import { UserError } from "../errors.js";

/** A picture that the vision model has seen, from `encodeImages`. Stands for the picture wherever one is taken. */
export class EncodedImage {
  /** @internal */
  constructor(
    private readonly owner: object,
    /** Rows of unit length, one per query, [Q, E]. */
    readonly embedding: Float32Array,
    private readonly features: Float32Array,
  ) {}

  /** @internal The vision model's features before the norm, [P, D_img]. */
  featuresOf(owner: object): Float32Array {
    if (owner === this.owner) return this.features;
    throw new UserError("image: this picture was encoded by another retriever; encode it with this one");
  }
}
