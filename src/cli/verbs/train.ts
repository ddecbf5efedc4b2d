import type { RunOptions } from "../../recipes/run.js";
import { InterruptedError } from "../../errors.js";
import { defineVerb } from "../verb.js";

export const train = defineVerb({
  name: "train",
  summary: "train a frozen part, or a stage of BLIP-2",
  operands: {
    stage: {
      choices: ["language-model", "vision", "stage1", "stage2"],
      help: "what to train; stage1 needs a vision model, stage2 stage1 and a language model",
    },
  },
  options: {
    config: {
      type: "string",
      value: "FILE",
      required: true,
      help: "what to train and how, as JSON; places in it count from its folder",
    },
    out: {
      type: "string",
      value: "RUN",
      required: true,
      help: "the run's folder; new or empty, unless resumed",
    },
    resume: { type: "boolean", help: "continue the run in --out from its last checkpoint" },
    until: {
      type: "integer",
      min: 1,
      value: "STEP",
      help: "stop after this step, before the configuration's last, and write the model as it is then",
    },
    threads: {
      type: "integer",
      min: 1,
      help: "threads to compute with; all CPUs that may be used if not given",
    },
  },
  jsonKeys: {
    step: "steps done",
    model: "folder of the trained model",
    loss: "mean training loss over the last logged steps; parts of the loss and measures follow under their names",
  },
  examples: [
    "blip2 train stage1 --config configs/scenes/stage1.json --out runs/stage1",
    "blip2 train stage1 --config configs/scenes/stage1.json --out runs/stage1 --resume",
  ],

  async run(
    { output, progress, log, signal },
    { operands: { stage }, options: { config, out, resume, until, threads } },
  ) {
    const { readLog } = await import("../../training/run-log.js");
    const { recipeOf } = await import("../../recipes/index.js");
    const { runConfigFile } = await import("../../recipes/run.js");
    const options: RunOptions = {
      out,
      resume,
      until,
      threads,
      signal,
      log,
      onProgress: ({ step, total, detail }) =>
        progress.update(
          detail === "image features" || detail === "pictures"
            ? { label: detail, step, total }
            : { label: stage, step, total, detail },
        ),
    };
    const { step, model } = await runConfigFile(await recipeOf(stage), config, options).catch(
      (error: unknown) => {
        // The command line reports the interruption itself, not where it happened.
        if (error instanceof InterruptedError) log(error.message);
        throw error;
      },
    );
    // From the log: a run that was finished before has trained nothing now.
    const numbers: Record<string, number> = {};
    for (const line of await readLog(out)) {
      for (const [name, value] of Object.entries(line)) if (typeof value === "number") numbers[name] = value;
    }
    const told = Object.entries({ ...numbers, step }).map(([name, value]) => `${name} ${value}`);
    output.record({ ...numbers, step, model }, [...told, model].join(" · "));
  },
});
