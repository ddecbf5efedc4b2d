/** What crosses the border between a caller and the thread that owns the runtime. */
import type { HostTensors, Slots } from "./device.js";

/** A model as the runtime can load it. */
export type PlacedModel =
  { readonly path: string } | { readonly bytes: Uint8Array; readonly externalData: readonly NamedBytes[] };

export interface NamedBytes {
  readonly path: string;
  readonly data: Uint8Array<ArrayBuffer>;
}

export interface WorkerSettings {
  readonly threads: number;
  /** Where the runtime writes its profile, when one is wanted. */
  readonly profilePrefix?: string;
}

/** The output that spares programs with `reuseResidents` the copies of all others; see `session-worker.ts`. */
export const refusedOutput = "%refused";

export type Request = { readonly id: number } & (
  | {
      readonly verb: "compile";
      readonly program: number;
      readonly model: PlacedModel;
      readonly packed: boolean;
    }
  | {
      readonly verb: "run";
      readonly program: number;
      readonly feeds: HostTensors;
      readonly inputs: Slots;
      readonly keep: Slots;
      readonly fetch: readonly string[];
      readonly reuse: boolean;
    }
  | { readonly verb: "put"; readonly tensors: HostTensors }
  | { readonly verb: "read"; readonly slots: readonly string[] }
  | { readonly verb: "drop"; readonly slots: readonly string[] }
  | { readonly verb: "release"; readonly program: number }
  | { readonly verb: "close" }
);

/** A request without its number, kind by kind. */
export type RequestBody = Request extends infer R
  ? R extends { id: number }
    ? Omit<R, "id">
    : never
  : never;

/** The number of no request: the process that owns the runtime fails as a whole. A thread's failure is an event of its own. */
export const failureId = -1;

export interface Reply {
  readonly id: number;
  readonly value?: HostTensors | undefined;
  readonly error?: string;
}
