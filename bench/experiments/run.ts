/**
 * Runs pieces: trains what is not trained yet, goes on where a training was stopped, measures what is not measured yet.
 * Several runners may work on one folder; each takes pieces that no other holds.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { access, mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { writeFileAtomic } from "../../src/files/atomic-write.js";
import { readJsonObject } from "../../src/files/json-file.js";
import { withLockFile } from "../../src/files/lock-file.js";
import { InterruptedError, UserError } from "../../src/errors.js";
import { retrievalConfig } from "../../src/models/blip-2-retrieval.js";
import { readLog } from "../../src/training/run-log.js";
import { modelFolder, runRecipe } from "../../src/recipes/run.js";
import { stage1, stage1ConfigSchema } from "../../src/recipes/stage-1.js";
import { stage2ConfigSchema } from "../../src/recipes/stage-2/config.js";
import { stage2 } from "../../src/recipes/stage-2/recipe.js";
import {
  pieceName,
  piecesOf,
  type ParametersArm,
  type Piece,
  type Places,
  type Plan,
  type StageDefinition,
  type TrainingArm,
  type VqaArm,
} from "./experiment.js";
import {
  measuresOfLog,
  measureStage1,
  measureStage2,
  measureVqa,
  secondsTo,
  thinnedLog,
  type MeasureOptions,
} from "./measure.js";
import { parameterCounts } from "./parameters.js";
import {
  appendResult,
  publish,
  readResults,
  readTraining,
  type Result,
  type TrainingLine,
} from "./results.js";
import { stageConfig, type Config } from "./stage-config.js";

export interface RunnerOptions {
  readonly plan: Plan;
  readonly places: Places;
  readonly threads?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Is told in words how it goes. */
  readonly say: (line: string) => void;
  /** How often it is told how far a training is. Milliseconds. */
  readonly tellEvery?: number;
}

/** Lines that a training's log is cut down to before it is committed. */
const publishedLines = 30;

/** What trains nothing: what it is told, and what it measures. */
interface Evaluation {
  readonly config: Config;
  readonly measure: () => Promise<Record<string, number>>;
}

export class Runner {
  constructor(private readonly options: RunnerOptions) {}

  /**
   * Runs an experiment, or all. What fails is told and passed over, so that the rest gets done; then the failures are
   * thrown as one `UserError`. Throws `InterruptedError` when it is stopped.
   *
   * @param only this seed alone
   * @param armName this arm alone
   */
  async run(name: string, only?: number, armName?: string): Promise<void> {
    const { plan, say } = this.options;
    const chosen = plan.experiments.filter((experiment) => name === "all" || experiment.name === name);
    if (chosen.length === 0) {
      const names = ["all", ...plan.experiments.map((experiment) => experiment.name)].join(", ");
      throw new UserError(`${name} is no experiment: ${names} are known`, { exitCode: 2 });
    }
    if (only !== undefined && !chosen.some(({ seeds }) => seeds.includes(only)))
      throw new UserError(`--only ${only}: no such seed in ${name}`, { exitCode: 2 });
    if (armName !== undefined && !chosen.some(({ arms }) => arms.some((arm) => arm.name === armName)))
      throw new UserError(`--arm ${armName}: no such arm in ${name}`, { exitCode: 2 });
    const pieces = new Map<string, Piece>();
    for (const experiment of chosen)
      for (const piece of piecesOf(plan.experiments, experiment, only))
        if (armName === undefined || piece.arm.name === armName) pieces.set(pieceName(piece), piece);

    const failures: string[] = [];
    const attempt = async (piece: Piece, wait: boolean): Promise<boolean> => {
      try {
        return await this.holding(piece, wait, () => this.runPiece(piece));
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        say(`${pieceName(piece)} failed: ${error.message}`);
        failures.push(`${pieceName(piece)}: ${error.message}`);
        return true;
      }
    };
    const held: Piece[] = [];
    for (const piece of pieces.values()) if (!(await attempt(piece, false))) held.push(piece);
    for (const piece of held) {
      say(`${pieceName(piece)}: waiting for the process that works on it`);
      await attempt(piece, true);
    }
    if (failures.length > 0) {
      throw new UserError(`${failures.length} of ${pieces.size} pieces failed:\n${failures.join("\n")}`);
    }
  }

  /** Whether the piece was free, or became so while waiting. */
  private async holding(piece: Piece, wait: boolean, work: () => Promise<void>): Promise<boolean> {
    const { places, signal } = this.options;
    const folder = places.folderOf(piece);
    await mkdir(folder, { recursive: true });
    const taken = new AbortController();
    const signals = [...(signal === undefined ? [] : [signal]), ...(wait ? [] : [taken.signal])];
    try {
      await withLockFile(join(folder, "lock"), work, {
        signal: AbortSignal.any(signals),
        onWait: () => taken.abort(),
      });
      return true;
    } catch (error) {
      if (error instanceof InterruptedError && !wait && taken.signal.aborted) return false;
      throw error;
    }
  }

  private async runPiece(piece: Piece): Promise<void> {
    const { arm } = piece;
    if (arm.kind === "training") return this.train({ ...piece, arm });
    const { config, measure } = arm.kind === "vqa" ? await this.asking(piece, arm) : await this.counting(arm);
    if (await this.known(piece, 0, config)) return this.say(piece, "was measured before");
    const started = performance.now();
    const measures = await measure();
    await this.add(piece, 0, measures, (performance.now() - started) / 1000, config);
    await this.publish(piece, config, []);
  }

  private async asking(piece: Piece, { model, given }: VqaArm): Promise<Evaluation> {
    const { data, allQuestions: questions } = this.options.plan.measured;
    const folder = this.options.places.at(model);
    return {
      config: { model, fingerprint: await fingerprint(folder), given, data, questions },
      measure: () => measureVqa(folder, given, this.measuring(piece)),
    };
  }

  private async counting({ of }: ParametersArm): Promise<Evaluation> {
    const { places } = this.options;
    if ("config" in of)
      return { config: { ...of }, measure: () => Promise.resolve(parameterCounts(of.config, of.textSide)) };
    const [config, stage1] = await Promise.all(
      [of.model, of.stage1].map((folder) => readJsonObject(join(places.at(folder), "config.json"))),
    );
    const { qformer_config: qformer, image_text_hidden_size: sharedSize } = retrievalConfig(
      stage1!,
      of.stage1,
    );
    const textSide = { vocabulary: qformer.vocab_size, sharedSize };
    return {
      config: { ...of, textSide },
      measure: () => Promise.resolve(parameterCounts(config!, textSide)),
    };
  }

  private async train(piece: Piece & { readonly arm: TrainingArm }): Promise<void> {
    const { places, plan } = this.options;
    const folder = places.folderOf(piece);
    const config: Record<string, unknown> = { measured: plan.measured };
    let before: { stage: string; model: string; seconds: number } | undefined;
    for (const definition of piece.arm.stages) {
      const follows: Config =
        before?.stage === "stage1" && definition.stage === "stage2" ? { stage1: before.model } : {};
      const own = await stageConfig(places, plan.measured, piece, definition, follows);
      const out = join(folder, definition.stage);
      await this.trainStage(piece, definition, own, out);
      config[definition.stage] = relativeTo(places.root, own);
      const log = await readLog(out);
      const seconds = (before?.seconds ?? 0) + secondsTo(log, Infinity);
      const isLast = definition === piece.arm.stages.at(-1);
      if (isLast) {
        await this.measureTraining(
          piece,
          definition,
          out,
          Number(own["steps"]),
          config,
          before?.seconds ?? 0,
        );
        const lines = thinnedLog(log, publishedLines);
        await this.publish(
          piece,
          config,
          lines.map((line) => ({ arm: piece.arm.name, seed: piece.seed, ...line })),
        );
      }
      before = { stage: definition.stage, model: modelFolder(out), seconds };
    }
  }

  private async trainStage(
    piece: Piece,
    { stage, measureEvery }: StageDefinition,
    config: Config,
    out: string,
  ): Promise<void> {
    const { threads, signal } = this.options;
    const inputs: Record<string, string> = {};
    for (const key of ["vision", "stage1", "languageModel"])
      if (typeof config[key] === "string") inputs[key] = await fingerprint(config[key]);
    const isBegun = await exists(join(out, "config.json"));
    const inputsFile = `${out}-inputs.json`;
    if (isBegun) {
      const changed = [
        ...changedKeys(await readJsonObject(join(out, "config.json")), config),
        ...changedKeys(await readJsonObject(inputsFile), inputs).map((key) => `the model in ${key}`),
      ];
      if (changed.length > 0) {
        throw new UserError(
          `${out} was trained with something else (${changed.join(", ")}): remove the folder to train it anew, or put the old back`,
        );
      }
      if (await exists(join(modelFolder(out), "config.json")))
        return this.say(piece, `${stage} was trained before`);
    } else await writeFileAtomic(inputsFile, `${JSON.stringify(inputs, null, 2)}\n`);
    this.say(piece, `${stage}: ${isBegun ? "training goes on" : "training"}`);
    const options = {
      out,
      resume: isBegun,
      threads,
      signal,
      log: (line: string) => this.say(piece, line),
      onProgress: this.progress(piece, stage),
      ...(stage === "stage2" && { modelEvery: measureEvery }),
    };
    if (stage === "stage1") await runRecipe(stage1, stage1ConfigSchema.parse(config), options);
    else await runRecipe(stage2, stage2ConfigSchema.parse(config), options);
  }

  private async measureTraining(
    piece: Piece,
    { stage, measureEvery }: StageDefinition,
    out: string,
    steps: number,
    config: Config,
    secondsBefore: number,
  ): Promise<void> {
    const log = await readLog(out);
    const logged = measuresOfLog(log);
    const all = Array.from(
      { length: Math.floor((steps - 1) / measureEvery) },
      (_, i) => (i + 1) * measureEvery,
    );
    for (const step of [...all, steps]) {
      if (await this.known(piece, step, config)) continue;
      const model = modelFolder(out, step === steps ? undefined : step);
      const measuring = this.measuring(piece);
      const own =
        stage === "stage2"
          ? await measureStage2(model, measuring)
          : step === steps
            ? await measureStage1(model, measuring)
            : {};
      const seconds = secondsBefore + secondsTo(log, step);
      await this.add(piece, step, { ...logged.get(step), ...own }, seconds, config);
    }
  }

  private measuring(piece: Piece): MeasureOptions {
    const { places, plan, threads, signal } = this.options;
    const { measured } = plan;
    const data = places.at(measured.data);
    return { data, measured, threads, signal, onProgress: this.progress(piece, "measuring") };
  }

  /** What was measured of a piece as it is run now. */
  private async resultsOf(piece: Piece, config: Config): Promise<readonly Result[]> {
    const results = await readResults(this.options.places.resultsOf(piece.experiment));
    const text = JSON.stringify(config);
    return results.filter(
      (result) =>
        result.arm === piece.arm.name && result.seed === piece.seed && JSON.stringify(result.config) === text,
    );
  }

  private async known(piece: Piece, step: number, config: Config): Promise<boolean> {
    return (await this.resultsOf(piece, config)).some((result) => result.step === step);
  }

  private async add(
    piece: Piece,
    step: number,
    measures: Result["measures"],
    seconds: number,
    config: Config,
  ): Promise<void> {
    const { places, signal } = this.options;
    if (signal?.aborted) throw new InterruptedError("stopped on request");
    await appendResult(places.resultsOf(piece.experiment), {
      experiment: piece.experiment,
      arm: piece.arm.name,
      seed: piece.seed,
      step,
      measures: Object.fromEntries(
        Object.entries(measures).map(([name, value]) => [name, Number(value.toPrecision(10))]),
      ),
      seconds: Math.round(seconds),
      commit: await commitOf(places.root),
      date: new Date().toISOString().slice(0, 10),
      config,
    });
    this.say(piece, `measured step ${step}`);
  }

  /** Copies what was measured of a piece to where it is committed. */
  private async publish(piece: Piece, config: Config, training: readonly TrainingLine[]): Promise<void> {
    const { places } = this.options;
    const published = places.published(piece.experiment);
    // Two runners may have finished pieces of one experiment at the same time.
    const lock = join(places.at("runs/experiments"), piece.experiment, "publishing");
    await withLockFile(lock, async () => {
      const results = await this.resultsOf(piece, config);
      await publish(published.results, await readResults(published.results), results);
      await publish(published.training, await readTraining(published.training), training);
    });
  }

  private say({ experiment, arm, seed }: Piece, what: string): void {
    this.options.say(`${experiment} ${arm.name} seed ${seed}: ${what}`);
  }

  /** Tells now and then, not at every step. */
  private progress(
    piece: Piece,
    what: string,
  ): (report: { step: number; total: number; detail: string }) => void {
    const { tellEvery = 15_000 } = this.options;
    let told = performance.now();
    return ({ step, total, detail }) => {
      if (performance.now() - told < tellEvery) return;
      told = performance.now();
      this.say(piece, `${what} ${step}/${total} ${detail}`);
    };
  }
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

function changedKeys(a: Config, b: Config): string[] {
  const plain = (value: Config): Config => JSON.parse(JSON.stringify(value)) as Config;
  const [old, now] = [plain(a), plain(b)];
  const names = new Set([...Object.keys(old), ...Object.keys(now)]);
  return [...names].filter((name) => JSON.stringify(old[name]) !== JSON.stringify(now[name]));
}

/** A hash of a model's weights and config. Throws a `UserError` if the folder holds none. */
async function fingerprint(folder: string): Promise<string> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    throw new UserError(`${folder} cannot be read (${error.code}): train or fetch this model first`, {
      cause: error,
    });
  });
  const parts = names.filter((name) => name === "config.json" || name.endsWith(".safetensors")).sort();
  if (parts.length < 2)
    throw new UserError(`${folder} holds no model: config.json and safetensors are required`);
  const hash = createHash("sha256");
  for (const name of parts) hash.update(name).update(await readFile(join(folder, name)));
  return hash.digest("hex").slice(0, 16);
}

/** Paths below the root as they stand in the repository: results are published. */
function relativeTo(root: string, config: Config): Config {
  return Object.fromEntries(
    Object.entries(config).map(([key, value]) => [
      key,
      typeof value === "string" && value.startsWith(`${root}/`) ? value.slice(root.length + 1) : value,
    ]),
  );
}

/** The commit of the sources, with a plus sign if they were changed since. */
async function commitOf(root: string): Promise<string> {
  const git = async (...words: string[]): Promise<string> =>
    (await promisify(execFile)("git", ["-C", root, ...words])).stdout.trim();
  try {
    const changed = await git("status", "--porcelain", "--", "src", "bench", "configs");
    return `${await git("rev-parse", "--short=10", "HEAD")}${changed === "" ? "" : "+"}`;
  } catch {
    return "unknown"; // no repository, or no git
  }
}
