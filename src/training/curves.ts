/**
 * The curves of a run as small multiples: one panel for each number in the log, losses first, then what was
 * measured, then how training went (rates, norms, time). Drawn as SVG, and from that as PNG.
 */
import { join } from "node:path";
import sharp from "sharp";
import { writeFileAtomic } from "../checkpoints/atomic-write.js";
import { readLog, type LogLine } from "./run-folder.js";

interface Point {
  readonly step: number;
  readonly value: number;
}

type Group = "loss" | "measure" | "conduct";

interface Curve {
  readonly name: string;
  readonly group: Group;
  readonly points: readonly Point[];
}

/** Draws the log in `run` as curves.svg and curves.png beside it. Without numbers in the log nothing is written. */
export async function writeCurves(run: string, title: string): Promise<void> {
  const svg = curvesSvg(await readLog(run), title);
  if (svg === undefined) return;
  await writeFileAtomic(join(run, "curves.svg"), svg);
  // Twice the size in pixels, for sharp text on sharp screens.
  const png = await sharp(Buffer.from(svg), { density: 144 }).png({ palette: true }).toBuffer();
  await writeFileAtomic(join(run, "curves.png"), png);
}

const columns = 4;
/** Of a panel, in pixels, and the room around what it plots. */
const panel = { width: 270, height: 188, left: 48, right: 14, top: 46, bottom: 26 } as const;
const margin = 16;
const header = 44;

const colors: { readonly [G in Group]: string } = { loss: "#c2410c", measure: "#15803d", conduct: "#475569" };
const ink = {
  title: "#0f172a",
  text: "#334155",
  faint: "#64748b",
  grid: "#e2e8f0",
  axis: "#94a3b8",
} as const;
const fonts = "DejaVu Sans, Verdana, Arial, sans-serif";

/** undefined if the log holds no number. */
export function curvesSvg(log: readonly LogLine[], title: string): string | undefined {
  const curves = curvesOf(log);
  if (curves.length === 0) return undefined;
  const lastStep = Math.max(1, ...curves.flatMap(({ points }) => points.map(({ step }) => step)));
  const across = Math.min(columns, curves.length);
  const width = 2 * margin + across * panel.width;
  const height = header + Math.ceil(curves.length / across) * panel.height + margin;
  const panels = curves.map((curve, i) => {
    const [x, y] = [margin + (i % across) * panel.width, header + Math.floor(i / across) * panel.height];
    return `<g transform="translate(${x} ${y})">${panelSvg(curve, lastStep)}</g>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${fonts}">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    text(margin + 8, 27, title, { size: 15, fill: ink.title, weight: 600 }),
    text(width - margin - panel.right, 27, "across: step", { size: 11, fill: ink.faint, anchor: "end" }),
    ...panels,
    "</svg>\n",
  ].join("\n");
}

/** One curve for each key that has numbers, losses first. */
function curvesOf(log: readonly LogLine[]): Curve[] {
  const points = new Map<string, Point[]>();
  const measured = new Set<string>();
  for (const { step, ...values } of log) {
    // The lines of the training batches tell the rate; those of evaluations do not.
    const isMeasured = !("learningRate" in values);
    for (const [name, value] of Object.entries(values)) {
      if (typeof value !== "number" || !Number.isFinite(value)) continue;
      if (!points.has(name)) points.set(name, []);
      points.get(name)!.push({ step: Number(step), value });
      if (isMeasured) measured.add(name);
    }
  }
  const conduct = new Set(["gradientNorm", "learningRate", "secondsPerStep", "temperature"]);
  const groupOf = (name: string): Group => {
    if (conduct.has(name)) return "conduct";
    return isLoss(name) || (!measured.has(name) && !isShare(name)) ? "loss" : "measure";
  };
  const curves = [...points].map(([name, own]) => ({ name, group: groupOf(name), points: own }));
  return (["loss", "measure", "conduct"] as const).flatMap((group) =>
    curves.filter((curve) => curve.group === group),
  );
}

const isLoss = (name: string): boolean => /\bloss\b/.test(name);
/** What lies between 0 and 1 by its nature gets a panel from 0 to 1. */
const isShare = (name: string): boolean => /accuracy|recall|answers|share/.test(name);

interface Scale {
  readonly ticks: readonly number[];
  /** 0 at the bottom of the panel, 1 at its top. */
  readonly place: (value: number) => number;
}

function panelSvg({ name, group, points }: Curve, lastStep: number): string {
  const right = panel.width - panel.right;
  const bottom = panel.height - panel.bottom;
  const values = points.map(({ value }) => value);
  const scale = isShare(name) ? shareScale : scaleOf(values, group);
  const x = (step: number): number => panel.left + ((right - panel.left) * step) / lastStep;
  const y = (value: number): number => bottom - (bottom - panel.top) * scale.place(value);
  const grid = scale.ticks.flatMap((tick) => [
    line(panel.left, y(tick), right, y(tick), ink.grid),
    text(panel.left - 6, y(tick) + 3.5, short(tick), { size: 10, fill: ink.text, anchor: "end" }),
  ]);
  const steps = niceTicks(0, lastStep, 4).flatMap((step) => [
    line(x(step), bottom, x(step), bottom + 4, ink.axis),
    text(x(step), bottom + 16, short(step), { size: 10, fill: ink.text, anchor: "middle" }),
  ]);
  const path = points.map(({ step, value }) => `${coordinate(x(step))},${coordinate(y(value))}`).join(" ");
  // Few points are shown one by one: an evaluation is an event, not a stretch.
  const isFew = points.length <= 40;
  const dots = isFew
    ? points.map(
        ({ step, value }) =>
          `<circle cx="${coordinate(x(step))}" cy="${coordinate(y(value))}" r="2.2" fill="${colors[group]}"/>`,
      )
    : [];
  return [
    text(8, 16, words(name), { size: 12, fill: ink.title, weight: 600 }),
    text(8, 32, short(values.at(-1)!), { size: 12, fill: colors[group], weight: 600 }),
    ...grid,
    line(panel.left, bottom, right, bottom, ink.axis),
    ...steps,
    `<polyline points="${path}" fill="none" stroke="${colors[group]}" stroke-width="1.6" stroke-linejoin="round"/>`,
    ...dots,
  ].join("");
}

const shareScale: Scale = { ticks: [0, 0.25, 0.5, 0.75, 1], place: (value) => value };

function scaleOf(values: readonly number[], group: Group): Scale {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  // A loss that falls from eleven to a half would lie flat on the axis for most of the run.
  if (group === "loss" && low > 0 && high / low > 8) return logScale(low, high);
  return linearScale(group === "conduct" ? Math.min(0, low) : low, high);
}

function linearScale(low: number, high: number): Scale {
  // A constant still needs a panel of some height.
  const spread = high > low ? 0 : Math.abs(high) / 2 || 0.5;
  const ticks = niceTicks(low - spread, high + spread, 4);
  const step = ticks.length > 1 ? ticks[1]! - ticks[0]! : 1;
  const from = Math.min(low - spread, ticks[0]!);
  const to = Math.max(high + spread, ticks.at(-1)!);
  const top = to - ticks.at(-1)! > step / 2 ? ticks.at(-1)! + step : to;
  return {
    ticks: top > to ? [...ticks, top] : ticks,
    place: (value) => (value - from) / (Math.max(top, to) - from),
  };
}

function logScale(low: number, high: number): Scale {
  const decades = Array.from({ length: 25 }, (_, i) => 10 ** (i - 12));
  const marks = decades
    .flatMap((decade) => [decade, 2 * decade, 5 * decade])
    .filter((mark) => mark >= low && mark <= high);
  const few = marks.length > 6 ? marks.filter((mark) => decades.includes(mark)) : marks;
  const [from, to] = [Math.log(low), Math.log(high)];
  return { ticks: few, place: (value) => (Math.log(value) - from) / (to - from) };
}

/** Round numbers between `low` and `high`, about `count` of them. */
function niceTicks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * magnitude).find((size) => size >= rough)!;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** A number in as few characters as an axis has room for. */
function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 10_000 && Number.isInteger(value / 100)) return `${value / 1000}k`;
  if (size !== 0 && size < 5e-3) return value.toExponential(1).replace(".0e", "e");
  return String(Number(value.toPrecision(size >= 1000 ? 4 : 3)));
}

/** Keys in camelCase as words. */
const words = (name: string): string => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);

const coordinate = (value: number): string => String(Math.round(value * 10) / 10);

interface TextStyle {
  readonly size: number;
  readonly fill: string;
  readonly anchor?: "middle" | "end";
  readonly weight?: number;
}

function text(x: number, y: number, content: string, { size, fill, anchor, weight }: TextStyle): string {
  const escaped = content.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]!);
  const extra = `${anchor === undefined ? "" : ` text-anchor="${anchor}"`}${weight === undefined ? "" : ` font-weight="${weight}"`}`;
  return `<text x="${coordinate(x)}" y="${coordinate(y)}" font-size="${size}" fill="${fill}"${extra}>${escaped}</text>`;
}

function line(x1: number, y1: number, x2: number, y2: number, stroke: string): string {
  return `<line x1="${coordinate(x1)}" y1="${coordinate(y1)}" x2="${coordinate(x2)}" y2="${coordinate(y2)}" stroke="${stroke}"/>`;
}
