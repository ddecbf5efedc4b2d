/** A run's folder among other processes, and on a disk that is full. */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { InterruptedError, UserError } from "../../src/errors.js";
import { float32Tensor } from "../../src/host-tensor.js";
import { RunFolder } from "../../src/training/run-folder.js";

let root: string;
let run: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "blip2-run-"));
  run = join(root, "run");
  await using first = await RunFolder.open(run, {}, { resume: false });
  await first.save(2, { w: float32Tensor([1, 2], [2]) });
  await first.log({ step: 2, loss: 1 });
});
afterEach(() => rm(root, { recursive: true, force: true }));

const lock = (): string => join(run, ".blip2-run.lock");
const holder = (host: string, pid: number): string => JSON.stringify({ host, pid, token: "t" });

describe("a lock that was left behind", () => {
  it.each([
    ["by a process of another machine", holder("elsewhere", 1)],
    ["by one that was killed while it wrote it", '{"host":"x","pid":1'],
    ["by one that had our own number, as in a container that starts again", holder(hostname(), process.pid)],
    ["by one that has died here", holder(hostname(), 2 ** 22 + 1)],
    ["empty", ""],
  ])("%s is taken over", async (_, content) => {
    await writeFile(lock(), content);
    await using again = await RunFolder.open(run, {}, { resume: true, abandonedAfter: 250 });
    expect(again.checkpoint?.step).toBe(2);
    expect(await readFile(lock(), "utf8")).not.toBe(content);
  });

  it("is not taken from a process that lives here: it is named, and what to do", async () => {
    await writeFile(lock(), holder(hostname(), process.ppid));
    const failed = RunFolder.open(run, {}, { resume: true, abandonedAfter: 0 });
    await expect(failed).rejects.toThrow(UserError);
    await expect(failed).rejects.toThrow(
      new RegExp(`another process trains in this folder \\(${process.ppid} on .*delete .*blip2-run\\.lock`),
    );
    expect(await readFile(lock(), "utf8")).toBe(holder(hostname(), process.ppid));
  });

  it("is not taken from one elsewhere that touches it", async () => {
    await writeFile(lock(), holder("elsewhere", 7));
    let time = 1000;
    const touching = setInterval(() => void utimes(lock(), time, time++).catch(() => undefined), 20);
    try {
      const lines: string[] = [];
      const options = { resume: true, abandonedAfter: 60_000, log: (line: string) => lines.push(line) };
      await expect(RunFolder.open(run, {}, options)).rejects.toThrow(
        /trains in this folder \(7 on "elsewhere"\)/,
      );
      expect(lines.join("\n")).toMatch(/watched whether the process that made it still runs/);
    } finally {
      clearInterval(touching);
    }
  });

  it("is watched until a signal says to stop", async () => {
    await writeFile(lock(), "");
    const opening = RunFolder.open(run, {}, { resume: true, signal: AbortSignal.timeout(100) });
    await expect(opening).rejects.toThrow(InterruptedError);
  });
});

it("of two that begin in one folder at the same time one is refused", async () => {
  const tries = await Promise.allSettled(
    [1, 2, 3].map((seed) => RunFolder.open(join(root, "new"), { seed }, { resume: false })),
  );
  const begun = tries.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  expect(begun).toHaveLength(1);
  const config = await readFile(join(root, "new", "config.json"), "utf8");
  expect(config).toContain(`"seed": ${tries.findIndex(({ status }) => status === "fulfilled") + 1}`);
  await begun[0]![Symbol.asyncDispose]();
});

it("keeps aside what was garbled before, too", async () => {
  const log = join(run, "log.jsonl");
  for (const junk of ["one", "two"]) {
    await writeFile(log, `${junk}\n${await readFile(log, "utf8")}{"step": 3, "lo`);
    await using _run = await RunFolder.open(run, {}, { resume: true });
  }
  expect(await readFile(join(run, "log.garbled.txt"), "utf8")).toBe("one\ntwo\n");
  expect(await readFile(log, "utf8")).toBe('{"step":2,"loss":1}\n');
});

it("a data digest that an earlier version did not write is not missed; another value is", async () => {
  const data = { "split train": "1", "the model": "2" };
  await writeFile(join(run, "data.json"), JSON.stringify({ "split train": "1" }));
  await (await RunFolder.open(run, {}, { resume: true, data }))[Symbol.asyncDispose]();
  await writeFile(join(run, "data.json"), JSON.stringify({ ...data, "the model": "3", "split more": "4" }));
  await expect(RunFolder.open(run, {}, { resume: true, data })).rejects.toThrow(
    /started with other data \(the model, split more changed since\)/,
  );
  expect(await readdir(run)).not.toContain(".blip2-run.lock");
});

it.runIf(existsSync("/dev/full"))("says what to do where the disk is full under the log", async () => {
  await using going = await RunFolder.open(run, {}, { resume: true });
  await rm(join(run, "log.jsonl"));
  await symlink("/dev/full", join(run, "log.jsonl"));
  const failed = going.log({ step: 3 });
  await expect(failed).rejects.toThrow(UserError);
  await expect(failed).rejects.toThrow(
    /log\.jsonl: the disk is full; checkpoints are as they were: make room, and continue with --resume/,
  );
  await going[Symbol.asyncDispose]();
  await rm(join(run, "log.jsonl"));
  await using again = await RunFolder.open(run, {}, { resume: true });
  expect(again.checkpoint?.step).toBe(2);
});

it("refuses a place where no folder can be", async () => {
  await writeFile(join(root, "file"), "");
  await expect(RunFolder.open(join(root, "file"), {}, { resume: false })).rejects.toThrow(UserError);
  await expect(RunFolder.open(join(root, "file", "below"), {}, { resume: false })).rejects.toThrow(UserError);
  await mkdir(join(root, "empty"));
  await (await RunFolder.open(join(root, "empty"), {}, { resume: false }))[Symbol.asyncDispose]();
});
