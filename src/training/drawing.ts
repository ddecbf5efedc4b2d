/** What curves are drawn with, as SVG: inks, scales with round numbers, texts and lines. */

export const ink = {
  title: "#0f172a",
  text: "#334155",
  faint: "#64748b",
  grid: "#e2e8f0",
  axis: "#94a3b8",
} as const;
export const fonts = "DejaVu Sans, Verdana, Arial, sans-serif";

export interface Scale {
  readonly ticks: readonly number[];
  /** 0 at the bottom of the panel, 1 at its top. */
  readonly place: (value: number) => number;
}

export const shareScale: Scale = { ticks: [0, 0.25, 0.5, 0.75, 1], place: (value) => value };

export function linearScale(low: number, high: number): Scale {
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

export function logScale(low: number, high: number): Scale {
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
export function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 10_000 && Number.isInteger(value / 100)) return `${value / 1000}k`;
  if (size !== 0 && size < 5e-3) return value.toExponential(1).replace(".0e", "e");
  return String(Number(value.toPrecision(size >= 1000 ? 4 : 3)));
}

/** The axes of a panel, and where on it a number lies. */
export interface Axes {
  readonly x: (across: number) => number;
  readonly y: (value: number) => number;
  readonly grid: readonly string[];
  readonly marks: readonly string[];
}

/** Axes in the box between four edges: from 0 to `last` across, and up by the scale. */
export function axes(
  { left, right, top, bottom }: Readonly<Record<"left" | "right" | "top" | "bottom", number>>,
  scale: Scale,
  last: number,
): Axes {
  const x = (across: number): number => left + ((right - left) * across) / last;
  const y = (value: number): number => bottom - (bottom - top) * scale.place(value);
  return {
    x,
    y,
    grid: scale.ticks.flatMap((tick) => [
      line(left, y(tick), right, y(tick), ink.grid),
      text(left - 6, y(tick) + 3.5, short(tick), { size: 10, fill: ink.text, anchor: "end" }),
    ]),
    marks: [
      line(left, bottom, right, bottom, ink.axis),
      ...niceTicks(0, last, 4).flatMap((mark) => [
        line(x(mark), bottom, x(mark), bottom + 4, ink.axis),
        text(x(mark), bottom + 16, short(mark), { size: 10, fill: ink.text, anchor: "middle" }),
      ]),
    ],
  };
}

export const coordinate = (value: number): string => String(Math.round(value * 10) / 10);

interface TextStyle {
  readonly size: number;
  readonly fill: string;
  readonly anchor?: "middle" | "end";
  readonly weight?: number;
}

export function text(
  x: number,
  y: number,
  content: string,
  { size, fill, anchor, weight }: TextStyle,
): string {
  const escaped = content.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]!);
  const extra = `${anchor === undefined ? "" : ` text-anchor="${anchor}"`}${weight === undefined ? "" : ` font-weight="${weight}"`}`;
  return `<text x="${coordinate(x)}" y="${coordinate(y)}" font-size="${size}" fill="${fill}"${extra}>${escaped}</text>`;
}

function line(x1: number, y1: number, x2: number, y2: number, stroke: string): string {
  return `<line x1="${coordinate(x1)}" y1="${coordinate(y1)}" x2="${coordinate(x2)}" y2="${coordinate(y2)}" stroke="${stroke}"/>`;
}
