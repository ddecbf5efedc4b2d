/**
 * The thread that owns the runtime: sessions and resident tensors live here, so that the caller's thread
 * never blocks and large state (weights, moments, caches) never crosses the border.
 */
import { parentPort, workerData } from "node:worker_threads";
import type * as Ort from "onnxruntime-node";
import { elementCount, type HostTensor } from "../host-tensor.js";
import { guarded } from "./native-calls.js";
import { settingsVariable } from "./runtime-host.js";
import {
  failureId,
  refusedOutput,
  type Reply,
  type Request,
  type WorkerSettings,
} from "./session-protocol.js";

/** A thread's way to its caller, or that of a process of its own. */
const port = parentPort;
const settings = (
  port === null ? JSON.parse(process.env[settingsVariable]!) : workerData
) as WorkerSettings & { readonly state?: Int32Array };

/** A process of its own ends by itself when it has nobody left to answer. */
const native = <T>(call: () => Promise<T>): Promise<T> =>
  settings.state === undefined ? call() : guarded(settings.state, call);

// Ctrl-C in a terminal reaches every process. What it means is for the one that asks to decide, and this one ends with that.
if (port === null) {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => undefined);
  process.on("uncaughtException", (error) => {
    process.send!({ id: failureId, error: error.message }, undefined, undefined, () => process.exit(1));
  });
}

const ort = await native(() => import("onnxruntime-node"));

const sessions = new Map<number, Ort.InferenceSession>();
const residents = new Map<string, Ort.Tensor>();

const toOrt = (value: HostTensor): Ort.Tensor =>
  new ort.Tensor(
    value.dtype as "float32",
    (value.dtype === "bool" ? new Uint8Array(value.data as Uint8Array) : value.data) as Float32Array,
    value.dims,
  );

const fromOrt = (value: Ort.Tensor): HostTensor =>
  ({ dtype: value.type, dims: value.dims, data: bitsOf(value) }) as unknown as HostTensor;

/** A host tensor holds float16 as its bits. So does the binding before Node 24, which has a Float16Array. */
function bitsOf({ type, data }: Ort.Tensor): unknown {
  if (type !== "float16" || data instanceof Uint16Array) return data;
  const { buffer, byteOffset, byteLength } = data as unknown as Uint8Array;
  return new Uint16Array(buffer, byteOffset, byteLength / 2);
}

function resident(slot: string): Ort.Tensor {
  const value = residents.get(slot);
  if (value === undefined) throw new Error(`no resident tensor is called ${slot}`);
  return value;
}

/** Memory for an output of fixed shape; null for others, which the runtime allocates itself. */
function blankOutput(session: Ort.InferenceSession, name: string): Ort.Tensor | null {
  const known = session.outputMetadata.find((output) => output.name === name);
  if (known?.isTensor !== true || known.type !== "float32") return null;
  const dims = known.shape.filter((dim) => typeof dim === "number");
  if (dims.length < known.shape.length) return null;
  return new ort.Tensor("float32", new Float32Array(elementCount(dims)), dims);
}

type Outputs = Readonly<Record<string, Ort.Tensor | null>>;

/**
 * Runs a session and returns its outputs. The binding (1.30) copies each output into new memory, also one that the
 * runtime wrote into memory given for it: a step's gradients a second time, or weights and moments at an update. It
 * does so after the run, in order, and gives up at what is no tensor. So where memory was given for every output, such
 * an output is asked for before all others.
 */
async function runSession(
  session: Ort.InferenceSession,
  feeds: Readonly<Record<string, Ort.Tensor>>,
  fetches: Outputs,
): Promise<Outputs> {
  const isGiven = Object.values(fetches).every((value) => value !== null);
  if (!isGiven || !session.outputNames.includes(refusedOutput)) return session.run(feeds, fetches);
  try {
    await session.run(feeds, { ...fetches, [refusedOutput]: null });
  } catch (error) {
    if (!(error instanceof Error && error.message === refusal)) throw error;
  }
  return fetches;
}

/** What the binding says, after a run, of an output that it cannot return. */
const refusal = "Non tensor type is temporarily not supported.";

async function answer(request: Request): Promise<Reply["value"]> {
  switch (request.verb) {
    case "compile": {
      const options: Ort.InferenceSession.SessionOptions = {
        executionProviders: ["cpu"],
        intraOpNumThreads: settings.threads,
        interOpNumThreads: 1,
        graphOptimizationLevel: "all",
        // A memory pattern is one block for all values of a run, on top of what the arena holds from the first run, and
        // one more for each new shape. Without patterns a step takes as long and half of the memory.
        enableMemPattern: false,
        ...(request.packed ? {} : { extra: { session: { disable_prepacking: "1" } } }),
        // What goes wrong is thrown; the runtime would write it to standard error too, in colours.
        logSeverityLevel: 4,
        ...(settings.profilePrefix === undefined
          ? {}
          : { enableProfiling: true, profileFilePrefix: settings.profilePrefix }),
      };
      const { model } = request;
      const session =
        "path" in model
          ? ort.InferenceSession.create(model.path, options)
          : ort.InferenceSession.create(model.bytes, { ...options, externalData: model.externalData });
      sessions.set(request.program, await session);
      return undefined;
    }
    case "run": {
      const session = sessions.get(request.program);
      if (session === undefined) throw new Error("this program has been released");
      const feeds: Record<string, Ort.Tensor> = {};
      for (const [name, value] of Object.entries(request.feeds)) feeds[name] = toOrt(value);
      for (const [name, slot] of Object.entries(request.inputs)) feeds[name] = resident(slot);
      const fetches: Record<string, Ort.Tensor | null> = {};
      for (const name of request.fetch) fetches[name] = request.reuse ? blankOutput(session, name) : null;
      for (const [name, slot] of Object.entries(request.keep)) {
        fetches[name] = request.reuse ? (residents.get(slot) ?? blankOutput(session, name)) : null;
      }
      const results = await runSession(session, feeds, fetches);
      for (const [name, slot] of Object.entries(request.keep)) residents.set(slot, results[name]!);
      const reply: Record<string, HostTensor> = {};
      for (const name of request.fetch) reply[name] = fromOrt(results[name]!);
      return reply;
    }
    case "put":
      for (const [slot, value] of Object.entries(request.tensors)) residents.set(slot, toOrt(value));
      return undefined;
    case "read": {
      const reply: Record<string, HostTensor> = {};
      for (const slot of request.slots) {
        const value = fromOrt(resident(slot));
        reply[slot] = { ...value, data: value.data.slice() };
      }
      return reply;
    }
    case "drop":
      for (const slot of request.slots) residents.delete(slot);
      return undefined;
    case "release":
      await sessions.get(request.program)?.release();
      sessions.delete(request.program);
      return undefined;
    case "close":
      for (const session of sessions.values()) await session.release();
      sessions.clear();
      residents.clear();
      return undefined;
  }
}

/** Messages are answered one after the other: a run and the state it changes are never interleaved. */
let queue: Promise<void> = Promise.resolve();

const send = (reply: Reply): void => {
  if (port !== null) port.postMessage(reply);
  // Where nobody listens any more the reply is for nobody, and the end of the channel ends this process.
  else process.send!(reply, undefined, undefined, () => undefined);
};

function receive(request: Request): void {
  queue = queue.then(async () => {
    try {
      send({ id: request.id, value: await native(() => answer(request)) });
    } catch (error) {
      send({ id: request.id, error: error instanceof Error ? error.message : String(error) });
    }
    if (request.verb !== "close") return;
    if (port === null) process.disconnect();
    else port.close();
  });
}

if (port === null) {
  process.on("message", receive);
  // Whoever asked is gone.
  process.on("disconnect", () => process.exit());
} else port.on("message", receive);
