/** The configuration of a training: that of a file, with what the experiment changes. */
import { dirname, isAbsolute, join } from "node:path";
import { readJsonObject } from "../../src/files/json-file.js";
import { checkConfig } from "../../src/training/config-file.js";
import { stage1ConfigSchema } from "../../src/recipes/stage-1.js";
import { stage2ConfigSchema } from "../../src/recipes/stage-2/config.js";
import { pieceName, type Measured, type Piece, type Places, type StageDefinition } from "./experiment.js";

/** Keys of a configuration. */
export type Config = Readonly<Record<string, unknown>>;

const folders = ["data", "vision", "stage1", "languageModel", "start"];

const isPlace = (key: string, value: unknown): value is string =>
  folders.includes(key) && typeof value === "string" && !isAbsolute(value);

/**
 * Everything that the training is told, checked, with absolute paths.
 * @param follows keys that come from the stage before in the chain
 */
export async function stageConfig(
  places: Places,
  measured: Measured,
  piece: Piece,
  { stage, base, overrides, measureEvery }: StageDefinition,
  follows: Config = {},
): Promise<Config> {
  // Places in the file count from its folder, those of the experiment from the root.
  const file = Object.entries(await readJsonObject(places.at(base))).map(([key, value]) =>
    isPlace(key, value) ? [key, join(dirname(base), value)] : [key, value],
  );
  const json: Config = {
    ...(Object.fromEntries(file) as Config),
    data: measured.data,
    evaluateEvery: measureEvery,
    ...overrides,
    ...follows,
    seed: piece.seed,
  };
  const where = `${base} with the changes of ${pieceName(piece)}`;
  const parsed: Config =
    stage === "stage1"
      ? checkConfig(where, json, stage1ConfigSchema)
      : checkConfig(where, json, stage2ConfigSchema);
  const absolute = Object.entries(parsed).map(([key, value]) =>
    isPlace(key, value) ? [key, places.at(value)] : [key, value],
  );
  return Object.fromEntries(absolute) as Config;
}
