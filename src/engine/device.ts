/**
 * Where programs run and large state lives, whatever runs them: `node.ts` has the one that Node's worker threads and
 * onnxruntime-node make.
 */
import type { HostTensor } from "../host-tensor.js";
import type { FrozenWeights, InputSpec } from "./emit.js";
import type { Tensor } from "./graph.js";
import type { ByteProducts } from "./ops/rule.js";

export type HostTensors = Readonly<Record<string, HostTensor>>;

/** Names of graph inputs or outputs -> slots, under which tensors stay on the device. */
export type Slots = Readonly<Record<string, string>>;

export interface CompileOptions {
  /** Values of the frozen leaves, by name. Those in files are mapped from there, where that is possible. */
  readonly weights?: FrozenWeights;
  /** Is told what the caller should know, such as why weights are copied and not mapped. */
  readonly onNotice?: ((notice: string) => void) | undefined;
  /** Graph inputs that are read from resident slots (input name to slot); a fed value goes first. */
  readonly residentInputs?: Slots;
  /** Graph outputs that stay on the device (output name to slot); `run` does not return them. */
  readonly residentOutputs?: Slots;
  /**
   * Lets a run write resident outputs into the memory that their slots hold already. Only for graphs in
   * which such an output is the last use of the slot's old value, elementwise (the optimizer's update).
   */
  readonly reuseResidents?: boolean;
  /**
   * Says that frozen matrices are multiplied with from both sides, forward and backward. The runtime would hold each twice, as it is and
   * packed for one side; then it does not pack them.
   */
  readonly readsBothWays?: boolean;
}

export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  /** Replaces slots given at compile time, for this run. */
  readonly residentInputs?: Slots;
  readonly residentOutputs?: Slots;
}

export interface DeviceOptions {
  /** Default: the CPUs that this process may use. */
  readonly threads?: number | undefined;
  readonly profilePrefix?: string | undefined;
  /** The form of products with 8-bit weights. Default: what this processor computes right, tried out once in a process. */
  readonly byteProducts?: ByteProducts | undefined;
}

/** Slots of one piece of work, apart from all others; disposing of them frees what they hold. */
export interface OwnSlots extends AsyncDisposable {
  /** The slot of a name, the same one each time. */
  slot(name: string): string;
  /** Slots for graph inputs or outputs: for each name, `prefix.name` to the slot of the name. */
  bind(names: Iterable<string>, prefix?: string): Slots;
}

/**
 * It owns its programs and resident tensors; closing it frees them. Requests are carried out in the order in which they
 * are made.
 */
export interface Device extends AsyncDisposable {
  /** How many threads compute. */
  readonly threads: number;
  /** Emits the graph of `outputs` and loads it. */
  compile(outputs: Readonly<Record<string, Tensor>>, options?: CompileOptions): Promise<Program>;
  /**
   * Stores tensors under slot names. With `handOver` the caller gives up their buffers, which spares a copy: their
   * data are empty afterwards.
   */
  put(tensors: HostTensors, options?: { readonly handOver?: boolean }): Promise<void>;
  /** Copies of resident tensors. */
  read(slots: readonly string[]): Promise<HostTensors>;
  drop(slots: readonly string[]): Promise<void>;
  /** The form in which products with 8-bit weights are exact here. */
  byteProducts(): Promise<ByteProducts>;
  /** Slots that nobody else has and that free themselves. */
  slots(): OwnSlots;
  /** Frees everything. Work already requested is finished first; closing twice is harmless. */
  close(): Promise<void>;
}

/** A loaded graph. */
export interface Program {
  readonly inputs: readonly InputSpec[];
  /**
   * Runs once and returns the outputs that do not stay resident. Inputs that are neither fed nor bound
   * to a slot, fed but unknown, or of a wrong shape are all named in one error. `signal` is honoured
   * before the run starts.
   */
  run(feeds: HostTensors, options?: RunOptions): Promise<HostTensors>;
  /** Frees the graph; the device's resident tensors stay. */
  release(): Promise<void>;
}
