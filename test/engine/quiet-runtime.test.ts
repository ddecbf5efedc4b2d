/** What goes wrong in the runtime is thrown, and writes nothing to standard error. */
import { spawnSync } from "node:child_process";
import { expect, it } from "vitest";

it("throws what the runtime says, and writes no line of it", () => {
  const words = ["--import", "tsx", "test/engine/fixtures/row-beyond-table.ts"];
  const { stdout, stderr, status } = spawnSync(process.execPath, words, { encoding: "utf8" });
  expect(stderr).toBe("");
  expect(stdout).toMatch(/^runtime: .*out of data bounds/);
  expect(status).toBe(0);
});
