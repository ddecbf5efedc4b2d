/** Processes that end while a model loads or computes: the exit code that was asked for comes out, and nothing is left behind. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const program = fileURLToPath(new URL("fixtures/ends.ts", import.meta.url));

async function run(way: string, work: string, delay: number): Promise<{ code: unknown; stderr: string }> {
  const child = spawn(process.execPath, ["--import", "tsx", program, way, work, String(delay)], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const [code, signal] = (await once(child, "close")) as [number | null, string | null];
  return { code: code ?? signal, stderr };
}

describe.each([
  ["exit", 7],
  ["throw", 1],
  ["reject", 1],
  ["terminate", 5],
] as const)("%s", (way, code) => {
  it.each(["load", "generate"])(`while it does this: %s`, { timeout: 120_000 }, async (work) => {
    for (const delay of [5, 120]) {
      const ended = await run(way, work, delay);
      expect(ended.code, `after ${delay} ms: ${ended.stderr}`).toBe(code);
      expect(ended.stderr).not.toContain("Napi::Error");
    }
  });
});
