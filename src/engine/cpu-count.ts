/** How many CPUs this process may keep busy: affinity and control groups count, the host's size does not. */
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { posix } from "node:path";

/**
 * The smaller of the CPUs in the affinity mask and the control group's quota (v1 or v2), at least 1. A quota of
 * 2.5 CPUs counts as 2: a third thread would be stopped half of the time, and the other two would wait for it.
 */
export function availableCpus(): number {
  return Math.max(1, Math.min(availableParallelism(), Math.floor(cgroupCpuQuota("/"))));
}

/** The tightest CPU quota over the process's control groups and their parents; Infinity where there is none. */
export function cgroupCpuQuota(root: string): number {
  const read = (file: string): string | undefined => {
    try {
      return readFileSync(posix.join(root, file), "utf8").trim();
    } catch {
      return undefined; // not Linux, or a hierarchy that is not mounted here
    }
  };

  let quota = Infinity;
  for (const line of (read("proc/self/cgroup") ?? "").split("\n")) {
    // "0::/user.slice" under v2; "4:cpu,cpuacct:/docker/1f3a" under v1
    const [, controllers, group] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || group === undefined) continue;
    const isV2 = controllers === "";
    if (!isV2 && !controllers.split(",").includes("cpu")) continue;
    const mounts = isV2
      ? ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
      : [`sys/fs/cgroup/${controllers}`, "sys/fs/cgroup/cpu"];
    for (const mount of mounts) {
      for (const folder of withParents(group)) {
        const file = (name: string): string | undefined => read(posix.join(mount, folder, name));
        const [used, period] = isV2
          ? (file("cpu.max") ?? "").split(" ")
          : [file("cpu.cfs_quota_us"), file("cpu.cfs_period_us")];
        quota = Math.min(quota, parseQuota(used, period));
      }
    }
  }
  return quota;
}

/** `/a/b` -> `/a/b`, `/a`, `/`: a parent's quota binds its children too. */
function withParents(group: string): string[] {
  const folders = [group];
  for (let folder = group; folder !== posix.dirname(folder);) {
    folder = posix.dirname(folder);
    folders.push(folder);
  }
  return folders;
}

/** Both in microseconds. "max" (v2) and -1 (v1) mean no quota. */
function parseQuota(cpuTime: string | undefined, period: string | undefined): number {
  const [used, whole] = [Number(cpuTime), Number(period)];
  return used > 0 && whole > 0 ? used / whole : Infinity;
}
