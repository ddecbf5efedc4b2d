/**
 * `npm run robustness -- [--seed TEXT] [--only KIND] [--quick] [--count N] [--out FOLDER]` tries generated inputs of all kinds and makes
 * docs/robustness.md of what became of them; a quick run writes into runs/robustness. `npm run robustness -- page` makes the page again from
 * the results in docs/robustness. Ends with 1 if anything was wrong, crashed or hung.
 */
import { writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { UserError } from "../../src/errors.js";
import { inRepository } from "../repository.js";
import { kinds } from "./kinds.js";
import { pageOf, summary } from "./page.js";
import { processKinds, type ProcessKind } from "./processes.js";
import { circumstances, readResults, writeResult, type Result } from "./results.js";
import { outcomes, type Kind, type Outcome, type Verdict } from "./trial.js";
import { watch, type Fault, type Tally } from "./watch.js";

const all: readonly (Kind | ProcessKind)[] = [...kinds, ...processKinds];
const usage = `usage: npm run robustness -- [--seed TEXT] [--only ${all.map(({ name }) => name).join("|")}] [--quick] [--count N] [--out FOLDER]
       npm run robustness -- page [--out FOLDER]`;

const say = (line: string): void => console.error(`${new Date().toTimeString().slice(0, 8)} ${line}`);

async function tallyOf(
  kind: Kind | ProcessKind,
  seed: string,
  count: number,
  signal: AbortSignal,
): Promise<Tally> {
  if ("prepare" in kind) return watch(kind, { seed, count, signal, say });
  const sums = Object.fromEntries(outcomes.map((outcome) => [outcome, 0])) as Record<Outcome, number>;
  const forms: Record<string, Partial<Record<Outcome, number>>> = {};
  const faults: Fault[] = [];
  let index = 0;
  const tell = ({ outcome, form, note = "" }: Verdict): void => {
    sums[outcome]++;
    const ofForm = (forms[form] ??= {});
    ofForm[outcome] = (ofForm[outcome] ?? 0) + 1;
    if (outcome !== "right") faults.push({ index, form, outcome, note });
    if (++index % 10 === 0) say(`${kind.name} ${index}/${count}`);
  };
  await kind.run({ seed, count, signal, tell });
  return {
    count: index,
    outcomes: sums,
    forms,
    peakBytes: 0,
    slowest: { milliseconds: 0, index: 0 },
    faults,
  };
}

async function main(words: readonly string[], signal: AbortSignal): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...words],
    allowPositionals: true,
    options: {
      seed: { type: "string", default: "1" },
      only: { type: "string", multiple: true },
      quick: { type: "boolean", default: false },
      count: { type: "string" },
      out: { type: "string" },
    },
  });
  const { seed, only, quick, count } = values;
  const chosen = all.filter(({ name }) => only === undefined || only.includes(name));
  const isKnown = only === undefined || chosen.length === new Set(only).size;
  const isPage = positionals.join() === "page";
  if ((positionals.length > 0 && !isPage) || !isKnown || !/^[1-9]\d*$/.test(count ?? "1"))
    throw new UserError(usage, { exitCode: 2 });
  const isTrial = quick || count !== undefined;
  const folder =
    values.out === undefined
      ? inRepository(isTrial ? "runs/robustness" : "docs/robustness")
      : resolve(values.out);
  const found = new Map<string, Result>();
  for (const kind of isPage ? [] : chosen) {
    const begun = performance.now();
    const wanted = count === undefined ? (quick ? kind.quick : kind.count) : Number(count);
    say(`${kind.name}: ${wanted}`);
    const tally = await tallyOf(kind, seed, wanted, signal);
    const seconds = Math.round((performance.now() - begun) / 1000);
    const result: Result = { kind: kind.name, seed, seconds, ...circumstances(), ...tally };
    await writeResult(folder, result);
    found.set(kind.name, result);
    for (const { index, form, outcome, note } of result.faults)
      say(`${kind.name} ${index}, ${form}: ${outcome}: ${note.replace(/\s+/g, " ").slice(0, 300)}`);
  }
  const results = await readResults(folder);
  if (isTrial) console.log(summary(chosen, found));
  else {
    const page =
      values.out === undefined ? inRepository("docs/robustness.md") : join(folder, "robustness.md");
    await writeFile(page, pageOf(all, results));
    say(`written: ${page}`);
  }
  return [...found.values()].some(({ faults }) => faults.length > 0) ? 1 : 0;
}

const controller = new AbortController();
for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => controller.abort());
try {
  process.exitCode = await main(process.argv.slice(2), controller.signal);
} catch (error) {
  if (controller.signal.aborted) process.exitCode = 130;
  else if (
    error instanceof UserError ||
    String((error as { code?: unknown }).code).startsWith("ERR_PARSE_ARGS")
  ) {
    console.error((error as Error).message);
    process.exitCode = 2;
  } else throw error;
}
