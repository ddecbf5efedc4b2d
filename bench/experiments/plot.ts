/** Plots of the experiments page, as SVG: one line per arm through the means of its seeds, in the band of all of them. */
import {
  axes,
  coordinate,
  fonts,
  ink,
  linearScale,
  shareScale,
  text,
  type Scale,
} from "../../src/training/drawing.js";
import type { Summary } from "./statistics.js";

export interface Point {
  readonly x: number;
  readonly y: Summary;
}

export interface Series {
  readonly label: string;
  readonly points: readonly Point[];
}

export interface Panel {
  readonly title: string;
  /** What lies across. */
  readonly across: string;
  /** Shares are drawn from 0 to 1, other numbers as they lie. */
  readonly isShare: boolean;
  /** In the order of the legend; a series that a panel lacks has no points there. */
  readonly series: readonly Series[];
}

/** Of arms, distinguishable without colour vision too: by lightness and by dashes. */
const strokes = [
  { color: "#1d4ed8", dashes: "" },
  { color: "#c2410c", dashes: "6 3" },
  { color: "#15803d", dashes: "2 3" },
  { color: "#a21caf", dashes: "9 3 2 3" },
  { color: "#475569", dashes: "1 2" },
  { color: "#b45309", dashes: "12 4" },
] as const;

const size = { width: 330, height: 240, left: 50, right: 16, top: 34, bottom: 42 } as const;
const columns = 2;
const margin = 12;
const legendRow = 20;

const bottom = size.height - size.bottom;

/** undefined if there is no point at all. */
export function plotSvg(title: string, panels: readonly Panel[]): string | undefined {
  const drawn = panels.filter(({ series }) => series.some(({ points }) => points.length > 0));
  if (drawn.length === 0) return undefined;
  const shown = drawn.flatMap(({ series }) => series.filter(({ points }) => points.length > 0));
  const labels = [...new Set(shown.map(({ label }) => label))];
  const across = Math.min(columns, drawn.length);
  const width = 2 * margin + across * size.width;
  const perRow = across * 2;
  const header = 34 + Math.ceil(labels.length / perRow) * legendRow + 6;
  const height = header + Math.ceil(drawn.length / across) * size.height + margin;
  const legend = labels.map((label, i) => {
    const [x, y] = [
      margin + 8 + (i % perRow) * ((width - 2 * margin) / perRow),
      44 + Math.floor(i / perRow) * legendRow,
    ];
    return `${stroked(i, `M${coordinate(x)},${y} h26`)}${text(x + 32, y + 4, label, { size: 11, fill: ink.text })}`;
  });
  const bodies = drawn.map((panel, i) => {
    const [x, y] = [margin + (i % across) * size.width, header + Math.floor(i / across) * size.height];
    return `<g transform="translate(${x} ${y})">${panelSvg(panel, labels)}</g>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${fonts}">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    text(margin + 8, 24, title, { size: 14, fill: ink.title, weight: 600 }),
    ...legend,
    ...bodies,
    "</svg>\n",
  ].join("\n");
}

function panelSvg({ title, across, isShare, series }: Panel, labels: readonly string[]): string {
  const right = size.width - size.right;
  const points = series.flatMap((one) => one.points);
  const values = points.flatMap(({ y }) => [y.min, y.max]);
  const scale: Scale = isShare ? shareScale : linearScale(Math.min(...values), Math.max(...values));
  const last = Math.max(...points.map(({ x }) => x)) || 1;
  const { left, top } = size;
  const { x, y, grid, marks } = axes({ left, right, top, bottom }, scale, last);
  const place = (at: number, value: number): string => `${coordinate(x(at))},${coordinate(y(value))}`;
  const drawn = series.flatMap(({ label, points: own }) => {
    if (own.length === 0) return [];
    const style = labels.indexOf(label);
    const band = [
      ...own.map((point) => place(point.x, point.y.max)),
      ...[...own].reverse().map((point) => place(point.x, point.y.min)),
    ].join(" ");
    return [
      `<polygon points="${band}" fill="${colorOf(style)}" fill-opacity="0.15"/>`,
      stroked(style, `M${own.map((point) => place(point.x, point.y.mean)).join(" L")}`),
      ...(own.length <= 12
        ? own.map(({ x: at, y: summary }) => {
            const [cx, cy] = place(at, summary.mean).split(",");
            return `<circle cx="${cx}" cy="${cy}" r="2.6" fill="${colorOf(style)}"/>`;
          })
        : []),
    ];
  });
  return [
    text(8, 20, title, { size: 12, fill: ink.title, weight: 600 }),
    ...grid,
    ...marks,
    text(right, bottom + 32, across, { size: 10, fill: ink.faint, anchor: "end" }),
    ...drawn,
  ].join("");
}

const colorOf = (index: number): string => strokes[index % strokes.length]!.color;

function stroked(index: number, path: string): string {
  const { color, dashes } = strokes[index % strokes.length]!;
  const dashed = dashes === "" ? "" : ` stroke-dasharray="${dashes}"`;
  return `<path d="${path}" fill="none" stroke="${color}" stroke-width="1.8" stroke-linejoin="round"${dashed}/>`;
}
