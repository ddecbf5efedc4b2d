/** How far a long piece of work has come: one line on stderr that is rewritten in place. */
import type { Writable } from "node:stream";

export interface ProgressReport {
  /** What is being done, such as `train`. A new label starts a new measurement. */
  readonly label: string;
  /** Steps done so far. A resumed run may start anywhere. */
  readonly step: number;
  /** Steps in all, where that is known. */
  readonly total?: number | undefined;
  /** Anything else that fits on the line, such as a loss. */
  readonly detail?: string | undefined;
}

export interface Progress {
  update(report: ProgressReport): void;
  /** Takes the line off the screen; the next update draws it again. */
  clear(): void;
}

export interface ProgressTarget {
  readonly stderr: Writable & { readonly isTTY?: boolean; readonly columns?: number };
  /** `BLIP2_PROGRESS`: "log" prints a line now and then where stderr is not a terminal. */
  readonly mode?: string | undefined;
  readonly now?: () => number;
  readonly memory?: () => number;
}

const redrawEvery = 100; // ms
const logEvery = 10_000; // ms
/** The rate is that of the last half minute, so that a slow start does not spoil the estimate. */
const rateWindow = 30_000; // ms

export function createProgress(target: ProgressTarget): Progress {
  const { stderr, mode, now = () => performance.now(), memory = () => process.memoryUsage.rss() } = target;
  const isTerminal = stderr.isTTY === true;
  if (!isTerminal && mode !== "log") return { update: () => {}, clear: () => {} };

  let label: string | undefined;
  let samples: { time: number; step: number }[] = [];
  let lastWrite = -Infinity;
  let isShown = false;

  const clear = (): void => {
    if (isShown) stderr.write("\r\u001b[K");
    isShown = false;
  };

  return {
    clear,
    update(report) {
      const time = now();
      const isNew = report.label !== label || report.step < (samples.at(-1)?.step ?? 0);
      if (isNew) [label, samples] = [report.label, []];
      while (samples.length > 1 && (samples[0]?.time ?? time) < time - rateWindow) samples.shift();
      const sinceSample = time - (samples.at(-1)?.time ?? -Infinity);
      if (sinceSample >= redrawEvery) samples.push({ time, step: report.step });

      const isLast = report.step === report.total;
      if (!isTerminal) {
        if (time - lastWrite < logEvery) return;
        lastWrite = time;
        stderr.write(`${formatLine(report, rate(samples, time, report.step), memory())}\n`);
        return;
      }
      if (!isNew && !isLast && time - lastWrite < redrawEvery) return;
      lastWrite = time;
      const line = formatLine(report, rate(samples, time, report.step), memory());
      stderr.write(`\r${line.slice(0, (stderr.columns || 80) - 1)}\u001b[K`);
      isShown = true;
    },
  };
}

/** Steps a second since the oldest sample, or nothing while there is too little to go by. */
function rate(
  samples: readonly { time: number; step: number }[],
  time: number,
  step: number,
): number | undefined {
  const first = samples[0];
  if (first === undefined || time <= first.time || step <= first.step) return undefined;
  return ((step - first.step) / (time - first.time)) * 1000;
}

function formatLine(report: ProgressReport, perSecond: number | undefined, memory: number): string {
  const { label, step, total, detail } = report;
  const parts = [`${label} ${step}${total === undefined ? "" : `/${total}`}`];
  if (perSecond !== undefined) {
    parts.push(perSecond >= 1 ? `${perSecond.toFixed(1)}/s` : `${(1 / perSecond).toFixed(1)} s each`);
    if (total !== undefined && total > step) parts.push(`${formatDuration((total - step) / perSecond)} left`);
  }
  if (detail !== undefined) parts.push(detail);
  parts.push(formatBytes(memory));
  return parts.join(" · ");
}

function formatDuration(seconds: number): string {
  const whole = Math.ceil(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

export function formatBytes(bytes: number): string {
  if (bytes < 2 ** 20) return `${Math.ceil(bytes / 2 ** 10)} KiB`;
  return bytes < 2 ** 30 ? `${Math.round(bytes / 2 ** 20)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
