/** The published results, as the page asks for them. */
import { UserError } from "../../src/errors.js";
import { ownerOf, type Arm, type Experiment, type Places, type Plan } from "./experiment.js";
import type { Point } from "./plot.js";
import { readResults, readTraining, type Result, type TrainingLine } from "./results.js";
import { summarise, type Summary } from "./statistics.js";

/** Everything that was measured of one arm. */
export class ArmData {
  constructor(
    readonly label: string,
    readonly name: string,
    private readonly results: readonly Result[],
    private readonly training: readonly TrainingLine[],
  ) {}

  get isEmpty(): boolean {
    return this.results.length === 0;
  }

  get seeds(): readonly number[] {
    return [...new Set(this.results.map(({ seed }) => seed))].sort((a, b) => a - b);
  }

  get steps(): readonly number[] {
    return [...new Set(this.results.map(({ step }) => step))].sort((a, b) => a - b);
  }

  get lastStep(): number {
    return this.steps.at(-1) ?? 0;
  }

  get commits(): readonly string[] {
    return [...new Set(this.results.map(({ commit }) => commit))].sort();
  }

  /** Names of what was measured at the last step. */
  get measures(): readonly string[] {
    const last = this.results.filter(({ step }) => step === this.lastStep);
    return [...new Set(last.flatMap(({ measures }) => Object.keys(measures)))];
  }

  /** One value per seed, in the order of seeds; of those that have it. */
  values(measure: string, step = this.lastStep): number[] {
    return this.seeds.flatMap((seed) => {
      const found = this.results.find((result) => result.seed === seed && result.step === step);
      const value = found?.measures[measure];
      return value === undefined ? [] : [value];
    });
  }

  summary(measure: string, step = this.lastStep): Summary | undefined {
    const values = this.values(measure, step);
    return values.length === 0 ? undefined : summarise(values);
  }

  /** The value of an arm that has one seed. */
  value(measure: string): number | undefined {
    return this.values(measure)[0];
  }

  /** A measure over training steps. */
  points(measure: string): Point[] {
    return this.steps.flatMap((step) => {
      const y = this.summary(measure, step);
      return y === undefined ? [] : [{ x: step, y }];
    });
  }

  /** A number of the training logs over steps. */
  trainingPoints(name: string): Point[] {
    const steps = [...new Set(this.training.map(({ step }) => step))].sort((a, b) => a - b);
    return steps.flatMap((step) => {
      const values = this.training
        .filter((one) => one.step === step && one.values[name] !== undefined)
        .map((one) => one.values[name]!);
      return values.length === 0 ? [] : [{ x: step, y: summarise(values) }];
    });
  }

  /** Mean seconds to the last step. */
  get seconds(): number {
    const last = this.results.filter(({ step }) => step === this.lastStep);
    return summarise(last.map(({ seconds }) => seconds)).mean;
  }

  config(): Readonly<Record<string, unknown>> {
    return this.results.at(-1)!.config;
  }
}

/** The arms of an experiment, also those without results. Throws a `UserError` where seeds of an arm were run differently. */
export async function armsOf(
  plan: Plan,
  places: Places,
  experiment: Experiment,
): Promise<readonly ArmData[]> {
  return Promise.all(experiment.arms.map((arm) => armData(plan, places, experiment, arm)));
}

async function armData(plan: Plan, places: Places, experiment: Experiment, arm: Arm): Promise<ArmData> {
  const owner = ownerOf(plan.experiments, experiment, arm);
  const files = places.published(owner.experiment);
  const isOwn = (line: { readonly arm: string }): boolean => line.arm === arm.name;
  const results = (await readResults(files.results)).filter(isOwn);
  const training = (await readTraining(files.training)).filter(isOwn);
  const ways = new Set(results.map(({ config }) => withoutSeeds(config)));
  if (ways.size > 1) {
    throw new UserError(
      `${files.results}: ${arm.name} was run in ${ways.size} ways, which cannot be averaged: run what is old again`,
    );
  }
  return new ArmData(arm.label, arm.name, results, training);
}

/** Seeds differ, and so does the folder of a stage before, which is a seed's own. */
function withoutSeeds(config: Result["config"]): string {
  return JSON.stringify(config, (key, value: unknown) =>
    key === "seed" ? undefined : typeof value === "string" ? value.replace(/\/seed-\d+\//, "/seed/") : value,
  );
}
