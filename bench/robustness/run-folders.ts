/** Folders of trainings whose files were changed, and that are to go on all the same. */
import { cp, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { makeTinyWorld } from "../../test/training/tiny-world.js";
import { changed, notTheFile } from "./changes.js";
import { replaceFile } from "./model-folders.js";
import type { Kind } from "./trial.js";

const keys = { checkpointEvery: 2 };

export const runFolders: Kind = {
  name: "run-folders",
  title: "run folders, resumed",
  rule:
    "A training stopped at step 4 of 6, with one of its files changed in some bytes, missing, or replaced by something else; then resumed. " +
    "Right: the same checkpoint at step 6, byte for byte, as that of a run that was never stopped.",
  count: 200,
  quick: 8,
  each: 25,
  limit: 120_000,
  async prepare() {
    const world = await makeTinyWorld();
    const checkpointOf = (name: string): Promise<Buffer> =>
      readFile(join(world.root, name, "checkpoint.safetensors"));
    await world.train("language-model", "unbroken", keys);
    const known = await checkpointOf("unbroken");
    await world.trainUntil(4, "language-model", "stopped", keys);
    const stopped = join(world.root, "stopped");
    const names = (await readdir(stopped)).filter((name) => /\.(jsonl?|safetensors)$/.test(name)).sort();
    const files = await Promise.all(names.map((name) => readFile(join(stopped, name))));
    return (random, index) => {
      const part = index % 8;
      const at = random.between(0, names.length - 1);
      const name = names[at]!;
      let [what, content]: [string, Uint8Array | undefined] = ["whole", files[at]];
      if (part === 1) [what, content] = ["missing", undefined];
      else if (part === 2) [what, content] = random.pick(Object.entries(notTheFile));
      else if (part > 2) {
        const other = changed(files[at]!, random);
        [what, content] = [other.what, other.bytes];
      }
      return {
        form: `${name}, ${what}`,
        must: part === 0 ? "read" : "either",
        known: true,
        run: async () => {
          const run = join(world.root, "resumed");
          await rm(run, { recursive: true, force: true });
          await cp(stopped, run, { recursive: true });
          if (content === undefined) await rm(join(run, name));
          else await replaceFile(join(run, name), content);
          await world.train("language-model", "resumed", keys, { resume: true, log: () => undefined });
          return (await checkpointOf("resumed")).equals(known) ? undefined : "another checkpoint at the end";
        },
      };
    };
  },
};
