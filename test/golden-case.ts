/**
 * Reads the golden cases that reference/*.py wrote under test/golden (layout: reference/README.md), and
 * compares tensors with them.
 */
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { openSafetensors } from "../src/checkpoints/safetensors.js";
import { elementCount, type HostTensor } from "../src/host-tensor.js";

export type Tensors = Readonly<Record<string, HostTensor>>;

/** One case: the tensors by kind and checkpoint or run name, and what the JSON file says besides. */
export interface GoldenCase<Config, Options> {
  readonly config: Config;
  readonly options: Options;
  readonly scalars: Readonly<Record<string, number | null>>;
  readonly weights: ReadonlyMap<string, HostTensor>;
  readonly inputs: Tensors;
  readonly outputs: Tensors;
  readonly gradients: Tensors;
}

const golden = fileURLToPath(new URL("golden/", import.meta.url));

/** The names of a group's cases that begin with `prefix`; throws when there are none. */
export function goldenNames(group: string, prefix: string): string[] {
  const names = readdirSync(`${golden}${group}`)
    .filter((file) => file.startsWith(prefix) && file.endsWith(".json"))
    .map((file) => file.slice(0, -".json".length))
    .sort();
  if (names.length === 0)
    throw new Error(`test/golden/${group} has no case ${prefix}*; run reference/all.py`);
  return names;
}

export async function readGoldenCase<Config, Options = unknown>(
  group: string,
  name: string,
): Promise<GoldenCase<Config, Options>> {
  const path = `${golden}${group}/${name}`;
  const info = JSON.parse(readFileSync(`${path}.json`, "utf8")) as Pick<
    GoldenCase<Config, Options>,
    "config" | "options" | "scalars"
  >;
  const tensors = await (await openSafetensors(`${path}.safetensors`)).readAll();
  const under = (prefix: string): [string, HostTensor][] =>
    [...tensors].flatMap(([key, value]) =>
      key.startsWith(prefix) ? [[key.slice(prefix.length), value] as [string, HostTensor]] : [],
    );
  return {
    config: info.config,
    options: info.options,
    scalars: info.scalars ?? {},
    weights: new Map(under("weights/")),
    inputs: Object.fromEntries(under("inputs/")),
    outputs: Object.fromEntries(under("outputs/")),
    gradients: Object.fromEntries(under("gradients/")),
  };
}

export interface Tolerance {
  /** Largest difference allowed, absolute and over the largest reference value. */
  readonly within: number;
  /** Reference values count as at least this large in the relative comparison; 0 unless given. */
  readonly floor?: number;
  /** Only the rows where this is 1 are compared: int64, the leading axes of the tensors. */
  readonly rows?: HostTensor | undefined;
}

/** The largest difference from a reference tensor, absolute and over the largest value of the reference. */
export function difference(
  actual: HostTensor,
  reference: HostTensor,
  { floor = 0, rows }: Omit<Tolerance, "within"> = {},
): { readonly absolute: number; readonly relative: number } {
  const width = elementCount(reference.dims) / (rows === undefined ? 1 : elementCount(rows.dims));
  let [largest, scale, compared] = [0, floor, 0];
  for (let i = 0; i < reference.data.length; i++) {
    if (rows !== undefined && Number(rows.data[Math.floor(i / width)]) === 0) continue;
    const [a, b] = [Number(actual.data[i]), Number(reference.data[i])];
    // NaN never passes.
    largest = Number.isNaN(a - b) ? NaN : Math.max(largest, Math.abs(a - b));
    scale = Math.max(scale, Math.abs(b));
    compared++;
  }
  if (compared === 0) throw new Error("no value was compared");
  return { absolute: largest, relative: largest === 0 ? 0 : largest / scale };
}

/** Fails unless `actual` has the reference's shape and lies within the tolerance everywhere. */
export function expectClose(
  what: string,
  actual: HostTensor | undefined,
  reference: HostTensor | undefined,
  tolerance: Tolerance,
): void {
  if (actual === undefined || reference === undefined) throw new Error(`${what}: nothing to compare`);
  expect(actual.dims, `${what}: shape`).toEqual(reference.dims);
  const { absolute, relative } = difference(actual, reference, tolerance);
  if (process.env["BLIP2_SHOW_DIFFERENCES"] !== undefined) {
    console.log(`${what}: absolute ${absolute.toExponential(1)}, relative ${relative.toExponential(1)}`);
  }
  expect(absolute, `${what}: largest difference`).toBeLessThanOrEqual(tolerance.within);
  expect(relative, `${what}: largest difference over largest value`).toBeLessThanOrEqual(tolerance.within);
}
