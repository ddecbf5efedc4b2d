/** Results on stdout: text for people, or one JSON object per line. */
import type { Writable } from "node:stream";

export type Cell = string | number | boolean | null | undefined;

export interface Output {
  readonly json: boolean;
  /** One result: a line of JSON, or `text` (by default the record's keys and values, one below the other). */
  record(record: object, text?: string): void;
  /** Several results: a line of JSON each, or a table with a column for each key of the first. */
  table(rows: readonly { readonly [column: string]: Cell }[]): void;
  /** Text as it comes into being, for people only. Ends where the caller puts a line break. */
  text(piece: string): void;
}

export interface OutputTarget {
  readonly json: boolean;
  readonly stdout: Writable;
  /** Called before each write, to take a progress line off the screen. */
  readonly beforeWrite?: () => void;
}

export function createOutput({ json, stdout, beforeWrite }: OutputTarget): Output {
  const write = (text: string): void => {
    beforeWrite?.();
    stdout.write(text);
  };
  const writeLine = (line: string): void => write(line.endsWith("\n") ? line : `${line}\n`);
  return {
    json,
    record(record, text) {
      writeLine(json ? toJson(record) : (text ?? formatRecord(record)));
    },
    table(rows) {
      if (json) rows.forEach((row) => writeLine(toJson(row)));
      else if (rows.length > 0) writeLine(formatTable(rows));
    },
    text(piece) {
      if (!json) write(piece);
    },
  };
}

/** JSON on one line. Tensors' arrays become plain arrays, and big integers numbers where they fit. */
function toJson(record: object): string {
  return JSON.stringify(record, (_, value: unknown) => {
    if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
    if (!ArrayBuffer.isView(value) || value instanceof DataView) return value;
    return Array.from(value as unknown as ArrayLike<number | bigint>);
  });
}

function formatRecord(record: object): string {
  const entries = Object.entries(record);
  const width = Math.max(0, ...entries.map(([key]) => key.length));
  return entries
    .map(([key, value]) => {
      const text = typeof value === "object" && value !== null ? toJson(value) : formatCell(value as Cell);
      return `${key.padEnd(width)}  ${text}`.trimEnd();
    })
    .join("\n");
}

/** Numbers stand on the right of their column, everything else on the left. */
function formatTable(rows: readonly { readonly [column: string]: Cell }[]): string {
  const names = Object.keys(rows[0] ?? {});
  const columns = names.map((name) => {
    const cells = rows.map((row) => formatCell(row[name]));
    const width = Math.max(name.length, ...cells.map((cell) => cell.length));
    const isNumeric = rows.every((row) => row[name] === undefined || typeof row[name] === "number");
    const align = (cell: string): string => (isNumeric ? cell.padStart(width) : cell.padEnd(width));
    return [align(name), ...cells.map(align)];
  });
  return ["", ...rows]
    .map((_, line) =>
      columns
        .map((column) => column[line])
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

function formatCell(value: Cell): string {
  if (value === undefined || value === null) return "-";
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6 ? value.toFixed(4) : value.toPrecision(4);
}
