/**
 * What the runtime lives in: a thread of this process, or, where this is a thread itself, a process of its own. A thread that is ended
 * while it computes takes the whole process with it (the binding throws where nobody can catch). The main thread can wait for that moment
 * when it ends; a worker thread is not asked when it is terminated.
 */
import { fork, type ChildProcess } from "node:child_process";
import { isMainThread, Worker } from "node:worker_threads";
import { awaitIdle, newCallState } from "./native-calls.js";
import { failureId, type Reply, type Request, type WorkerSettings } from "./session-protocol.js";
import { withoutUsageReports } from "./usage-reports.js";

export interface RuntimeHost {
  post(request: Request, transfer: readonly ArrayBuffer[]): void;
  /** Keeps this process alive, or lets it end. */
  ref(): void;
  unref(): void;
}

export interface HostEvents {
  readonly onReply: (reply: Reply) => void;
  readonly onError: (error: Error) => void;
  /** why: what became of it, such as "its process was ended by SIGKILL". */
  readonly onExit: (why: string) => void;
}

export function startHost(settings: WorkerSettings, events: HostEvents): RuntimeHost {
  // Here, as the variables of a thread are a copy that the runtime does not see.
  withoutUsageReports();
  return isMainThread ? startThread(settings, events) : startProcess(settings, events);
}

/** From source (tests, benches) the worker is TypeScript too, and needs its loader. */
const isBuilt = import.meta.url.endsWith(".js");
const entry = new URL(isBuilt ? "./session-worker.js" : "./session-worker.ts", import.meta.url);
const boot = `import("tsx/esm/api").then((tsx) => { tsx.register(); return import(${JSON.stringify(entry.href)}); })`;

/** Milliseconds; no native call takes so long, but a thread that is stuck shall not keep the process for ever. */
const longestWait = 300_000;

/** Of all threads that have not ended. */
const states = new Set<Int32Array>();

function startThread(settings: WorkerSettings, { onReply, onError, onExit }: HostEvents): RuntimeHost {
  const state = newCallState();
  // Flags of this process are not the worker's: some, such as --input-type, would keep it from starting.
  const options = { workerData: { ...settings, state }, execArgv: [] };
  const worker = isBuilt ? new Worker(entry, options) : new Worker(boot, { ...options, eval: true });
  if (states.size === 0) process.on("exit", waitForThreads);
  states.add(state);
  worker.on("message", onReply);
  worker.on("error", onError);
  worker.on("exit", (code) => {
    states.delete(state);
    if (states.size === 0) process.off("exit", waitForThreads);
    onExit(`its thread ended with code ${code}`);
  });
  return {
    post: (request, transfer) => worker.postMessage(request, transfer),
    ref: () => worker.ref(),
    unref: () => worker.unref(),
  };
}

/** Ends no thread in the middle of a native call. Node would wait for the call as well, and then crash. */
function waitForThreads(): void {
  for (const state of states) awaitIdle(state, longestWait);
}

function startProcess(settings: WorkerSettings, { onReply, onError, onExit }: HostEvents): RuntimeHost {
  const args = isBuilt ? [] : ["--import", "tsx"];
  const child: ChildProcess = fork(entry, [], {
    execArgv: args,
    serialization: "advanced",
    env: { ...process.env, [settingsVariable]: JSON.stringify(settings) },
  });
  child.on("message", (reply: Reply) => {
    if (reply.id === failureId) onError(new Error(reply.error));
    else onReply(reply);
  });
  child.on("error", onError);
  child.on("exit", (code, signal) => {
    onExit(signal === null ? `its process ended with code ${code}` : `its process was ended by ${signal}`);
  });
  return {
    post: (request) => {
      child.send(request, (error) => {
        if (error !== null) onError(error);
      });
    },
    ref: () => {
      child.ref();
      child.channel?.ref();
    },
    unref: () => {
      child.unref();
      child.channel?.unref();
    },
  };
}

/** Where a runtime process finds its settings. */
export const settingsVariable = "BLIP2_RUNTIME_SETTINGS";
