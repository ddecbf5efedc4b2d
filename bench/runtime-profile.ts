/** Reads the runtime's profiles and sums the time by kind of op. */
import { readdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";

interface ProfileEvent {
  readonly cat: string;
  readonly name: string;
  readonly dur: number;
  readonly args?: { readonly op_name?: string };
}

export interface OpTime {
  readonly op: string;
  /** Per run: each node at its fastest, summed over the nodes of this kind. */
  readonly milliseconds: number;
  readonly nodes: number;
}

/** Sums the newest profile that starts with `prefix`, slowest op first, and removes the profiles. */
export function takeProfile(prefix: string): readonly OpTime[] {
  const folder = path.dirname(prefix);
  const files = readdirSync(folder)
    .filter((file) => file.startsWith(path.basename(prefix)))
    .sort();
  const newest = files.at(-1);
  if (newest === undefined) throw new Error(`no profile starts with ${prefix}`);
  const events = JSON.parse(readFileSync(path.join(folder, newest), "utf8")) as readonly ProfileEvent[];
  for (const file of files) rmSync(path.join(folder, file));

  const nodes = new Map<string, { readonly op: string; readonly times: number[] }>();
  for (const { cat, name, dur, args } of events) {
    if (cat !== "Node" || !name.endsWith("_kernel_time") || args?.op_name === undefined) continue;
    const node = nodes.get(name) ?? { op: args.op_name, times: [] };
    node.times.push(dur / 1000);
    nodes.set(name, node);
  }
  const sums = new Map<string, OpTime>();
  for (const { op, times } of nodes.values()) {
    const known = sums.get(op) ?? { op, milliseconds: 0, nodes: 0 };
    sums.set(op, { op, milliseconds: known.milliseconds + Math.min(...times), nodes: known.nodes + 1 });
  }
  return [...sums.values()].sort((a, b) => b.milliseconds - a.milliseconds);
}

export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}
