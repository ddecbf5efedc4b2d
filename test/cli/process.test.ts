/** The command as a process of its own: exit codes, signals, and a reader that goes away. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
const stubborn = fileURLToPath(new URL("fixtures/stubborn.ts", import.meta.url));
const folder = mkdtempSync(path.join(tmpdir(), "blip2-cli-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface Running {
  readonly child: ChildProcess;
  readonly printed: { stdout: string; stderr: string };
  /** The exit code, or the signal that ended the process. */
  readonly ended: Promise<number | string>;
}

function start(script: string, words: readonly string[], env: Record<string, string> = {}): Running {
  const child = spawn(process.execPath, ["--import", "tsx", script, ...words], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const printed = { stdout: "", stderr: "" };
  child.stdout.on("data", (chunk: Buffer) => (printed.stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (printed.stderr += chunk.toString()));
  const ended = once(child, "close").then(([code, signal]) => (code ?? signal) as number | string);
  return { child, printed, ended };
}

test("ends with the exit code, results on stdout, complaints on stderr", async () => {
  const help = start(main, ["--help"]);
  expect(await help.ended).toBe(0);
  expect(help.printed).toEqual({ stdout: expect.stringContaining("usage: blip2 VERB"), stderr: "" });

  const mistake = start(main, ["scenes", "--otu", "x"]);
  expect(await mistake.ended).toBe(2);
  expect(mistake.printed).toEqual({
    stdout: "",
    stderr: "blip2: scenes: unknown option --otu; did you mean --out?\n",
  });
});

test("makes scenes, and fails with 1 where it must not write", async () => {
  const out = path.join(folder, "world");
  const words = ["scenes", "--out", out, "--count", "3", "--text", "5", "--format", "jpeg"];
  const first = start(main, [...words, "--json"]);
  expect(await first.ended).toBe(0);
  expect(JSON.parse(first.printed.stdout)).toEqual({ images: 6, captions: 18, questions: 36 });
  expect(first.printed.stderr).toBe("");

  const second = start(main, words);
  expect(await second.ended).toBe(1);
  expect(second.printed.stderr).toMatch(/^blip2: scenes, output folder .*\n$/);
});

test("Ctrl-C in the middle of scenes gives 130 and leaves nothing behind", async () => {
  const out = path.join(folder, "endless");
  const { child, printed, ended } = start(main, ["scenes", "--out", out, "--count", "900000"], {
    BLIP2_PROGRESS: "log",
  });
  await once(child.stderr!, "data"); // the first line of progress: it is at work
  child.kill("SIGINT");
  expect(await ended).toBe(130);
  expect(printed.stderr).toMatch(/\nblip2: interrupted\n$/);
  expect(existsSync(out)).toBe(false);
  expect(readdirSync(folder).filter((name) => name.includes("endless"))).toEqual([]);
});

test.each(["SIGINT", "SIGTERM"] as const)(
  "work that winds up after %s still ends with 130",
  async (signal) => {
    const { child, ended } = start(stubborn, ["obedient"]);
    await once(child.stdout!, "data");
    child.kill(signal);
    expect(await ended).toBe(130);
  },
);

test("a second Ctrl-C ends at once what does not listen", async () => {
  const { child, ended } = start(stubborn, ["stubborn"]);
  await once(child.stdout!, "data");
  child.kill("SIGINT");
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect([child.exitCode, child.signalCode]).toEqual([null, null]);
  child.kill("SIGINT");
  // A shell reports this as 130.
  expect(await ended).toBe("SIGINT");
});

test("a reader that goes away ends the work quietly", async () => {
  const { child, printed, ended } = start(stubborn, ["talkative", "--json"]);
  await once(child.stdout!, "data");
  child.stdout!.destroy();
  expect(await ended).toBe(0);
  expect(printed.stderr).toBe("");
});
