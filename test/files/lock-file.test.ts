import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { withLockFile } from "../../src/files/lock-file.js";
import { InterruptedError } from "../../src/errors.js";

let root: string;
let path: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "blip2-lock-"));
  path = join(root, "x.lock");
});
afterEach(() => rm(root, { recursive: true, force: true }));

const holder = (host: string, pid: number): string => JSON.stringify({ host, pid, token: "t" });

it("lets one work at a time, also after a failure", async () => {
  let [inside, most, waits] = [0, 0, 0];
  const work = async (i: number): Promise<number> => {
    most = Math.max(most, ++inside);
    await new Promise((done) => setTimeout(done, 20));
    inside--;
    if (i === 1) throw new Error("mine");
    return i;
  };
  const results = await Promise.allSettled(
    [0, 1, 2].map((i) => withLockFile(path, () => work(i), { onWait: () => waits++ })),
  );
  expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  expect([most, waits > 0]).toEqual([1, true]);
  expect(await readdir(root)).toEqual([]);
});

it("takes the lock of a process that has died here", async () => {
  await writeFile(path, holder(hostname(), 2 ** 22 + 1));
  expect(await withLockFile(path, () => Promise.resolve(1))).toBe(1);
  expect(await readdir(root)).toEqual([]);
});

it("takes a lock that is not touched any more, of another machine or half written", async () => {
  for (const content of [holder("elsewhere", 1), ""]) {
    await writeFile(path, content);
    const started = performance.now();
    expect(await withLockFile(path, () => Promise.resolve(1), { abandonedAfter: 300 })).toBe(1);
    expect(performance.now() - started).toBeGreaterThan(300);
  }
  expect(await readdir(root)).toEqual([]);
});

it("waits for a living holder until it is told to stop", async () => {
  await writeFile(path, holder(hostname(), process.pid));
  const waiting = withLockFile(path, () => Promise.resolve(1), { signal: AbortSignal.timeout(300) });
  await expect(waiting).rejects.toThrow(InterruptedError);
  expect(await readdir(root)).toEqual(["x.lock"]);
});
