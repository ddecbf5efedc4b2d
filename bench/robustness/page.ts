/** docs/robustness.md, from the results in docs/robustness. */
import type { ProcessKind } from "./processes.js";
import type { Result } from "./results.js";
import { outcomes, type Kind, type Outcome } from "./trial.js";

type AnyKind = Pick<Kind | ProcessKind, "name" | "title" | "rule">;

const number = (value: number): string => value.toLocaleString("en");
const sum = (results: readonly Result[], outcome: Outcome): number =>
  results.reduce((total, { outcomes: counts }) => total + counts[outcome], 0);

function table(rows: readonly (readonly string[])[]): string {
  const [head, ...rest] = rows;
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [line(head!), line(head!.map((_, i) => (i === 0 ? "---" : "---:"))), ...rest.map(line)].join("\n");
}

const peak = ({ peakBytes }: Result): string => (peakBytes === 0 ? "" : `${Math.round(peakBytes / 1e6)} MB`);

/** The table of all kinds that have been tried. */
export function summary(kinds: readonly AnyKind[], results: ReadonlyMap<string, Result>): string {
  const found = kinds.flatMap(({ name }) => results.get(name) ?? []);
  return table([
    ["kind of input", "tried", ...outcomes, "peak memory"],
    ...kinds.flatMap(({ name, title }) => {
      const result = results.get(name);
      if (result === undefined) return [];
      const counts = outcomes.map((outcome) => number(result.outcomes[outcome]));
      return [[title, number(result.count), ...counts, peak(result)]];
    }),
    [
      "all",
      number(found.reduce((total, { count }) => total + count, 0)),
      ...outcomes.map((outcome) => number(sum(found, outcome))),
      "",
    ],
  ]);
}

/** The same of the forms of one kind. */
function formTable({ forms }: Result): string {
  return table([
    ["form", ...outcomes],
    ...Object.entries(forms)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([form, counts]) => [
        form.replaceAll("|", "\\|"),
        ...outcomes.map((outcome) => number(counts[outcome] ?? 0)),
      ]),
  ]);
}

function faultsOf({ kind, seed, faults }: Result): string[] {
  return faults.map(
    ({ index, form, outcome, note }) =>
      `- ${kind} ${index} of seed ${seed}, ${form}: **${outcome}**, \`${note.replace(/\s+/g, " ").replaceAll("`", "'").slice(0, 300)}\``,
  );
}

function circumstance(results: readonly Result[]): string {
  const lines = results.map(
    ({ date, machine, versions, seed }) =>
      `Measured on ${date} with seed ${seed}, on ${machine}, with ${Object.entries(versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(", ")}.`,
  );
  return [...new Set(lines)].join("\n");
}

export function pageOf(kinds: readonly AnyKind[], results: ReadonlyMap<string, Result>): string {
  const found = kinds.flatMap(({ name }) => results.get(name) ?? []);
  const faults = found.flatMap(faultsOf);
  return `# What bad input does

Files come from strangers, networks break off, and processes are killed. This page is made by \`npm run robustness\`, which tries
generated inputs of each kind and counts what becomes of them. Each input follows from a seed, its kind and a number, so that any of them can be made again.

- **right**: what had to come out is known, and it came out.
- **accepted**: a changed input that its format still allows. What it means now nobody can say; it was read, and what was read is sound, as said below for each kind.
- **refused**: one sentence that says where and what, as \`UserError\` or with exit code 1 or 2.
- **wrong**: other values came out, a good input was refused, a bad one was not, or the sentence is unfit for people.
- **crashed**: a process died, or an error came that is no fault of the input's author.
- **hung**: no answer within a limit of at least ten seconds.

Inputs are tried in processes of their own, which another watches. Peak memory is the largest resident size of any of them, with Node, the
runtime and the generator in it. ${circumstance(found)}

${summary(kinds, results)}

${faults.length === 0 ? "Nothing was wrong, crashed or hung." : `## What is wrong\n\n${faults.join("\n")}`}

## The kinds
${kinds
  .flatMap((kind) => {
    const result = results.get(kind.name);
    if (result === undefined) return [];
    const { slowest } = result;
    const slow =
      slowest.milliseconds > 0
        ? ` The slowest took ${(slowest.milliseconds / 1000).toFixed(1)} s (number ${slowest.index}).`
        : "";
    return [`\n### ${kind.title}\n\n${kind.rule}${slow}\n\n${formTable(result)}\n`];
  })
  .join("")}`;
}
