import { expect, test } from "vitest";
import { createProgress, type Progress } from "../../src/cli/progress.js";
import { Captured } from "./captured.js";

interface Bench {
  readonly stderr: Captured;
  readonly progress: Progress;
  readonly clock: { now: number };
}

function makeBench({ isTTY = false, mode }: { isTTY?: boolean; mode?: string } = {}): Bench {
  const stderr = Object.assign(new Captured(), { isTTY });
  const clock = { now: 0 };
  const progress = createProgress({ stderr, mode, now: () => clock.now, memory: () => 2 ** 28 });
  return { stderr, progress, clock };
}

test("is silent where stderr is not a terminal", () => {
  const { stderr, progress } = makeBench();
  progress.update({ label: "train", step: 1, total: 2 });
  progress.clear();
  expect(stderr.text).toBe("");
});

test("as a log, prints a line each ten seconds at most", () => {
  const { stderr, progress, clock } = makeBench({ mode: "log" });
  for (let step = 0; step <= 250; step++) {
    clock.now = step * 100;
    progress.update({ label: "train", step, total: 10_000, detail: "loss 1.25" });
  }
  expect(stderr.text.split("\n")).toEqual([
    "train 0/10000 · loss 1.25 · 256 MiB",
    "train 100/10000 · 10.0/s · 16 min 30 s left · loss 1.25 · 256 MiB",
    "train 200/10000 · 10.0/s · 16 min 20 s left · loss 1.25 · 256 MiB",
    "",
  ]);
});

test("on a terminal, rewrites one line, not too often, and always at the end", () => {
  const { stderr, progress, clock } = makeBench({ isTTY: true });
  for (let step = 0; step <= 100; step++) {
    clock.now = step;
    progress.update({ label: "scenes", step, total: 100 });
  }
  progress.clear();
  progress.clear();
  const clearLine = "\u001b[K";
  expect(stderr.text.split("\r")).toEqual([
    "",
    `scenes 0/100 · 256 MiB${clearLine}`,
    `scenes 100/100 · 1000.0/s · 256 MiB${clearLine}`,
    clearLine,
  ]);
});

test("cuts the line where the terminal ends", () => {
  const { stderr, progress } = makeBench({ isTTY: true });
  stderr.columns = 20;
  progress.update({ label: "train", step: 1, detail: "a very long remark about losses" });
  expect(stderr.text).toBe("\rtrain 1 · a very lo\u001b[K");
});

test("measures a resumed run and a new label from where they start", () => {
  const { stderr, progress, clock } = makeBench({ mode: "log" });
  progress.update({ label: "train", step: 5000, total: 6000 });
  clock.now = 20_000;
  progress.update({ label: "train", step: 5004, total: 6000 });
  clock.now = 40_000;
  progress.update({ label: "evaluate", step: 1 });
  expect(stderr.text.split("\n").slice(1, 3)).toEqual([
    "train 5004/6000 · 5.0 s each · 1 h 23 min left · 256 MiB",
    "evaluate 1 · 256 MiB",
  ]);
});
