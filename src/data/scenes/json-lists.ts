/** Writes long lists to disk a piece at a time: one string of a million answers would hold hundreds of megabytes. */
import { open } from "node:fs/promises";

/** A file that is written one entry at a time. */
export interface ListWriter {
  add(entry: unknown): Promise<void>;
  end(): Promise<void>;
}

const PIECE = 1 << 20;

/** A JSON object whose last key holds a list: `{ ...head, [key]: [entries] }`, one entry per line. */
export function jsonListWriter(path: string, head: object, key: string): Promise<ListWriter> {
  const opening = JSON.stringify({ ...head, [key]: [] }).slice(0, -2);
  return listWriter(path, `${opening}\n`, ",\n", "\n]}\n");
}

/** JSON lines. */
export function jsonLinesWriter(path: string): Promise<ListWriter> {
  return listWriter(path, "", "\n", "\n");
}

async function listWriter(path: string, before: string, between: string, after: string): Promise<ListWriter> {
  const file = await open(path, "w");
  let piece = before;
  let first = true;
  return {
    async add(entry) {
      piece += (first ? "" : between) + JSON.stringify(entry);
      first = false;
      if (piece.length < PIECE) return;
      const full = piece;
      piece = "";
      await file.write(full);
    },
    async end() {
      try {
        await file.write(piece + (first ? after.trimStart() : after));
      } finally {
        await file.close();
      }
    },
  };
}
