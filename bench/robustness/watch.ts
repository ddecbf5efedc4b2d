/** The side that watches: starts processes for the trials of a kind, notes what they tell, and goes on behind what kills or stops one. */
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Report } from "./child.js";
import { outcomes, type Kind, type Outcome } from "./trial.js";

export interface Fault {
  readonly index: number;
  readonly form: string;
  readonly outcome: Outcome;
  readonly note: string;
}

export interface Tally {
  readonly count: number;
  readonly outcomes: Readonly<Record<Outcome, number>>;
  /** Of the same by form. */
  readonly forms: Readonly<Record<string, Partial<Record<Outcome, number>>>>;
  /** The largest resident memory of any of the processes. */
  readonly peakBytes: number;
  /** The slowest trial. */
  readonly slowest: { readonly milliseconds: number; readonly index: number };
  /** What is wrong, the first of them. */
  readonly faults: readonly Fault[];
}

/** A process is replaced after so many trials, so that what it leaves behind does not add up. */
const trialsEach = 1000;
const mostFaults = 100;
/** What runs as the child: the compiled one unless a test brings another. */
export interface ChildProgram {
  readonly path: string;
  readonly execArgv: readonly string[];
}
const compiled: ChildProgram = { path: fileURLToPath(new URL("child.js", import.meta.url)), execArgv: [] };

/** For what the trials of a kind share. */
const longestPreparation = 180_000; // ms

export async function watch(
  kind: Pick<Kind, "name" | "limit" | "each">,
  {
    seed,
    count,
    signal,
    say,
    program = compiled,
  }: {
    readonly seed: string;
    readonly count: number;
    readonly signal: AbortSignal;
    readonly say: (line: string) => void;
    readonly program?: ChildProgram;
  },
): Promise<Tally> {
  const sums = Object.fromEntries(outcomes.map((outcome) => [outcome, 0])) as Record<Outcome, number>;
  const forms: Record<string, Partial<Record<Outcome, number>>> = {};
  const faults: Fault[] = [];
  let [peakBytes, slowest, next, fresh] = [0, { milliseconds: 0, index: 0 }, 0, true];
  const note = (index: number, form: string, outcome: Outcome, text = ""): void => {
    sums[outcome]++;
    const ofForm = (forms[form] ??= {});
    ofForm[outcome] = (ofForm[outcome] ?? 0) + 1;
    if (!["right", "accepted", "refused"].includes(outcome) && faults.length < mostFaults)
      faults.push({ index, form, outcome, note: text });
  };
  const root = await mkdtemp(join(tmpdir(), "blip2-robustness-"));
  await using _ = { [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }) };
  while (next < count) {
    signal.throwIfAborted();
    const end = Math.min(count, next + (kind.each ?? trialsEach));
    const child = fork(program.path, [kind.name, seed, `${next}`, `${end}`], {
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      execArgv: [...program.execArgv],
      // What a killed one leaves is removed here.
      env: { ...process.env, TMPDIR: root },
    });
    const state = await follow(child, kind, signal, (report) => {
      if ("ready" in report) {
        fresh = false;
        return;
      }
      note(report.index, report.form, report.outcome, report.note);
      peakBytes = Math.max(peakBytes, report.peakBytes);
      if (report.milliseconds > slowest.milliseconds)
        slowest = { milliseconds: report.milliseconds, index: report.index };
      next = report.index + 1;
      if (next % 100 === 0) say(`${kind.name} ${next}/${count}`);
    });
    if (state.how === "ended" && next >= end) continue;
    if (fresh) throw new Error(`${kind.name}: could not be prepared: ${state.stderr.slice(-2000)}`);
    note(
      next,
      "unknown",
      state.how === "hung" ? "hung" : "crashed",
      `${state.how} ${state.stderr.slice(-300)}`,
    );
    next++;
  }
  return { count, outcomes: sums, forms, peakBytes, slowest, faults };
}

async function follow(
  child: ChildProcess,
  kind: Pick<Kind, "limit">,
  signal: AbortSignal,
  onReport: (report: Report) => void,
): Promise<{ how: string; stderr: string }> {
  let [stderr, isHung] = ["", false];
  child.stderr!.on("data", (text: Buffer) => (stderr = (stderr + text.toString()).slice(-4000)));
  const kill = (): void => void child.kill("SIGKILL");
  let timer = setTimeout(kill, longestPreparation);
  signal.addEventListener("abort", kill);
  child.on("message", (report: Report) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      isHung = true;
      kill();
    }, kind.limit);
    onReport(report);
  });
  const [code, killedBy] = (await once(child, "close")) as [number | null, string | null];
  clearTimeout(timer);
  signal.removeEventListener("abort", kill);
  return { how: isHung ? "hung" : code === 0 ? "ended" : `exit ${code ?? killedBy}`, stderr };
}
