/** Running emitted graphs in a worker thread that owns the runtime and all large state. */
import { dirname } from "node:path";
import { InternalError, stopIf, UserError } from "../errors.js";
import { elementCount } from "../host-tensor.js";
import { byteProductsHere } from "./byte-products.js";
import { availableCpus } from "./cpu-count.js";
import { evaluateDim, isName, namesOf, showShape, type Dim } from "./dims.js";
import type {
  CompileOptions,
  Device,
  DeviceOptions,
  HostTensors,
  OwnSlots,
  Program,
  RunOptions,
  Slots,
} from "./device.js";
import { emit, type FrozenWeights, type InputSpec } from "./emit.js";
import type { Tensor } from "./graph.js";
import type { ByteProducts } from "./ops/rule.js";
import { ownSlots } from "./own-slots.js";
import { placeBeside } from "./placement.js";
import { startHost, type RuntimeHost } from "./runtime-host.js";
import { refusedOutput, type RequestBody, type WorkerSettings } from "./session-protocol.js";

/**
 * One worker thread with the runtime in it. It owns its programs and resident tensors; closing it frees
 * them. Requests are carried out in the order in which they are made.
 */
export class WorkerDevice implements Device {
  private readonly waiting = new Map<
    number,
    { resolve: (value: HostTensors | undefined) => void; reject: (error: Error) => void }
  >();
  private nextRequest = 0;
  private nextProgram = 0;
  /** Folders whose weights are known to be copied. */
  private readonly noticed = new Set<string>();
  private closed: Promise<void> | undefined;
  /** Tells `close` that the worker has ended. */
  private ended: () => void = () => undefined;
  readonly threads: number;

  private readonly host: RuntimeHost;
  /** Why the worker has ended, if it was not asked to. */
  private failure: Error | undefined;

  private constructor(
    settings: WorkerSettings,
    private readonly forcedProducts: ByteProducts | undefined,
  ) {
    this.threads = settings.threads;
    this.host = startHost(settings, {
      onReply: (reply) => {
        const waiter = this.waiting.get(reply.id);
        this.waiting.delete(reply.id);
        if (this.waiting.size === 0 && this.closed === undefined) this.host.unref();
        if (reply.error === undefined) waiter?.resolve(reply.value);
        else waiter?.reject(new InternalError(`runtime: ${reply.error}`));
      },
      onError: (error) => {
        this.failure ??= error;
        this.rejectAll();
      },
      onExit: (why) => {
        if (this.closed === undefined || this.waiting.size > 0) this.failure ??= new Error(why);
        this.rejectAll();
        this.ended();
      },
    });
    // An idle device does not keep the process alive; a request under way does.
    this.host.unref();
  }

  private rejectAll(): void {
    for (const waiter of this.waiting.values()) waiter.reject(this.endOf());
    this.waiting.clear();
  }

  private endOf(): Error {
    const { failure } = this;
    return new InternalError(`runtime: the worker has failed: ${failure?.message}`, { cause: failure });
  }

  /** Starts a worker. */
  static open(options: DeviceOptions = {}): WorkerDevice {
    const threads = options.threads ?? availableCpus();
    const settings: WorkerSettings = {
      threads,
      ...(options.profilePrefix === undefined ? {} : { profilePrefix: options.profilePrefix }),
    };
    return new WorkerDevice(settings, options.byteProducts);
  }

  private request(
    body: RequestBody,
    transfer: readonly ArrayBuffer[] = [],
  ): Promise<HostTensors | undefined> {
    if (this.closed !== undefined && body.verb !== "close") {
      return Promise.reject(new UserError("this model has been closed; load it again to use it"));
    }
    if (this.failure !== undefined) return Promise.reject(this.endOf());
    const id = this.nextRequest++;
    return new Promise((resolve, reject) => {
      try {
        this.host.post({ ...body, id }, transfer);
      } catch (error) {
        reject(error);
        return;
      }
      this.waiting.set(id, { resolve, reject });
      this.host.ref();
    });
  }

  async compile(outputs: Readonly<Record<string, Tensor>>, options: CompileOptions = {}): Promise<Program> {
    return this.load(outputs, options, hasBytes(options.weights) ? await this.byteProducts() : "signed");
  }

  /** The form in which products with 8-bit weights are exact here. */
  async byteProducts(): Promise<ByteProducts> {
    if (this.forcedProducts !== undefined) return this.forcedProducts;
    return byteProductsHere(async (products, outputs, x, w) => {
      const program = await this.load(outputs, { weights: new Map([["w", w]]) }, products);
      const { y } = await program.run({ x });
      await program.release();
      return y!.data;
    });
  }

  private async load(
    outputs: Readonly<Record<string, Tensor>>,
    options: CompileOptions,
    byteProducts: ByteProducts,
  ): Promise<Program> {
    const files = filesOf(options.weights);
    const placement = files.length === 0 ? undefined : await placeBeside(files);
    const program = this.nextProgram++;
    const packed = options.readsBothWays !== true;
    let model;
    try {
      if (placement?.notice !== undefined && !this.noticed.has(dirname(files[0]!))) {
        // The programs of a model share their weights' folder, and one notice says it for all.
        this.noticed.add(dirname(files[0]!));
        options.onNotice?.(placement.notice);
      }
      const refused = options.reuseResidents === true ? refusedOutput : undefined;
      model = emit(outputs, options.weights, placement?.locate, refused, byteProducts);
      const placed = (await placement?.write(model.bytes)) ?? { bytes: model.bytes, externalData: [] };
      if ("path" in placed) await this.request({ verb: "compile", program, packed, model: placed });
      else {
        const bytes = ownBuffer(placed.bytes);
        const buffers = [bytes.buffer, ...placed.externalData.map(({ data }) => data.buffer)];
        await this.request({ verb: "compile", program, packed, model: { ...placed, bytes } }, buffers);
      }
    } finally {
      await placement?.remove();
    }
    return new WorkerProgram(
      (body) => this.request(body),
      program,
      model.inputs,
      model.outputs.map((output) => output.name),
      options,
    );
  }

  async put(tensors: HostTensors, { handOver = false } = {}): Promise<void> {
    const owned = compact(tensors);
    const buffers = Object.values(owned).map(({ data }) => data.buffer);
    await this.request(
      { verb: "put", tensors: owned },
      handOver ? buffers.filter((buffer) => buffer instanceof ArrayBuffer) : [],
    );
  }

  async read(slots: readonly string[]): Promise<HostTensors> {
    return (await this.request({ verb: "read", slots }))!;
  }

  async drop(slots: readonly string[]): Promise<void> {
    await this.request({ verb: "drop", slots });
  }

  slots(): OwnSlots {
    return ownSlots(this);
  }

  close(): Promise<void> {
    this.closed ??= new Promise((resolve) => {
      this.ended = resolve;
      // The worker ends by itself once its port is closed; if it dies before, that is an end too.
      this.request({ verb: "close" }).catch(() => resolve());
    });
    return this.closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A graph that the worker has loaded. */
class WorkerProgram implements Program {
  constructor(
    private readonly request: (body: RequestBody) => Promise<HostTensors | undefined>,
    private readonly id: number,
    readonly inputs: readonly InputSpec[],
    private readonly outputs: readonly string[],
    private readonly options: CompileOptions,
  ) {
    this.checkOutputs("compile", options.residentOutputs);
  }

  async run(feeds: HostTensors, options: RunOptions = {}): Promise<HostTensors> {
    stopIf(options.signal);
    this.checkOutputs("run", options.residentOutputs);
    const slots = { ...this.options.residentInputs, ...options.residentInputs };
    this.checkFeeds(feeds, slots);
    const unfed = this.inputs.filter(({ name }) => feeds[name] === undefined);
    const keep = { ...this.options.residentOutputs, ...options.residentOutputs };
    const reply = await this.request({
      verb: "run",
      program: this.id,
      feeds: compact(feeds),
      inputs: Object.fromEntries(unfed.map(({ name }) => [name, slots[name]!])),
      keep,
      fetch: this.outputs.filter((name) => keep[name] === undefined),
      reuse: this.options.reuseResidents ?? false,
    });
    return reply!;
  }

  private checkOutputs(where: string, slots: Slots = {}): void {
    const unknown = Object.keys(slots).filter((name) => !this.outputs.includes(name));
    if (unknown.length > 0) {
      throw new InternalError(`${where}: the graph has no output called ${unknown.join(", ")}`);
    }
  }

  private checkFeeds(feeds: HostTensors, resident: Slots): void {
    const known = new Set(this.inputs.map(({ name }) => name));
    const problems = Object.keys(feeds).flatMap((name) =>
      known.has(name) ? [] : [`the graph has no input called ${name}`],
    );
    const sizes: Record<string, number> = {};
    // Plain names first: they give the others, such as "P+T", their values.
    const compound: { readonly name: string; readonly dim: Dim; readonly size: number }[] = [];
    for (const { name, dtype, shape } of this.inputs) {
      const value = feeds[name];
      if (value === undefined) {
        if (resident[name] === undefined) problems.push(`input ${name} was not fed`);
        continue;
      }
      const required = shape.map((dim) =>
        typeof dim === "string" && dim in sizes ? `${dim}=${sizes[dim]}` : dim,
      );
      const fits =
        value.dims.length === shape.length &&
        value.dtype === dtype &&
        shape.every((dim, axis) => {
          const size = value.dims[axis]!;
          if (typeof dim === "number") return dim === size;
          if (!isName(dim)) compound.push({ name, dim, size });
          else sizes[dim] ??= size;
          return sizes[dim] === undefined || sizes[dim] === size;
        });
      if (!fits) {
        problems.push(
          `input ${name} must be ${dtype}${showShape(required)}, got ${value.dtype}${showShape(value.dims)}`,
        );
      } else if (value.data.length !== elementCount(value.dims)) {
        problems.push(`input ${name} has ${value.data.length} values for ${showShape(value.dims)}`);
      }
    }
    for (const { name, dim, size } of compound) {
      if (!namesOf(dim).every((part) => part in sizes)) continue;
      const required = evaluateDim(dim, sizes);
      if (size !== required) problems.push(`input ${name} has ${size} where ${dim}=${required} is required`);
    }
    if (problems.length > 0) throw new InternalError(`run: ${problems.join("; ")}`);
  }

  async release(): Promise<void> {
    await this.request({ verb: "release", program: this.id });
  }
}

/**
 * Tensors each with a buffer of its own. The thread border copies whole buffers, also under a small view,
 * and two slots on one buffer would overwrite each other when updated in place.
 */
function compact(tensors: HostTensors): HostTensors {
  const seen = new Set<ArrayBufferLike>();
  return Object.fromEntries(
    Object.entries(tensors).map(([name, value]) => {
      const { buffer, byteLength } = value.data;
      const own = byteLength === buffer.byteLength && !seen.has(buffer);
      seen.add(buffer);
      return [name, own ? value : { ...value, data: value.data.slice() }];
    }),
  );
}

function hasBytes(weights: FrozenWeights = new Map()): boolean {
  return [...weights.values()].some((value) => "quantised" in value && value.quantised === "int8");
}

/** The files that weights lie in. */
function filesOf(weights: FrozenWeights = new Map()): string[] {
  const tensors = [...weights.values()].flatMap((value) =>
    "quantised" in value ? [value.values, value.scales, ...(value.table ? [value.table] : [])] : [value],
  );
  return [...new Set(tensors.flatMap((tensor) => ("file" in tensor ? [tensor.file] : [])))];
}

/** Bytes that fill their buffer, so that it can be handed over. */
function ownBuffer(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const { buffer } = bytes;
  return buffer instanceof ArrayBuffer && bytes.byteLength === buffer.byteLength
    ? new Uint8Array(buffer)
    : new Uint8Array(bytes);
}
