/** The agreement between the thread that computes and the one that ends the process, order by order. */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { expect, test } from "vitest";
import { awaitIdle, guarded, newCallState } from "../../src/engine/native-calls.js";

const waitsLongest = 20_000;

/** Another thread that does with the state what the lines say; tells "begun" before. */
function inThread(state: Int32Array, lines: string): Worker {
  const head = `const { parentPort, workerData: state } = require("node:worker_threads"); parentPort.postMessage("begun");`;
  return new Worker(`${head}\n${lines}`, { eval: true, workerData: state });
}

test(
  "whoever waits for a call wakes at its end, also if the call did not know of it",
  { timeout: 60_000 },
  async () => {
    const state = newCallState();
    let finish = (): void => undefined;
    const call = guarded(state, () => new Promise<void>((resolve) => (finish = resolve)));
    // It waits without a word, as one does that begins to end after this thread has last looked.
    const waiter = inThread(state, `parentPort.postMessage(Atomics.wait(state, 0, 1, ${waitsLongest}));`);
    await once(waiter, "message");
    const [answer] = await Promise.all([
      once(waiter, "message"),
      new Promise((resolve) => setTimeout(resolve, 300)).then(() => finish()),
    ]);
    expect(["ok", "not-equal"]).toContain((answer as string[])[0]);
    await call;
  },
);

test("nobody waits where nothing is under way", () => {
  awaitIdle(newCallState(), waitsLongest);
});

test("no call is begun once the process is ending", { timeout: 60_000 }, async () => {
  const state = newCallState();
  awaitIdle(state, waitsLongest);
  // The same agreement as `guarded` has, so the state must read idle while that thread stands still.
  const module = new URL("../../src/engine/native-calls.ts", import.meta.url).href;
  const thread = inThread(
    state,
    `void import("tsx/esm/api").then((tsx) => { tsx.register(); return import(${JSON.stringify(module)}); })
      .then(({ guarded }) => { parentPort.postMessage("ready"); return guarded(state, async () => parentPort.postMessage("called")); });`,
  );
  const said: string[] = [];
  thread.on("message", (word: string) => said.push(word));
  while (!said.includes("ready")) await once(thread, "message");
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(said).toEqual(["begun", "ready"]);
  expect(Atomics.load(state, 0)).toBe(0);
  await thread.terminate();
});
