/** The harness of docs/robustness.md: a few of its trials, and whether it would see what is wrong. */
import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it, vi } from "vitest";
import { kinds } from "../../bench/robustness/kinds.js";
import { pageOf } from "../../bench/robustness/page.js";
import { judge, type Kind, type Trial } from "../../bench/robustness/trial.js";
import { watch } from "../../bench/robustness/watch.js";
import { InternalError, UserError } from "../../src/errors.js";
import { Random } from "../../src/random.js";

const folders: string[] = [];
afterAll(async () => {
  vi.unstubAllEnvs();
  for (const folder of folders) await rm(folder, { recursive: true, force: true });
});

/** So many trials each; kinds that need whole models, trainings or a build are left to the command. */
const tried: Readonly<Record<string, number>> = {
  pictures: 60,
  safetensors: 80,
  pytorch: 60,
  "generation-configs": 60,
  "tokenizer-folders": 20,
  texts: 60,
  "quantised-copies": 30,
  "data-sets": 30,
};

describe("generated inputs", () => {
  it.each(Object.entries(tried))("%s: %i are right, accepted or refused", async (name, count) => {
    const folder = await realpath(await mkdtemp(join(tmpdir(), "blip2-trials-")));
    folders.push(folder);
    vi.stubEnv("XDG_CACHE_HOME", join(folder, "cache"));
    const kind = kinds.find((candidate) => candidate.name === name)!;
    const trials = await kind.prepare(folder);
    const found = new Map<string, number>();
    for (let index = 0; index < count; index++) {
      const verdict = await judge(await trials(new Random("tests", name, index), index));
      expect(["right", "accepted", "refused"], `${index}: ${JSON.stringify(verdict)}`).toContain(
        verdict.outcome,
      );
      found.set(verdict.outcome, (found.get(verdict.outcome) ?? 0) + 1);
    }
    expect(found.get("right")).toBeGreaterThan(0);
    if (name !== "texts" && name !== "quantised-copies") expect(found.get("refused")).toBeGreaterThan(0);
  });

  it("are the same for the same seed", async () => {
    const trials = await kinds.find(({ name }) => name === "safetensors")!.prepare(tmpdir());
    const forms = async (seed: string): Promise<string[]> =>
      Promise.all(Array.from({ length: 40 }, async (_, i) => (await trials(new Random(seed, i), i)).form));
    expect(await forms("a")).toEqual(await forms("a"));
    expect(await forms("a")).not.toEqual(await forms("b"));
  });
});

describe("a verdict", () => {
  const verdict = async (must: Trial["must"], run: Trial["run"], known = false) =>
    (await judge({ form: "any", must, run, known })).outcome;
  const failing = (error: unknown) => async () => {
    throw error;
  };

  it.each<[Trial["must"], boolean, string]>([
    ["read", false, "right"],
    ["either", false, "accepted"],
    ["either", true, "right"],
    ["refuse", false, "wrong"],
  ])("on what was read and had to be %s (known: %s) is %s", async (must, known, outcome) => {
    expect(await verdict(must, async () => undefined, known)).toBe(outcome);
    expect(await verdict(must, async () => "other values", known)).toBe("wrong");
  });

  it("on what was not read tells refusals from bugs", async () => {
    expect(await verdict("either", failing(new UserError("x.png: no")))).toBe("refused");
    expect(await verdict("refuse", failing(new UserError("x.png: no")))).toBe("refused");
    expect(await verdict("read", failing(new UserError("x.png: no")))).toBe("wrong");
    expect(await verdict("either", failing(new UserError("x".repeat(10_000))))).toBe("wrong");
    expect(await verdict("refuse", failing(new InternalError("oh")))).toBe("crashed");
    expect(await verdict("refuse", failing(new TypeError("oh")))).toBe("crashed");
  });
});

it(
  "goes on behind a trial that kills its process or never ends, and counts it",
  { timeout: 120_000 },
  async () => {
    const path = fileURLToPath(new URL("fixtures/ill-child.ts", import.meta.url));
    const tally = await watch(
      { name: "ill", limit: 5_000 },
      {
        seed: "1",
        count: 10,
        signal: new AbortController().signal,
        say: () => undefined,
        program: { path, execArgv: ["--import", "tsx"] },
      },
    );
    expect(tally.outcomes).toEqual({ right: 6, accepted: 0, refused: 0, wrong: 1, crashed: 2, hung: 1 });
    expect(tally.faults.map(({ index, outcome }) => `${index} ${outcome}`)).toEqual([
      "2 crashed",
      "5 crashed",
      "7 hung",
      "8 wrong",
    ]);
    expect(tally.faults[0]!.note).toContain("SIGSEGV");
    expect(tally.faults[1]!.note).toContain("exit 7");
    expect(tally.peakBytes).toBe(9000);

    const circumstances = {
      seed: "1",
      seconds: 1,
      date: "2026-01-01",
      machine: "M",
      versions: { node: "20" },
    };
    const ill = { name: "ill", title: "ill files", rule: "Any." } as Kind;
    const page = pageOf([ill], new Map([["ill", { kind: "ill", ...circumstances, ...tally }]]));
    expect(page).toContain("| ill files | 10 | 6 | 0 | 0 | 1 | 2 | 1 | 0 MB |");
    expect(page).toContain("- ill 7 of seed 1, unknown: **hung**");
    expect(page).toContain("Measured on 2026-01-01 with seed 1, on M, with node 20.");
  },
);
