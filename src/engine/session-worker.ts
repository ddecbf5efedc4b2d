/**
 * The thread that owns the runtime: sessions and resident tensors live here, so that the caller's thread
 * never blocks and large state (weights, moments, caches) never crosses the border.
 */
import { parentPort, workerData } from "node:worker_threads";
import * as ort from "onnxruntime-node";
import type { HostTensor } from "../host-tensor.js";
import type { Reply, Request, WorkerSettings } from "./session-protocol.js";

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
  ({ dtype: value.type, dims: value.dims, data: value.data }) as unknown as HostTensor;

function resident(slot: string): ort.Tensor {
  const value = residents.get(slot);
  if (value === undefined) throw new Error(`no resident tensor is called ${slot}`);
  return value;
}

async function answer(request: Request): Promise<Reply["value"]> {
  switch (request.verb) {
    case "compile": {
      const options: ort.InferenceSession.SessionOptions = {
        executionProviders: ["cpu"],
        intraOpNumThreads: settings.threads,
        interOpNumThreads: 1,
        graphOptimizationLevel: "all",
        logSeverityLevel: 3,
        ...(settings.profilePrefix === undefined
          ? {}
          : { enableProfiling: true, profileFilePrefix: settings.profilePrefix }),
      };
      sessions.set(request.program, await ort.InferenceSession.create(request.model, options));
      return undefined;
    }
    case "run": {
      const session = sessions.get(request.program);
      if (session === undefined) throw new Error("this program has been released");
      const feeds: Record<string, ort.Tensor> = {};
      for (const [name, value] of Object.entries(request.feeds)) feeds[name] = toOrt(value);
      for (const [name, slot] of Object.entries(request.inputs)) feeds[name] = resident(slot);
      const fetches: Record<string, ort.Tensor | null> = {};
      for (const name of request.fetch) fetches[name] = null;
      for (const [name, slot] of Object.entries(request.keep)) {
        const old = request.reuse ? residents.get(slot) : undefined;
        fetches[name] = old ?? null;
      }
      const results = await session.run(feeds, fetches);
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
