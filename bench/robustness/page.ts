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

## Limits

What is larger is refused by name before memory or time is spent on it.

| what | limit |
| --- | --- |
| a picture | 100,000,000 pixels, 65,535 a side, 200,000,000 bytes; an AVIF 30,000,000 pixels, a progressive JPEG 180,000,000 samples, an SVG 2048 x 2048 pixels |
| an SVG | drawn in a process of its own, which is ended after 6 seconds, at 700 MB, or when the signal is given |
| a tokenizer file | 64 MB, 3 million JSON values or 1 million lines, 1 million tokens, ids up to 10 million; regular expressions are known or refused, never run |
| a prompt | the model's positions; for a T5, which has none, 2,048 tokens unless \`maxPromptTokens\` says more |
| new tokens | 16,384 |
| a header of safetensors | 100,000,000 bytes |
| JSON beside a model | 100,000,000 bytes, 256 lists or objects within one another |
| answers of a hub about one model | 64 MiB together, 100 pages of files; a file beside the weights 100,000,000 bytes |

All limits of pictures but those of an SVG are held against the header. No picture takes more than 0.85 GB (the largest measured: WebP with 100,000,000
pixels, whole process). An \`AbortSignal\` stops waiting for any picture at once.

A tokenizer.json with a regular expression that is none of the published ones (GPT-2's, GPT-4's and Qwen's rules, or a single character or class with one
quantifier) is refused, since an unknown expression could keep the process busy for ever. Metaspace with \`prepend_scheme: "first"\` is refused together
with normalisers that may remove or move the beginning (Strip, StripAccents, BertNormalizer, Replace, Prepend), and behind a splitter with any but
Lowercase, because Python decides there by offsets.

Notes of what a hub has to do to be given up stand in \`bench/robustness/hub-faults.ts\`, one fault each.

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
