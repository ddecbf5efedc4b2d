/** Running emitted graphs in a worker thread that owns the runtime and all large state. */
import { Worker } from "node:worker_threads";
import { InternalError, InterruptedError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import { availableCpus } from "./cpu-count.js";
import { showShape, type Dim } from "./dims.js";
import { emit, type InputSpec, type Weights } from "./emit.js";
import type { Tensor } from "./graph.js";
import type { Reply, Request, RequestBody, Slots, WorkerSettings } from "./session-protocol.js";

export type HostTensors = Readonly<Record<string, HostTensor>>;

export interface CompileOptions {
  /** Values of the frozen leaves, by name. */
  readonly weights?: Weights;
  /** Graph inputs that are read from resident slots (input name to slot). */
  readonly residentInputs?: Slots;
  /** Graph outputs that stay in the worker (output name to slot); `run` does not return them. */
  readonly residentOutputs?: Slots;
  /**
   * Lets a run write resident outputs into the memory that their slots hold already. Only for graphs in
   * which such an output is the last use of the slot's old value, elementwise (the optimizer's update).
   */
  readonly reuseResidents?: boolean;
}

export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  /** Replaces slots given at compile time, for this run. */
  readonly residentInputs?: Slots;
  readonly residentOutputs?: Slots;
}

/**
 * One worker thread with the runtime in it. It owns its programs and resident tensors; closing it frees
 * them. Requests are carried out in the order in which they are made.
 */
export class Device {
  private readonly waiting = new Map<number, { resolve: (value: HostTensors | undefined) => void; reject: (error: Error) => void }>();
  private nextRequest = 0;
  private nextProgram = 0;
  private closed: Promise<void> | undefined;

  private constructor(
    private readonly worker: Worker,
    readonly threads: number,
  ) {
    worker.on("message", (reply: Reply) => {
      const waiter = this.waiting.get(reply.id);
      this.waiting.delete(reply.id);
      if (this.waiting.size === 0) this.worker.unref();
      if (reply.error === undefined) waiter?.resolve(reply.value);
      else waiter?.reject(new InternalError(`runtime: ${reply.error}`));
    });
    const fail = (error: Error): void => {
      for (const waiter of this.waiting.values()) waiter.reject(error);
      this.waiting.clear();
    };
    worker.on("error", fail);
    worker.on("exit", () => {
      this.closed ??= Promise.resolve();
      fail(new InternalError("runtime: the worker thread has ended"));
    });
    // An idle device does not keep the process alive; a request under way does.
    worker.unref();
  }

  /** Starts a worker. `threads` defaults to the CPUs that this process may use. */
  static open(options: { readonly threads?: number; readonly profilePrefix?: string } = {}): Device {
    const threads = options.threads ?? availableCpus();
    const settings: WorkerSettings = {
      threads,
      ...(options.profilePrefix === undefined ? {} : { profilePrefix: options.profilePrefix }),
    };
    return new Device(startWorker(settings), threads);
  }

  private request(body: RequestBody, transfer: readonly ArrayBuffer[] = []): Promise<HostTensors | undefined> {
    if (this.closed !== undefined && body.verb !== "close") {
      return Promise.reject(new InternalError("this device has been closed"));
    }
    const id = this.nextRequest++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.ref();
      this.worker.postMessage({ ...body, id } as Request, transfer);
    });
  }

  /** Emits the graph of `outputs` and loads it. */
  async compile(outputs: Readonly<Record<string, Tensor>>, options: CompileOptions = {}): Promise<Program> {
    const model = emit(outputs, options.weights);
    const program = this.nextProgram++;
    await this.request({ verb: "compile", program, model: model.bytes });
    return new Program(
      (body) => this.request(body),
      program,
      model.inputs,
      model.outputs.map((output) => output.name),
      options,
    );
  }

  /** Stores tensors in the worker under slot names. */
  async put(tensors: HostTensors): Promise<void> {
    await this.request({ verb: "put", tensors });
  }

  /** Copies of resident tensors. */
  async read(slots: readonly string[]): Promise<HostTensors> {
    return (await this.request({ verb: "read", slots }))!;
  }

  async drop(slots: readonly string[]): Promise<void> {
    await this.request({ verb: "drop", slots });
  }

  /** Frees everything. Work already requested is finished first; closing twice is harmless. */
  close(): Promise<void> {
    this.closed ??= this.request({ verb: "close" }).then(() => {
      // The worker ends by itself once its port is closed.
    });
    return this.closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A loaded graph. */
export class Program {
  private readonly fetch: readonly string[];

  constructor(
    private readonly request: (body: RequestBody) => Promise<HostTensors | undefined>,
    private readonly id: number,
    readonly inputs: readonly InputSpec[],
    outputs: readonly string[],
    private readonly options: CompileOptions,
  ) {
    const known = new Set(outputs);
    for (const name of Object.keys(options.residentOutputs ?? {})) {
      if (!known.has(name)) throw new InternalError(`compile: ${name} is not an output of the graph`);
    }
    this.fetch = outputs.filter((name) => options.residentOutputs?.[name] === undefined);
  }

  /**
   * Runs once and returns the outputs that do not stay resident. Inputs that are neither fed nor bound
   * to a slot, fed but unknown, or of a wrong shape are named in an error. `signal` is honoured before
   * the run starts.
   */
  async run(feeds: HostTensors, options: RunOptions = {}): Promise<HostTensors> {
    if (options.signal?.aborted) throw new InterruptedError("stopped on request");
    const inputs = { ...this.options.residentInputs, ...options.residentInputs };
    this.checkFeeds(feeds, inputs);
    const reply = await this.request({
      verb: "run",
      program: this.id,
      feeds,
      inputs,
      keep: { ...this.options.residentOutputs, ...options.residentOutputs },
      fetch: this.fetch,
      reuse: this.options.reuseResidents ?? false,
    });
    return reply!;
  }

  private checkFeeds(feeds: HostTensors, resident: Slots): void {
    const bound = new Map<string, number>();
    const unknown = Object.keys(feeds).filter((name) => !this.inputs.some((spec) => spec.name === name));
    if (unknown.length > 0) throw new InternalError(`run: the graph has no input called ${unknown.join(", ")}`);
    for (const { name, dtype, shape } of this.inputs) {
      const value = feeds[name];
      if (value === undefined) {
        if (resident[name] === undefined) throw new InternalError(`run: input ${name} was not fed`);
        continue;
      }
      const fits =
        value.dtype === dtype &&
        value.dims.length === shape.length &&
        shape.every((dim, axis) => sizeFits(dim, value.dims[axis]!, bound));
      if (!fits) {
        throw new InternalError(`run: input ${name} must be ${dtype}${showShape(shape)}, got ${value.dtype}${showShape(value.dims)}`);
      }
    }
  }

  /** Frees the graph; the device's resident tensors stay. */
  async release(): Promise<void> {
    await this.request({ verb: "release", program: this.id });
  }
}

function startWorker(settings: WorkerSettings): Worker {
  if (import.meta.url.endsWith(".js")) {
    return new Worker(new URL("./session-worker.js", import.meta.url), { workerData: settings });
  }
  // From source (tests, benches) the worker is TypeScript too, and needs its loader in its own thread.
  const entry = JSON.stringify(new URL("./session-worker.ts", import.meta.url).href);
  const boot = `import("tsx/esm/api").then((tsx) => { tsx.register(); return import(${entry}); })`;
  return new Worker(boot, { workerData: settings, eval: true });
}

function sizeFits(dim: Dim, size: number, bound: Map<string, number>): boolean {
  if (typeof dim === "number") return dim === size;
  const known = bound.get(dim);
  if (known === undefined) bound.set(dim, size);
  return known === undefined || known === size;
}
