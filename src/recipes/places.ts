/**
 * Places that a configuration names. A relative one counts from the folder of the configuration file. Until version 0.4 it counted from
 * where the command was started; one that is only there is still taken, with a notice, for one version.
 */
import { stat } from "node:fs/promises";
import { dirname, isAbsolute, relative, resolve } from "node:path";
import { findModel, type HubOptions } from "../hub/hub.js";
import { UserError } from "../errors.js";

/** By key, such as `start.bert`: a folder or file; a model, which may also be a name on the hub; or a place that will be made. */
export type Places = Readonly<Record<string, "data" | "model" | "made">>;

export interface PlaceHooks extends HubOptions {
  readonly onNotice?: ((notice: string) => void) | undefined;
}

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** ORG/NAME, as the hub has it; a path of a configuration mostly has more parts, or dots. */
const hubName = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;

/**
 * The configuration from `file` with its places as whole paths; models that are names on the hub are fetched into its cache.
 * Throws a `UserError` naming the key whose place is not there.
 */
export async function resolvePlaces<Config>(
  file: string,
  config: Config,
  places: Places,
  hooks: PlaceHooks = {},
): Promise<Config> {
  let resolved = config;
  for (const [key, kind] of Object.entries(places)) {
    const named = valueAt(config, key);
    if (typeof named !== "string") continue;
    const place = await resolvePlace(file, key, named, kind, hooks);
    resolved = withValue(resolved, key.split("."), place) as Config;
  }
  return resolved;
}

async function resolvePlace(
  file: string,
  key: string,
  named: string,
  kind: Places[string],
  { onNotice, ...hub }: PlaceHooks,
): Promise<string> {
  if (isAbsolute(named)) return named;
  const beside = resolve(dirname(file), named);
  if (kind === "made" || (await isThere(beside))) return beside;
  const fromHere = resolve(named);
  if (await isThere(fromHere)) {
    onNotice?.(
      `${file}: ${key} is ${named}, which is found from the folder of the command, not of the configuration: write ` +
        `${relative(dirname(resolve(file)), fromHere)} instead; later versions will look there alone`,
    );
    return fromHere;
  }
  if (kind === "model" && hubName.test(named)) return findModel(named, hub);
  const hubRemedy = kind === "model" ? ", and it is no name of a model on the hub (ORG/NAME)" : "";
  throw new UserError(
    `${file}: ${key} is ${named}: ${beside} is not there${hubRemedy}; places count from the folder of the configuration`,
  );
}

/** A configuration with the places that count from here as whole paths: runs of version 0.3 wrote them down as they were given. */
export function wholePlaces(config: unknown, places: Places): unknown {
  return Object.keys(places).reduce((known, key) => {
    const named = valueAt(known, key);
    return typeof named === "string" ? withValue(known, key.split("."), resolve(named)) : known;
  }, config);
}

function valueAt(config: unknown, key: string): unknown {
  return key
    .split(".")
    .reduce<unknown>((at, step) => (at as Record<string, unknown> | null | undefined)?.[step], config);
}

function withValue(config: unknown, [step, ...rest]: readonly string[], value: string): unknown {
  if (step === undefined) return value;
  const at = config as Readonly<Record<string, unknown>>;
  return { ...at, [step]: withValue(at[step], rest, value) };
}
