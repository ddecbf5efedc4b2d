/** Files of the repository, wherever the benchmarks were compiled to. */
import { existsSync } from "node:fs";
import path from "node:path";

function findRoot(folder: string): string {
  if (existsSync(path.join(folder, "package.json"))) return folder;
  return findRoot(path.dirname(folder));
}

const root = findRoot(import.meta.dirname);

/** The absolute path of a file, given from the repository's root. */
export const inRepository = (file: string): string => path.join(root, file);
