import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import path from "node:path";
import { afterEach, expect, test } from "vitest";
import { availableCpus, cgroupCpuQuota } from "../../src/engine/cpu-count.js";

const roots: string[] = [];
afterEach(() => roots.splice(0).forEach((root) => rmSync(root, { recursive: true })));

/** A made-up root of a file system with these files. */
function rootWith(files: Record<string, string>): string {
  const root = mkdtempSync(path.join(tmpdir(), "blip2-cgroup-"));
  roots.push(root);
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    writeFileSync(path.join(root, name), text);
  }
  return root;
}

test("is an integer from 1 to what the host offers", () => {
  const count = availableCpus();
  expect(Number.isInteger(count)).toBe(true);
  expect(count).toBeGreaterThanOrEqual(1);
  expect(count).toBeLessThanOrEqual(availableParallelism());
});

test.each([
  ["no control groups", {}, Infinity],
  ["v2 without a quota", { "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n" }, Infinity],
  ["v2 with a quota", { "proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n" }, 2.5],
  [
    "v2 with a tighter parent",
    {
      "proc/self/cgroup": "0::/a/b\n",
      "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
      "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
    },
    1,
  ],
  [
    "v2 in a container that sees its own group as the root",
    { "proc/self/cgroup": "0::/docker/1f3a\n", "sys/fs/cgroup/cpu.max": "50000 100000\n" },
    0.5,
  ],
  [
    "v1 with a quota",
    {
      "proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/a\n0::/\n",
      "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "300000\n",
      "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
    },
    3,
  ],
  [
    "v1 without a quota",
    {
      "proc/self/cgroup": "1:cpu:/\n",
      "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
      "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    },
    Infinity,
  ],
] as [string, Record<string, string>, number][])("reads %s", (_, files, quota) => {
  expect(cgroupCpuQuota(rootWith(files))).toBe(quota);
});
