/** How callers know that a call was stopped: by name and cause, whatever stopped it. */
import { describe, expect, it } from "vitest";
import { interrupted, InterruptedError, stopIf } from "../src/errors.js";

describe("a stop", () => {
  it("carries the signal's reason", () => {
    const reason = new Error("the user left");
    expect(interrupted(AbortSignal.abort(reason))).toMatchObject({ name: "AbortError", cause: reason });
    expect(interrupted(AbortSignal.abort("no error at all"))).toMatchObject({
      name: "AbortError",
      cause: "no error at all",
    });
    const plain = interrupted(AbortSignal.abort());
    expect(plain).toBeInstanceOf(InterruptedError);
    expect(plain).toMatchObject({ name: "AbortError", cause: { name: "AbortError" } });
  });

  it("is known as one of time where it was one", async () => {
    const signal = AbortSignal.timeout(1);
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    expect(interrupted(signal)).toMatchObject({ name: "TimeoutError", cause: signal.reason });
    expect(interrupted(AbortSignal.any([signal, new AbortController().signal]))).toMatchObject({
      name: "TimeoutError",
    });
  });

  it("comes only where a signal was given", () => {
    stopIf(undefined);
    stopIf(new AbortController().signal);
    expect(() => stopIf(AbortSignal.abort(), "stopped at step 3")).toThrow("stopped at step 3");
  });
});
