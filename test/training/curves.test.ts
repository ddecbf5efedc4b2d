import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterEach, beforeEach, expect, it } from "vitest";
import { curvesSvg, writeCurves } from "../../src/training/curves.js";
import type { LogLine } from "../../src/training/run-log.js";

let run: string;
beforeEach(async () => {
  run = await mkdtemp(join(tmpdir(), "blip2-curves-"));
});
afterEach(() => rm(run, { recursive: true }));

const log: LogLine[] = Array.from({ length: 50 }, (_, i) => {
  const step = 20 * (i + 1);
  const left = Math.exp(-step / 300);
  return [
    {
      step,
      loss: 0.5 + 9 * left,
      itc: 0.2 + left,
      "itm accuracy": 1 - left / 2,
      gradientNorm: 3 * left,
      learningRate: 1e-4 * left,
      secondsPerStep: 0.7,
    },
    ...(step % 250 === 0 ? [{ step, "test recall@1": 1 - left, "validation loss": 1 + left }] : []),
    ...(step === 400 ? [{ step, skipped: "gradients not finite" }] : []),
  ];
}).flat();

const titlesOf = (svg: string): string[] =>
  [...svg.matchAll(/font-size="12" fill="#0f172a"[^>]*>([^<]*)</g)].map(([, title]) => title!);

it("draws a panel for each number, losses first, each with its last value and axes", async () => {
  const svg = curvesSvg(log, "stage1 & more")!;
  expect(titlesOf(svg)).toEqual([
    "loss",
    "itc",
    "validation loss",
    "itm accuracy",
    "test recall@1",
    "gradient norm",
    "learning rate",
    "seconds per step",
  ]);
  expect(svg).toContain("stage1 &amp; more");
  expect(svg).not.toMatch(/NaN|undefined|Infinity/);
  expect(svg.match(/<polyline/g)).toHaveLength(8);
  // The last step is at the right edge of every panel.
  for (const [, points] of svg.matchAll(/<polyline points="([^"]*)"/g)) {
    const [x, y] = points!.split(" ").at(-1)!.split(",").map(Number);
    expect(x).toBeCloseTo(256);
    expect(y).toBeLessThanOrEqual(188 - 26);
    expect(y).toBeGreaterThanOrEqual(46 - 1);
  }
});

it("writes both files, the PNG with something drawn on white", async () => {
  await writeFile(join(run, "log.jsonl"), log.map((line) => `${JSON.stringify(line)}\n`).join(""));
  await writeCurves(run, "a run");
  expect((await readdir(run)).sort()).toEqual(["curves.png", "curves.svg", "log.jsonl"]);
  const { channels } = await sharp(join(run, "curves.png")).removeAlpha().stats();
  for (const { max, mean, min } of channels) {
    expect(max).toBe(255);
    expect(mean).toBeGreaterThan(240);
    expect(min).toBeLessThan(80);
  }
});

it.each<[string, LogLine[]]>([
  ["one line", [{ step: 1, loss: 2, learningRate: 0 }]],
  [
    "constants, zeros and negative numbers",
    [1, 2, 3].flatMap((step) => [
      { step, loss: 0, learningRate: 1 },
      { step, margin: -2 },
    ]),
  ],
  [
    "huge and tiny numbers",
    [1, 2].map((step) => ({ step, loss: 10 ** (20 * step), tiny: 1e-12 * step, learningRate: 0 })),
  ],
])("draws %s", (_, lines) => {
  expect(curvesSvg(lines, "x")).not.toMatch(/NaN|undefined|Infinity/);
});

it("draws nothing of nothing", async () => {
  expect(curvesSvg([{ step: 1, skipped: "x" }], "x")).toBeUndefined();
  await writeCurves(run, "x");
  expect(await readdir(run)).toEqual([]);
});
