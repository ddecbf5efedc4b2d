/** `--model` and `--revision` of the verbs that work with a model, and the way from them to its folder. */
import type { Blip2, Blip2Retriever } from "../index.js";
import type { Context } from "./verb.js";

const help = "a folder, or else the name of a model on the Hugging Face hub, which is fetched once";

/** Spread into the options of a verb that only runs its model. */
export const precisionOption = {
  precision: {
    type: "enum",
    choices: ["fp32", "int8", "int4"],
    help: "how weights are held: int8 and int4 are faster and smaller, and copy the model once; fp32 if not given",
  },
} as const;

/** Spread into the options of a verb that has a bundled model to fall back on. */
export const modelOptions = {
  model: { type: "string", value: "MODEL", help: `${help}; the bundled model if not given` },
  revision: { type: "string", help: "branch, tag or commit of a model on the hub; main if not given" },
} as const;

/** Spread into the options of a verb that needs to be told its model. */
export const requiredModelOptions = {
  model: { type: "string", value: "MODEL", required: true, help },
  revision: modelOptions.revision,
} as const;

/** The folder of the model that was named: see `findModel`. Shows how far a download has come. */
export async function modelFolder(
  { progress, notice, signal }: Context,
  model: string,
  revision: string | undefined,
): Promise<string> {
  const { findModel } = await import("../hub/hub.js");
  const folder = await findModel(model, {
    revision,
    signal,
    onNotice: notice,
    onDownload: ({ file, done, total }) =>
      progress.update({
        label: "fetch MiB",
        step: Math.floor(done / 2 ** 20),
        total: Math.ceil(total / 2 ** 20),
        detail: file,
      }),
  });
  progress.clear();
  return folder;
}

/** Loads the BLIP-2 that was named, and shows how that goes. */
export async function loadBlip2(
  context: Context,
  name: string,
  options: {
    readonly revision: string | undefined;
    readonly precision: "fp32" | "int8" | "int4" | undefined;
    readonly threads?: number | undefined;
  },
): Promise<Blip2> {
  const { Blip2 } = await import("../index.js");
  const { revision, ...rest } = options;
  return Blip2.load(await modelFolder(context, name, revision), { ...rest, ...loadingHooks(context) });
}

/** Loads the model that ranks what another wrote. */
export async function loadRetriever(
  context: Context,
  name: string,
  options: { readonly threads?: number | undefined } = {},
): Promise<Blip2Retriever> {
  const { Blip2Retriever } = await import("../index.js");
  const folder = await modelFolder(context, name, undefined);
  return Blip2Retriever.load(folder, { ...options, ...loadingHooks(context) });
}

/** The options of loading that show on the command line how it goes. */
export function loadingHooks({ progress, notice, signal }: Context): {
  readonly signal: AbortSignal;
  readonly onProgress: (progress: { detail: string; step: number; total: number }) => void;
  readonly onNotice: (notice: string) => void;
} {
  return {
    signal,
    // Bytes and parts of a model say little as numbers: percent.
    onProgress: ({ detail, step, total }) =>
      progress.update({ label: detail, step: Math.floor((100 * step) / total), total: 100 }),
    onNotice: notice,
  };
}
