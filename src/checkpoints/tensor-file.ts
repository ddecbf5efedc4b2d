/** The tensors of a checkpoint as everybody sees them, whatever file holds them. */
import type { DType, HostTensor } from "../host-tensor.js";
import type { TensorEntry } from "./safetensors-header.js";

/** The tensors of a checkpoint on disk. */
export interface TensorFile {
  /** The opened file (for a sharded checkpoint, its index). */
  readonly path: string;
  /** Where each tensor lies, by name. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Reads one tensor. Throws `UserError` for an unknown name or if the file shrank since it was opened. */
  read(name: string): Promise<HostTensor>;
  /** Reads the named tensors (default: all), in file order. */
  readAll(names?: Iterable<string>): Promise<Map<string, HostTensor>>;
}

/** A tensor whose numbers are fetched when they are needed. */
export interface LazyTensor {
  readonly dtype: DType;
  readonly dims: readonly number[];
  read(): Promise<HostTensor>;
}
