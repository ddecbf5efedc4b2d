/** What an experiment is made of, and where its pieces lie. */
import { join } from "node:path";
import { UserError } from "../../src/errors.js";
import type { TextSide } from "./parameters.js";

/** One training of a chain. */
export interface StageDefinition {
  readonly stage: "stage1" | "stage2";
  /** The configuration to begin with, a file of the repository. */
  readonly base: string;
  /** Keys of the configuration that differ. The seed is the piece's own, and a stage 2 behind a stage 1 reads its model. */
  readonly overrides: Readonly<Record<string, unknown>>;
  /** Steps between two measurements; the last step is measured too. */
  readonly measureEvery: number;
}

interface Named {
  /** As in folder names. */
  readonly name: string;
  /** As in tables. */
  readonly label: string;
}

/** What the language model is told beside the question. */
export type Given = "picture" | "nothing" | "description";

export interface TrainingArm extends Named {
  readonly kind: "training";
  /** In their order; the last one is measured. */
  readonly stages: readonly StageDefinition[];
}

export interface VqaArm extends Named {
  readonly kind: "vqa";
  readonly model: string;
  readonly given: Given;
}

/** Counts weights: of a folder (with the stage-1 folder whose text side it had), or of a config. */
export interface ParametersArm extends Named {
  readonly kind: "parameters";
  readonly of:
    | { readonly model: string; readonly stage1: string }
    | { readonly config: Readonly<Record<string, unknown>>; readonly textSide: TextSide };
}

/** The arm of the same name in another experiment, run there if it was not yet. */
export interface SharedArm extends Named {
  readonly kind: "shared";
  readonly experiment: string;
}

export type Arm = TrainingArm | VqaArm | ParametersArm | SharedArm;

/** How much is measured, always of the test split. */
export interface Measured {
  /** A folder made by `blip2 scenes`, with the training data too. */
  readonly data: string;
  /** Pairs among which is retrieved: each picture with its first caption. */
  readonly pairs: number;
  /** Of each list, how many the matching head ranks again. */
  readonly rerank: number;
  /** Pictures that are captioned at every measured step of stage 2. */
  readonly captions: number;
  /** Questions that are asked at every measured step of stage 2. */
  readonly questions: number;
  /** Questions that an arm asks which trains nothing. */
  readonly allQuestions: number;
}

export interface Plan {
  readonly experiments: readonly Experiment[];
  readonly measured: Measured;
}

export interface Experiment {
  readonly name: string;
  readonly seeds: readonly number[];
  readonly arms: readonly Arm[];
}

/** One arm with one seed. */
export interface Piece {
  /** The experiment that runs it. */
  readonly experiment: string;
  readonly arm: Exclude<Arm, SharedArm>;
  readonly seed: number;
}

/** The arm itself, and the experiment under whose name its results are kept. */
export function ownerOf(
  experiments: readonly Experiment[],
  experiment: Experiment,
  arm: Arm,
): { readonly experiment: string; readonly arm: Exclude<Arm, SharedArm> } {
  if (arm.kind !== "shared") return { experiment: experiment.name, arm };
  const found = experiments
    .find(({ name }) => name === arm.experiment)
    ?.arms.find(({ name }) => name === arm.name);
  if (found === undefined || found.kind === "shared")
    throw new UserError(`${experiment.name}/${arm.name}: no arm of ${arm.experiment} has that name`);
  return { experiment: arm.experiment, arm: found };
}

/** The pieces of an experiment, seed by seed, so that an early stop leaves whole comparisons. */
export function piecesOf(
  experiments: readonly Experiment[],
  experiment: Experiment,
  only?: number,
): readonly Piece[] {
  return experiment.seeds
    .filter((seed) => only === undefined || seed === only)
    .flatMap((seed) => experiment.arms.map((arm) => ({ ...ownerOf(experiments, experiment, arm), seed })));
}

export const pieceName = ({ experiment, arm, seed }: Piece): string =>
  `${experiment}/${arm.name}/seed-${seed}`;

/** The places that a runner reads and writes. Paths in definitions are relative to `root`. */
export class Places {
  constructor(readonly root: string) {}

  /** An absolute path, from one relative to the root. */
  at(path: string): string {
    return join(this.root, path);
  }

  folderOf(piece: Piece): string {
    return this.at(join("runs/experiments", pieceName(piece)));
  }

  resultsOf(experiment: string): string {
    return this.at(join("runs/experiments", experiment, "results.jsonl"));
  }

  /** What is committed: the results, and how training went in fewer lines. */
  published(experiment: string): { readonly results: string; readonly training: string } {
    const folder = this.at("docs/experiments");
    return {
      results: join(folder, `${experiment}.jsonl`),
      training: join(folder, `${experiment}-training.jsonl`),
    };
  }

  get page(): string {
    return this.at("docs/experiments.md");
  }
}
