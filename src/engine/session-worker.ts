/**
 * The thread that owns the runtime: sessions and resident tensors live here, so that the caller's thread
 * never blocks and large state (weights, moments, caches) never crosses the border.
 */
import { parentPort, workerData } from "node:worker_threads";
import * as ort from "onnxruntime-node";
import { elementCount, type HostTensor } from "../host-tensor.js";
import { refusedOutput, type Reply, type Request, type WorkerSettings } from "./session-protocol.js";

const port = parentPort!;
const settings = workerData as WorkerSettings;
const sessions = new Map<number, ort.InferenceSession>();
const residents = new Map<string, ort.Tensor>();

const toOrt = (value: HostTensor): ort.Tensor =>
  new ort.Tensor(
    value.dtype as "float32",
    (value.dtype === "bool" ? new Uint8Array(value.data as Uint8Array) : value.data) as Float32Array,
    value.dims,
  );

const fromOrt = (value: ort.Tensor): HostTensor =>
  ({ dtype: value.type, dims: value.dims, data: bitsOf(value) }) as unknown as HostTensor;

/** A host tensor holds float16 as its bits. So does the binding before Node 24, which has a Float16Array. */
function bitsOf({ type, data }: ort.Tensor): unknown {
  if (type !== "float16" || data instanceof Uint16Array) return data;
  const { buffer, byteOffset, byteLength } = data as unknown as Uint8Array;
  return new Uint16Array(buffer, byteOffset, byteLength / 2);
}

function resident(slot: string): ort.Tensor {
  const value = residents.get(slot);
  if (value === undefined) throw new Error(`no resident tensor is called ${slot}`);
  return value;
}

/** Memory for an output of fixed shape; null for others, which the runtime allocates itself. */
function blankOutput(session: ort.InferenceSession, name: string): ort.Tensor | null {
  const known = session.outputMetadata.find((output) => output.name === name);
  if (known?.isTensor !== true || known.type !== "float32") return null;
  const dims = known.shape.filter((dim) => typeof dim === "number");
  if (dims.length < known.shape.length) return null;
  return new ort.Tensor("float32", new Float32Array(elementCount(dims)), dims);
}

type Outputs = Readonly<Record<string, ort.Tensor | null>>;

/**
 * Runs a session and returns its outputs. The binding (1.30) copies each output into new memory, also one that the
 * runtime wrote into memory given for it: a step's gradients a second time, or weights and moments at an update. It
 * does so after the run, in order, and gives up at what is no tensor. So where memory was given for every output, such
 * an output is asked for before all others.
 */
async function runSession(
  session: ort.InferenceSession,
  feeds: Readonly<Record<string, ort.Tensor>>,
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
      const options: ort.InferenceSession.SessionOptions = {
        executionProviders: ["cpu"],
        intraOpNumThreads: settings.threads,
        interOpNumThreads: 1,
        graphOptimizationLevel: "all",
        // A memory pattern is one block for all values of a run, on top of what the arena holds from the first run, and
        // one more for each new shape. Without patterns a step takes as long and half of the memory.
        enableMemPattern: false,
        logSeverityLevel: 3,
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
      const feeds: Record<string, ort.Tensor> = {};
      for (const [name, value] of Object.entries(request.feeds)) feeds[name] = toOrt(value);
      for (const [name, slot] of Object.entries(request.inputs)) feeds[name] = resident(slot);
      const fetches: Record<string, ort.Tensor | null> = {};
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

port.on("message", (request: Request) => {
  queue = queue.then(async () => {
    try {
      const value = await answer(request);
      port.postMessage({ id: request.id, value } satisfies Reply);
    } catch (error) {
      port.postMessage({
        id: request.id,
        error: error instanceof Error ? error.message : String(error),
      } satisfies Reply);
    }
    if (request.verb === "close") port.close();
  });
});
