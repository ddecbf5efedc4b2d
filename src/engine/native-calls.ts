/**
 * A thread must not be ended in the middle of a native call: see `runtime-host.ts`. The thread that runs the runtime and the one that
 * ends the process agree about that in two integers of shared memory. Either side writes its own before it reads the other's, so one of
 * them sees the other in every order of events.
 */

const idle = 0;
const busy = 1;
/** Places in that memory: whether a native call is under way, and whether the process is ending. */
const statePlace = 0;
const endingPlace = 1;

export const newCallState = (): Int32Array => new Int32Array(new SharedArrayBuffer(8));

/** In the runtime's thread: makes a call during which `awaitIdle` waits. Once the process is ending no call is begun, and none returns. */
export async function guarded<T>(state: Int32Array, call: () => Promise<T>): Promise<T> {
  Atomics.store(state, statePlace, busy);
  standStillIfEnding(state);
  try {
    return await call();
  } finally {
    becomeIdle(state);
    standStillIfEnding(state);
  }
}

/** In the ending thread: returns when no native call is under way, or after so many milliseconds. */
export function awaitIdle(state: Int32Array, longest: number): void {
  Atomics.store(state, endingPlace, 1);
  Atomics.wait(state, statePlace, busy, longest);
}

function becomeIdle(state: Int32Array): void {
  Atomics.store(state, statePlace, idle);
  // Whether or not the process is known to be ending: it may have begun to wait since anybody looked.
  Atomics.notify(state, statePlace);
}

/** In code that can be ended. */
function standStillIfEnding(state: Int32Array): void {
  if (Atomics.load(state, endingPlace) === 0) return;
  becomeIdle(state);
  Atomics.wait(state, endingPlace, 1);
}
