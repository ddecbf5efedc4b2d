/** Which files of a model on the hub are needed to run it, and whether the cache has them. */
import { UserError } from "../errors.js";
import { quoted } from "../quoted.js";
import type { RepositoryCache } from "./cache.js";
import type { HubFile } from "./download.js";
import { readJsonObject } from "../files/json-file.js";

const configName = "config.json";
const weightsName = "model.safetensors";
export const indexName = `${weightsName}.index.json`;

/** Each is a whole tokenizer; the first that is there is used. */
const tokenizerSets: readonly (readonly string[])[] = [
  ["tokenizer.json"],
  ["vocab.json", "merges.txt"],
  ["vocab.txt"],
  ["spiece.model"],
];
const olderTokenizerNames = tokenizerSets.slice(1).flat();
const pictureNames = ["preprocessor_config.json", "processor_config.json"];

/** Fetched where a model has them. */
const optionalNames = [
  "generation_config.json",
  ...pictureNames,
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  ...tokenizerSets.flat(),
];

/** Of a file beside the weights; what reads them takes no more. */
const mostSmallBytes = 100_000_000;

/** What to fetch first. If `index` is among it, the shards that it names come next. */
export interface Choice {
  readonly files: readonly HubFile[];
  readonly index?: HubFile;
  /** Names that the model has no file of. */
  readonly absent: readonly string[];
}

/**
 * Picks from a listing of a model's files: config, one form of weights, one tokenizer, and the small files beside them.
 * Throws `UserError` if there is no config.json or no safetensors; `where` names the model in it.
 */
export function chooseFiles(listing: ReadonlyMap<string, HubFile>, where: string): Choice {
  const config = listing.get(configName);
  if (config === undefined)
    throw new UserError(`${where}: is no model that can be run: it has no ${configName}`);
  const [whole, index] = [listing.get(weightsName), listing.get(indexName)];
  const weights = whole ?? index;
  if (weights === undefined) {
    const other = [...listing.keys()].find((name) => /\.(bin|pth|pt|h5|msgpack|gguf|onnx)$/.test(name));
    throw new UserError(
      `${where}: weights as ${weightsName} are required, the model has ${other ?? "none"}; choose a --revision that has them` +
        (other === undefined ? "" : " (the hub offers conversions as refs/pr/N), or another model"),
    );
  }
  const optional = optionalNames.filter(
    (name) => !(listing.has("tokenizer.json") && olderTokenizerNames.includes(name)),
  );
  const small = optional.flatMap((name) => listing.get(name) ?? []);
  const absent = [...optional, weightsName, indexName].filter((name) => !listing.has(name));
  for (const { name, size } of [config, ...small, ...(weights === index ? [index] : [])]) {
    if (size > mostSmallBytes)
      throw new UserError(
        `${where}: a ${name} of at most ${mostSmallBytes} bytes is required, the hub lists ${size}; choose another model, or check HF_ENDPOINT`,
      );
  }
  return { files: [config, ...small, weights], absent, ...(weights === index && { index }) };
}

/** The shards that an index names, as the listing has them. Throws `UserError` for any other name. */
export async function shardsOf(
  indexPath: string,
  listing: ReadonlyMap<string, HubFile>,
  where: string,
): Promise<HubFile[]> {
  return (await shardNames(indexPath)).map((name) => {
    const file = listing.get(name);
    if (file === undefined) {
      throw new UserError(`${where}: ${indexName} names ${quoted(name)}, which the model does not have`);
    }
    return file;
  });
}

async function shardNames(indexPath: string): Promise<string[]> {
  const { weight_map: map } = await readJsonObject(indexPath);
  const names = Object.values((map ?? {}) as Record<string, unknown>);
  return [...new Set(names.map(String))].sort();
}

/**
 * What the cache lacks of a commit, by name. With `sure`, nothing may be open: of every file it must be known whether
 * the commit has it. Without, a file counts as lacking if a model of this kind cannot do without.
 */
export async function lackingFiles(cache: RepositoryCache, commit: string, sure: boolean): Promise<string[]> {
  const has = (name: string): Promise<boolean> => cache.has(commit, name);
  if (!(await has(configName))) return [configName];
  const lacking: string[] = [];

  if (!(await has(weightsName))) {
    if (await has(indexName)) {
      for (const name of await shardNames(cache.pointer(commit, indexName))) {
        if (!(await has(name))) lacking.push(name);
      }
    } else lacking.push(weightsName);
  }

  const isSettled = async (name: string): Promise<boolean> =>
    (await has(name)) || (await cache.knownAbsent(commit, name));
  const all = async (names: readonly string[], test: (name: string) => Promise<boolean>): Promise<boolean> =>
    (await Promise.all(names.map(test))).every(Boolean);
  if (sure) {
    const hasTokenizer = await has("tokenizer.json");
    for (const name of optionalNames) {
      const isIdle = hasTokenizer && olderTokenizerNames.includes(name);
      if (!isIdle && !(await isSettled(name))) lacking.push(name);
    }
    return lacking;
  }

  const { model_type: type } = await readJsonObject(cache.pointer(commit, configName));
  const needsText = !String(type).endsWith("_vision_model");
  const hasText = (await Promise.all(tokenizerSets.map((names) => all(names, has)))).some(Boolean);
  if (needsText && !hasText && !(await all(tokenizerSets.flat(), isSettled))) lacking.push("tokenizer.json");
  const hasPictures = (await Promise.all(pictureNames.map(has))).some(Boolean);
  if (type === "blip-2" && !hasPictures && !(await all(pictureNames, isSettled))) {
    lacking.push("preprocessor_config.json");
  }
  return lacking;
}
