/** The engine as users get it, and programs that use it in a process of their own. */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
// Below node_modules, so that the built files find the runtime.
export const built = path.join(root, "node_modules", ".cache", "blip2-engine");

/** Builds the engine as users get it: the other tests run its worker from source. */
export function build(): void {
  const tsc = path.join(root, "node_modules", "typescript", "bin", "tsc");
  const sources = ["index.ts", "node.ts", "session-worker.ts"].map((file) =>
    path.join(root, "src", "engine", file),
  );
  const options = [
    "--ignoreConfig",
    "--module",
    "nodenext",
    "--target",
    "es2023",
    "--skipLibCheck",
    "--types",
    "node",
  ];
  const { status, stdout } = spawnSync(
    process.execPath,
    [tsc, ...options, "--rootDir", path.join(root, "src"), "--outDir", built, ...sources],
    { cwd: root, encoding: "utf8" },
  );
  expect(status, stdout).toBe(0);
  writeFileSync(path.join(built, "package.json"), '{ "type": "module" }');
}

/** Runs lines of JavaScript against the built engine in a process of their own. */
export function script(
  lines: string,
  folder = built,
): { readonly status: number | null; readonly output: string } {
  const source = `import { input, ops } from "./engine/index.js";
import { openDevice } from "./engine/node.js";\n${lines}`;
  const args = ["--input-type=module", "--expose-gc", "-e", source];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: folder, encoding: "utf8" });
  return { status, output: stdout + stderr };
}
