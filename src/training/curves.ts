/**
 * The curves of a run as small multiples: one panel for each number in the log, losses first, then what was
 * measured, then how training went (rates, norms, time). Drawn as SVG, and from that as PNG.
 */
import { join } from "node:path";
import sharp from "sharp";
import { writeFileAtomic } from "../files/atomic-write.js";
import {
  axes,
  coordinate,
  fonts,
  ink,
  linearScale,
  logScale,
  shareScale,
  short,
  text,
  type Scale,
} from "./drawing.js";
import { readLog, type LogLine } from "./run-log.js";

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

function panelSvg({ name, group, points }: Curve, lastStep: number): string {
  const right = panel.width - panel.right;
  const bottom = panel.height - panel.bottom;
  const values = points.map(({ value }) => value);
  const scale = isShare(name) ? shareScale : scaleOf(values, group);
  const { left, top } = panel;
  const { x, y, grid, marks } = axes({ left, right, top, bottom }, scale, lastStep);
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
    ...marks,
    `<polyline points="${path}" fill="none" stroke="${colors[group]}" stroke-width="1.6" stroke-linejoin="round"/>`,
    ...dots,
  ].join("");
}

function scaleOf(values: readonly number[], group: Group): Scale {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  // A loss that falls from eleven to a half would lie flat on the axis for most of the run.
  if (group === "loss" && low > 0 && high / low > 8) return logScale(low, high);
  return linearScale(group === "conduct" ? Math.min(0, low) : low, high);
}

/** Keys in camelCase as words. */
const words = (name: string): string => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
