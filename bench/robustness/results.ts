/** What a run found, as a file per kind, from which the page is made. */
import { readFileSync } from "node:fs";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { cpus, release, totalmem, type } from "node:os";
import { join } from "node:path";
import { inRepository } from "../repository.js";
import type { Tally } from "./watch.js";

export interface Result extends Tally {
  readonly kind: string;
  readonly seed: string;
  readonly seconds: number;
  readonly date: string;
  readonly machine: string;
  readonly versions: Readonly<Record<string, string>>;
}

const versionOf = (file: string): string =>
  (JSON.parse(readFileSync(inRepository(file), "utf8")) as { version: string }).version;

/** Where and with what it ran. */
export function circumstances(): Pick<Result, "date" | "machine" | "versions"> {
  const { model = "unknown processor" } = cpus()[0] ?? {};
  return {
    date: new Date().toISOString().slice(0, 10),
    machine: `${model.trim()}, ${cpus().length} threads, ${Math.round(totalmem() / 2 ** 30)} GiB, ${type()} ${release()}`,
    versions: {
      blip2: versionOf("package.json"),
      node: process.versions.node,
      "onnxruntime-node": versionOf("node_modules/onnxruntime-node/package.json"),
      sharp: versionOf("node_modules/sharp/package.json"),
    },
  };
}

export async function writeResult(folder: string, result: Result): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, `${result.kind}.json`), `${JSON.stringify(result, null, 1)}\n`);
}

export async function readResults(folder: string): Promise<ReadonlyMap<string, Result>> {
  const names = (await readdir(folder).catch((): string[] => [])).filter((name) => name.endsWith(".json"));
  const found = await Promise.all(
    names.map(async (name) => JSON.parse(await readFile(join(folder, name), "utf8")) as Result),
  );
  return new Map(found.map((result) => [result.kind, result]));
}
