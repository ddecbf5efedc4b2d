/** The page from made-up results: it must say what they say, and the same every time. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { plan } from "../../bench/experiments/definitions.js";
import { Places } from "../../bench/experiments/experiment.js";
import { writePage } from "../../bench/experiments/page.js";
import { parameterCounts } from "../../bench/experiments/parameters.js";
import { publishedSizes, publishedTextSide } from "../../bench/experiments/published-sizes.js";
import { publish, readResults, type Result, type TrainingLine } from "../../bench/experiments/results.js";

let places: Places;
beforeEach(async () => {
  places = new Places(await mkdtemp(join(tmpdir(), "blip2-page-")));
});
afterEach(() => rm(places.root, { recursive: true }));

type Measures = Record<string, number>;

const result = (
  experiment: string,
  arm: string,
  seed: number,
  step: number,
  measures: Measures,
  config: Result["config"] = {},
): Result => ({
  experiment,
  arm,
  seed,
  step,
  measures,
  seconds: step,
  commit: "0123456789",
  date: "2026-01-02",
  config,
});

async function keep(lines: readonly Result[]): Promise<void> {
  for (const experiment of new Set(lines.map((line) => line.experiment))) {
    const { results } = places.published(experiment);
    const own = lines.filter((line) => line.experiment === experiment);
    await publish(results, await readResults(results), own);
  }
}

/** Stage 2 of one family: accuracies by seed at the last of three steps, with half of it before. */
const stage2 = (arm: string, accuracies: readonly number[], statementShare = 0): Result[] =>
  accuracies.flatMap((accuracy, i) =>
    [200, 400, 600].map((step) =>
      result(
        "two-stages",
        arm,
        i + 1,
        step,
        {
          "vqa accuracy": step === 600 ? accuracy : accuracy / 2,
          "captions kindF1": accuracy,
          "validation loss": 1 - accuracy,
        },
        { stage2: { seed: i + 1, statementShare } },
      ),
    ),
  );

const retrieval = (arm: string, recalls: readonly number[], gain: number, queries = 24): Result[] =>
  recalls.map((recall, i) =>
    result(
      arm.startsWith("queries") ? "queries" : "retrieval-losses",
      arm,
      i + 1,
      300,
      Object.fromEntries([
        ...["image to text", "text to image"].flatMap((direction) =>
          [1, 5, 10].flatMap((depth) => [
            [`itc ${direction} recall@${depth}`, recall],
            [`itm ${direction} recall@${depth}`, recall + gain],
          ]),
        ),
        ["itm accuracy", recall],
        ["itm accuracy, hardest negatives", recall],
      ]) as Measures,
      { stage1: { seed: i + 1, queries } },
    ),
  );

const page = async (): Promise<string> => {
  await writePage(plan, places);
  return readFile(places.page, "utf8");
};
const sectionOf = (text: string, title: string): string =>
  text.split("\n## ").find((part) => part.startsWith(title))!;

it("says of everything that it was not run, where nothing was", async () => {
  const text = await page();
  for (const { name } of plan.experiments)
    expect(text).toContain(`Not run yet: \`npm run experiments -- run ${name}\`.`);
  expect(text).not.toMatch(/NaN|undefined|Infinity/);
  expect(await readdir(join(places.root, "docs"))).toEqual(["experiments.md"]);
});

describe("stage 1 before stage 2", () => {
  const title = "Stage 1 before stage 2";

  it("says so when the claim is borne out, with numbers that follow from the logs", async () => {
    await keep([
      ...stage2("opt-both", [0.6, 0.62, 0.64]),
      ...stage2("opt-alone", [0.3, 0.32, 0.31]),
      ...stage2("t5-both", [0.7, 0.71, 0.72]),
      ...stage2("t5-alone", [0.5, 0.52, 0.51]),
    ]);
    const text = sectionOf(await page(), title);
    expect(text).toContain("borne out here (2 of 2 comparisons are for it, 0 against it, 0 undecided)");
    expect(text).toContain("| OPT, stage 1 first | 3 | 600 | 10.0 | 62.0 ± 2.0 (60.0 to 64.0) |");
    expect(text).toContain(
      "zero-shot VQA: 62.0 (OPT, stage 1 first) against 31.0 (OPT, stage 2 alone), a difference of +31.0; larger than the spread of the seeds (4.0)",
    );
    expect(text).toContain("OPT, stage 2 alone: 15.5 at step 200, 31.0 at step 600: it still rises.");
    expect(text).toContain("on captions alone");
    expect(text).not.toMatch(/NaN|undefined/);
  });

  it("says so when it is not, or the opposite", async () => {
    await keep([
      ...stage2("opt-both", [0.3, 0.4, 0.5], 0.5),
      ...stage2("opt-alone", [0.35, 0.45, 0.4], 0.5),
      ...stage2("t5-both", [0.1, 0.11, 0.12], 0.5),
      ...stage2("t5-alone", [0.5, 0.52, 0.51], 0.5),
    ]);
    const text = sectionOf(await page(), title);
    expect(text).toContain(
      "not borne out; in part the opposite came out (0 of 2 comparisons are for it, 1 against it, 1 undecided)",
    );
    expect(text).toContain("no difference larger than the spread of the seeds (20.0)");
    expect(text).toContain("in 50.0 % of the rows, statements about the picture");
  });

  it("claims nothing from two seeds, and names arms without results", async () => {
    await keep([...stage2("opt-both", [0.6, 0.61]), ...stage2("opt-alone", [0.3, 0.31])]);
    const text = sectionOf(await page(), title);
    expect(text).toContain("not settled here");
    expect(text).toContain("from 2 and 2 seeds, where 3 of each are needed");
    expect(text).toContain("Not run yet: T5, stage 1 first; T5, stage 2 alone.");
  });

  it("refuses to average what was run in different ways", async () => {
    const other = stage2("opt-both", [0.6, 0.6], 0.5).slice(3);
    await keep([...stage2("opt-both", [0.6]), ...other]);
    await expect(page()).rejects.toThrow("opt-both was run in 2 ways");
  });
});

it("tells of retrieval, reranking and queries from the same runs", async () => {
  await keep([
    ...retrieval("with-itg", [0.5, 0.52, 0.51], 0.2),
    ...retrieval("without-itg", [0.5, 0.53, 0.49], 0.1),
    ...retrieval("queries-4", [0.2, 0.21, 0.22], 0.1, 4),
    ...retrieval("queries-12", [0.4, 0.41, 0.42], 0.1, 12),
  ]);
  const text = await page();
  expect(sectionOf(text, "Retrieval with and without")).toContain("**ITG helps retrieval:** borne out here");
  const reranking = sectionOf(text, "Ranking the best again");
  expect(reranking).toContain(
    "ITC + ITM, picture to text, recall@1 after against before: +10.0 in the mean (+10.0 to +10.0); higher in every seed.",
  );
  expect(reranking).toContain("borne out here (4 of 4");
  expect(reranking).toContain("of ITC + ITM tells a right pair from a wrong one in 50.7 % of the cases");
  const queries = sectionOf(text, "The number of queries");
  const order = ["| 4 queries", "| 12 queries", "| 24 queries"].map((label) => queries.indexOf(label));
  expect(order).toEqual([...order].sort((a, b) => a - b));
  expect(order[0]).toBeGreaterThan(0);
  expect(queries).toContain("against 41.0 (12 queries), a difference of +10.0; larger than the spread");
});

it("compares answers with the prior and with the ceiling", async () => {
  const answers = (arm: string, accuracy: number, color: number, rest: Measures = {}): Result =>
    result(
      "zero-shot-vqa",
      arm,
      0,
      0,
      { accuracy, "accuracy: color": color, "accuracy: count": accuracy, questions: 400, ...rest },
      { model: "models/scenes-opt" },
    );
  await keep([
    answers("opt-picture", 0.75, 0.8),
    answers("opt-nothing", 0.5, 0.2, { "most frequent answer": 0.52, "most frequent answer: color": 0.25 }),
    answers("opt-description", 0.99, 1),
  ]);
  const text = sectionOf(await page(), "Zero-shot visual question answering");
  expect(text).toContain("| color | 80.0 | 20.0 | 25.0 | 100.0 | +60.0 |");
  expect(text).toContain("| all | 75.0 | 50.0 | 52.0 | 99.0 | +25.0 |");
  expect(text).toContain("gives least to questions of type count");
  expect(text).toContain("in one family:** not reached.");
  await keep([answers("opt-picture", 0.85, 0.8)]);
  expect(await page()).toContain("in one family:** reached.");
});

it("sets counted sizes beside the paper's", async () => {
  await keep(
    publishedSizes.map(({ name, config }) =>
      result("parameters", name, 0, 0, parameterCounts(config, publishedTextSide)),
    ),
  );
  expect(sectionOf(await page(), "Trainable weights")).toContain(
    "| ViT-g, OPT-2.7B | 107.1 M | 107 M | 3.74 G | 3.8 G |",
  );
});

it("is the same every time, with plots that are pictures, and drops a plot that has lost its numbers", async () => {
  const lines = [...stage2("opt-both", [0.6, 0.7, 0.8]), ...stage2("opt-alone", [0.3, 0.31, 0.32])];
  const { results, training } = places.published("two-stages");
  await keep(lines);
  const losses: TrainingLine[] = [1, 2, 3].flatMap((seed) =>
    [100, 200].map((step) => ({ arm: "opt-both", seed, step, values: { loss: 300 / step + seed } })),
  );
  await publish(training, [], losses);
  const svg = join(places.root, "docs/experiments/two-stages.svg");
  const read = async (): Promise<string[]> => [await page(), await readFile(svg, "utf8")];
  const first = await read();
  expect(first[0]).toContain("![Stage 1 before stage 2](experiments/two-stages.svg)");
  await rm(results);
  await publish(results, [], [...lines].reverse());
  expect(await read()).toEqual(first);
  const { width, height } = await sharp(Buffer.from(first[1]!)).metadata();
  expect([width, height].every((size) => size > 300)).toBe(true);
  expect(first[1]).toContain("training loss");
  expect(first[1]).not.toMatch(/NaN|undefined/);
  // A band from the least to the most, and a line through the means.
  expect(first[1]!.match(/<polygon /g)).toHaveLength(7);
  await rm(results);
  await rm(training);
  await page();
  expect(await readdir(join(places.root, "docs/experiments"))).toEqual([]);
});

describe("publishing", () => {
  it("replaces what is measured again, keeps the rest, and is in order", async () => {
    const { results } = places.published("two-stages");
    await keep([...stage2("opt-both", [0.1, 0.2]), ...stage2("opt-alone", [0.3])]);
    const again = stage2("opt-both", [0.5]).slice(0, 1);
    await keep(again);
    const lines = await readResults(results);
    expect(lines.map(({ arm, seed, step }) => `${arm} ${seed} ${step}`)).toEqual([
      "opt-alone 1 200",
      "opt-alone 1 400",
      "opt-alone 1 600",
      "opt-both 1 200",
      "opt-both 2 200",
      "opt-both 2 400",
      "opt-both 2 600",
    ]);
    expect(lines[3]).toEqual(again[0]);
  });
});
