/** A process in which trials run: `child.js KIND SEED FROM TO`. Tells its parent each verdict; if it dies, the parent knows at which trial. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../../src/random.js";
import { kinds } from "./kinds.js";
import { judge, type Verdict } from "./trial.js";

export type Report =
  | { readonly ready: true }
  | (Verdict & { readonly index: number; readonly peakBytes: number; readonly milliseconds: number });

const [name, seed, from, to] = process.argv.slice(2) as [string, string, string, string];
const tell = (report: Report): void => void process.send!(report);

const kind = kinds.find((candidate) => candidate.name === name)!;
const folder = await mkdtemp(join(tmpdir(), "blip2-trials-"));
process.chdir(folder);
try {
  const trials = await kind.prepare(folder);
  tell({ ready: true });
  for (let index = Number(from); index < Number(to); index++) {
    const begun = performance.now();
    const verdict = await judge(await trials(new Random(seed, name, index), index));
    const peakBytes = process.resourceUsage().maxRSS * 1024;
    tell({ ...verdict, index, peakBytes, milliseconds: Math.round(performance.now() - begun) });
  }
} finally {
  process.chdir("/");
  await rm(folder, { recursive: true, force: true });
}
process.disconnect();
