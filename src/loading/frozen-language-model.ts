/**
 * A frozen language model as trainings use it: from a folder of its own or out of a whole BLIP-2 folder, mapped from its
 * file, under the names that it has inside BLIP-2. Nothing is read but the header, until a graph is compiled.
 */
import { warnOnce } from "../notices.js";
import { join } from "node:path";
import { checkTensors, layersMustFit, type ModelFolder } from "../checkpoints/model-folder.js";
import type { TensorFile } from "../checkpoints/safetensors.js";
import { renamedTensors, visitFloat32 } from "../checkpoints/tensor-views.js";
import type { FrozenWeights } from "../engine/index.js";
import { UserError } from "../errors.js";
import { quoted } from "../quoted.js";
import { checkJson } from "../json.js";
import {
  familyNamed,
  familyNames,
  familyOf,
  languageConfigSchema,
  type LanguageConfig,
  type LanguageFamily,
} from "../models/language/families.js";
import type { LanguageModel } from "../models/language/language-model.js";
import { Parameters } from "../nn/parameters.js";
import { openFrozenWeights, type LoadingHooks } from "./frozen-weights.js";

const prefix = "language_model";

export interface FrozenLanguageModel {
  /** The folder it was found in. */
  readonly path: string;
  readonly config: LanguageConfig;
  readonly family: LanguageFamily;
  /** All that it consists of, under `language_model.`. */
  readonly file: TensorFile;
  /** What of that a graph reads. */
  readonly names: readonly string[];
  /** Of no graph: its sizes. */
  readonly model: LanguageModel;
  /** The model in the graph of `parameters`, where it is `language_model`. */
  build(parameters: Parameters): LanguageModel;
  /** The values of what `build` declares. */
  weights(): Promise<FrozenWeights>;
}

/**
 * Looks at a folder. Throws a `UserError` naming what does not fit: another kind of model, its config, its weights, and what
 * does not go together with the bridge.
 */
export async function openFrozenLanguageModel(
  { path, config: json, weights }: ModelFolder,
  hooks: LoadingHooks = {},
): Promise<FrozenLanguageModel> {
  const isInside = json["model_type"] === "blip-2";
  const own = isInside ? json["text_config"] : json;
  const where = join(path, "config.json");
  const type = (own as { model_type?: unknown } | undefined)?.model_type;
  if (familyNamed(type) === undefined) {
    throw new UserError(
      `${where}: model_type "${String(type)}" is no language model that can be used here (${familyNames.join(", ")}, or a BLIP-2 with one of them)`,
    );
  }
  const config = checkedLanguageConfig(own, where);
  const family = familyOf(config);
  const problems = family
    .rules(config)
    .flatMap(([key, value, fits, required]) =>
      fits ? [] : [`${key} is ${quoted(value)}: ${required} is required`],
    );
  if (problems.length > 0) throw new UserError(`${where}: ${problems.join("; ")}`);
  const file = renamedTensors(weights, (name) =>
    isInside ? (name.startsWith(`${prefix}.`) ? name : undefined) : `${prefix}.${name}`,
  );
  layersMustFit(config, file.tensors, where);
  const declared = new Parameters(() => false);
  const build = (parameters: Parameters): LanguageModel =>
    family.build(config, parameters.scope(prefix), file.tensors);
  const model = build(declared);
  const { shapes } = declared;
  const ignored = (name: string): boolean => family.isUnread(name.slice(prefix.length + 1));
  checkTensors(shapes, file.tensors, path, { ignored, extra: hooks.onNotice ?? warnOnce });
  return {
    path,
    config,
    family,
    file,
    names: [...shapes.keys()],
    model,
    build,
    async weights() {
      const open = await openFrozenWeights(file, {
        precision: "fp32",
        tiedHead: model.hasTiedHead,
        ignored: (name) => !shapes.has(name),
        ...hooks,
      });
      return open(shapes.keys());
    },
  };
}

/** Throws a `UserError` that names `where` and every key that is wrong. */
function checkedLanguageConfig(json: unknown, where: string): LanguageConfig {
  return checkJson(json, languageConfigSchema, where);
}

/** Root mean square of the word table. */
export async function wordSpread({ file, model }: FrozenLanguageModel): Promise<number> {
  let [sum, count] = [0, 0];
  await visitFloat32(file, model.wordTable, (piece) => {
    for (const value of piece) sum += value * value;
    count += piece.length;
  });
  return Math.sqrt(sum / count);
}
