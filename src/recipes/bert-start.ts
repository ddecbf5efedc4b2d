/**
 * A Q-Former that begins as BERT (paper section 3.1): attention, text feed-forward, word and position tables and the head
 * of its language model are BERT's; the feed-forward of the queries starts as a copy of the text's; the table gets a row for
 * `[DEC]`. Cross-attention, queries and projections are new. BERT's token types and pooler are left out.
 */
import { join } from "node:path";
import { toFloat32 } from "../float16.js";
import { readModelFolder } from "../checkpoints/model-folder.js";
import { UserError } from "../errors.js";
import { quoted } from "../quoted.js";
import type { HostTensor } from "../host-tensor.js";

/** Names of a Q-Former -> BERT's, in the order in which they are tried. */
const sources: readonly (readonly [pattern: RegExp, bert: string])[] = [
  [/^embeddings\.(word|position)_embeddings\.weight$/, "embeddings.$1_embeddings.weight"],
  [/^qformer\.layernorm\.(weight|bias)$/, "embeddings.LayerNorm.$1"],
  [
    /^qformer\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$/,
    "encoder.layer.$1.attention.self.$2.$3",
  ],
  [
    /^qformer\.encoder\.layer\.(\d+)\.attention\.output\.(dense|LayerNorm)\.(weight|bias)$/,
    "encoder.layer.$1.attention.output.$2.$3",
  ],
  [
    /^qformer\.encoder\.layer\.(\d+)\.(intermediate|output)(?:_query)?\.(dense|LayerNorm)\.(weight|bias)$/,
    "encoder.layer.$1.$2.$3.$4",
  ],
  [/^cls\.predictions\.(.+)$/, "cls.predictions.$1"],
];

/** Parts that a Q-Former has and BERT has not, or that BERT's folder may lack. */
const isOptional = (name: string): boolean => name.startsWith("cls.predictions.");

/**
 * `drawn` (a value for every weight of a `FirstStage`) with BERT's weights in their places.
 * Throws a `UserError` that names every weight that BERT's folder lacks or has in another shape.
 */
export async function startFromBert(
  drawn: ReadonlyMap<string, HostTensor>,
  folder: string,
): Promise<Map<string, HostTensor>> {
  const { weights: file, config } = await readModelFolder(folder);
  if (config["model_type"] !== "bert") {
    throw new UserError(
      `${join(folder, "config.json")}: model_type is ${quoted(config["model_type"] ?? null)}; "bert" is required to start a Q-Former`,
    );
  }
  // As stored by BertModel or by a class around it, with the names of today or those of TensorFlow.
  const byName = new Map(
    [...file.tensors.keys()].map((name) => [
      name
        .replace(/^bert\./, "")
        .replace(/\.gamma$/, ".weight")
        .replace(/\.beta$/, ".bias"),
      name,
    ]),
  );
  const started = new Map<string, HostTensor>();
  const problems: string[] = [];
  for (const [name, value] of drawn) {
    const rule = sources.find(([pattern]) => pattern.test(name));
    const wanted = rule === undefined ? undefined : name.replace(rule[0], rule[1]);
    const stored = wanted === undefined ? undefined : byName.get(wanted);
    started.set(name, value);
    if (wanted === undefined) continue;
    if (stored === undefined) {
      if (!isOptional(name)) problems.push(`${wanted} is missing`);
      continue;
    }
    const { dims } = file.tensors.get(stored)!;
    // Words of BERT come first; the drawn rows behind them are those of new tokens.
    const rowsMayGrow = /^(embeddings\.word_embeddings\.weight|cls\.predictions\.bias)$/.test(name);
    const fits =
      dims.length === value.dims.length &&
      dims.every((size, axis) =>
        axis === 0 && rowsMayGrow ? size <= value.dims[0]! : size === value.dims[axis],
      );
    if (!fits) {
      problems.push(`${stored} is [${dims.join(", ")}], [${value.dims.join(", ")}] is required`);
      continue;
    }
    const bert = toFloat32(await file.read(stored)).data as Float32Array;
    const data = Float32Array.from(value.data as Float32Array);
    data.set(bert);
    started.set(name, { dtype: "float32", dims: value.dims, data });
  }
  if (problems.length > 0) {
    throw new UserError(
      `${folder}: this BERT does not fit the sizes of "qformer" in the configuration:\n` +
        problems.map((problem) => `  ${problem}`).join("\n"),
    );
  }
  return started;
}
