/**
 * Parameters by checkpoint path. A scope is a path prefix; asking it for a tensor declares the parameter
 * under its published name, once, as frozen or trainable by one predicate over that name.
 */
import { frozen, parameter, type Tensor } from "../engine/index.js";
import { InternalError } from "../errors.js";

/** How a new parameter starts; read only when a model is trained from nothing. */
export type Initialiser =
  | { readonly kind: "zeros" | "ones" }
  | { readonly kind: "constant"; readonly value: number }
  | { readonly kind: "normal"; readonly std: number }
  /** The same in some rows of a table, zero in the others. */
  | { readonly kind: "rows"; readonly std: number; readonly rows: readonly number[] }
  /** Uniform in [-bound, bound]. */
  | { readonly kind: "uniform"; readonly bound: number }
  /** The sines and cosines of Vaswani et al. 2017, scaled, one row per position; their base is 10000 unless given. */
  | { readonly kind: "sinusoids"; readonly amplitude: number; readonly base?: number }
  /** The same for a square grid of patches after a class row of zeros: half the columns tell the row, half the column. */
  | { readonly kind: "gridSinusoids"; readonly amplitude: number };

export interface DeclaredParameter {
  readonly name: string;
  readonly shape: readonly number[];
  readonly trainable: boolean;
  readonly initialiser: Initialiser;
  readonly tensor: Tensor;
}

/** All parameters that a model declared, in order. */
export class Parameters {
  private readonly byName = new Map<string, DeclaredParameter>();

  /** @param isTrainable says for a checkpoint name whether the weight is trained or frozen. */
  constructor(private readonly isTrainable: (name: string) => boolean) {}

  /** The scope at the top of the checkpoint, or below `path`. */
  scope(path = ""): Scope {
    return new Scope(this, path);
  }

  declare(name: string, shape: readonly number[], initialiser: Initialiser): Tensor {
    const known = this.byName.get(name);
    if (known !== undefined) {
      if (known.shape.join() !== shape.join())
        throw new InternalError(
          `parameter ${name} is declared as [${known.shape.join(", ")}] and [${shape.join(", ")}]`,
        );
      return known.tensor;
    }
    const trainable = this.isTrainable(name);
    const tensor = trainable ? parameter(name, shape) : frozen(name, shape);
    this.byName.set(name, { name, shape, trainable, initialiser, tensor });
    return tensor;
  }

  get all(): readonly DeclaredParameter[] {
    return [...this.byName.values()];
  }

  get trainable(): readonly DeclaredParameter[] {
    return this.all.filter((declared) => declared.trainable);
  }

  get frozen(): readonly DeclaredParameter[] {
    return this.all.filter((declared) => !declared.trainable);
  }

  /** Name to shape, for checking a checkpoint. */
  get shapes(): ReadonlyMap<string, readonly number[]> {
    return new Map(this.all.map(({ name, shape }) => [name, shape]));
  }
}

/** A place in the checkpoint's tree of names. */
export class Scope {
  constructor(
    readonly parameters: Parameters,
    readonly path: string,
  ) {}

  /** The scope one or more steps down: `at("encoder", "layers", 0)`. */
  at(...steps: readonly (string | number)[]): Scope {
    return new Scope(this.parameters, [this.path, ...steps].filter((step) => step !== "").join("."));
  }

  /** Declares the parameter `name` here. */
  tensor(name: string, shape: readonly number[], initialiser: Initialiser): Tensor {
    return this.parameters.declare(this.path === "" ? name : `${this.path}.${name}`, shape, initialiser);
  }
}

export const zeros: Initialiser = { kind: "zeros" };
export const ones: Initialiser = { kind: "ones" };
export const normal = (std: number): Initialiser => ({ kind: "normal", std });
