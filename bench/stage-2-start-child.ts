/**
 * One measurement of `npm run bench -- stage2-start`, in a process of its own so that its memory is its own.
 * Arguments: JSON of `StartTask`. Prints one line of JSON, `StartMeasure`.
 */
import { readFileSync } from "node:fs";
import { watchBuffers } from "./largest-buffer.js";

export interface StartTask {
  /** A BLIP-2 folder whose language model is used. */
  readonly folder: string;
  readonly threads: number;
  /** The configuration of stage 2 and a folder for its run; without them the whole model is loaded for inference. */
  readonly training?: { readonly config: Readonly<Record<string, unknown>>; readonly out: string };
}

/** Bytes, when all is ready for the first step or the first picture. */
export interface StartMeasure {
  readonly resident: number;
  /** Of these, pages of files. */
  readonly mapped: number;
  readonly peak: number;
  readonly largestBuffer: number;
  readonly seconds: number;
}

/** Thrown where the first step would begin. */
class Ready extends Error {}

const task = JSON.parse(process.argv[2]!) as StartTask;
const buffers = watchBuffers();
const begun = performance.now();

function measure(): StartMeasure {
  const status = readFileSync("/proc/self/status", "utf8");
  const kilobytes = (key: string): number =>
    Number(new RegExp(`^${key}:\\s+(\\d+) kB`, "m").exec(status)![1]);
  return {
    resident: 1024 * kilobytes("VmRSS"),
    mapped: 1024 * kilobytes("RssFile"),
    peak: 1024 * kilobytes("VmHWM"),
    largestBuffer: buffers.largest,
    seconds: (performance.now() - begun) / 1000,
  };
}

// The library is loaded behind the watch, so that it finds the watched constructors.
if (task.training === undefined) {
  const { Blip2 } = await import("../src/generation/blip-2.js");
  await using _model = await Blip2.load(task.folder, { threads: task.threads });
  console.log(JSON.stringify(measure()));
} else {
  const { stage2 } = await import("../src/recipes/stage-2/recipe.js");
  const { runRecipe } = await import("../src/recipes/run.js");
  const { checkConfig } = await import("../src/training/config-file.js");
  const { config, out } = task.training;
  const checked = checkConfig("stage2", config, stage2.schema as never);
  const watching: typeof stage2 = {
    ...stage2,
    async prepare(given, hooks) {
      const prepared = await stage2.prepare(given, hooks);
      return {
        ...prepared,
        async task(device) {
          const made = await prepared.task(device);
          // The first batch is asked for when programs, optimizer and weights stand.
          return {
            ...made,
            batch: () => {
              console.log(JSON.stringify(measure()));
              return Promise.reject(new Ready());
            },
          };
        },
      };
    },
  };
  await runRecipe(watching, checked, { out, resume: false, threads: task.threads }).catch(
    (error: unknown) => {
      if (!(error instanceof Ready)) throw error;
    },
  );
}
