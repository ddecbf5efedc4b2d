/** How many weights each part of a model has, from its config alone: models declare shapes, and nothing is allocated. */
import { elementCount } from "../../src/host-tensor.js";
import { blip2Config, buildBlip2 } from "../../src/models/blip-2.js";
import { Parameters } from "../../src/nn/parameters.js";
import { firstStageOf } from "../../src/recipes/stage-1.js";

/** What only stage 1 has. */
export interface TextSide {
  /** Rows of the Q-Former's word table. */
  readonly vocabulary: number;
  /** Width of the space in which pictures and texts are compared. */
  readonly sharedSize: number;
}

const parts: readonly (readonly [part: string, belongs: (name: string) => boolean])[] = [
  ["norm after the image encoder", (name) => name.startsWith("vision_model.post_layernorm.")],
  ["image encoder", (name) => name.startsWith("vision_model.")],
  ["queries", (name) => name === "query_tokens"],
  [
    "text side of the Q-Former",
    (name) =>
      name.startsWith("embeddings.") ||
      (/^qformer\..*\.(intermediate|output)\.(dense|LayerNorm)\./.test(name) &&
        !/attention\.output/.test(name)),
  ],
  ["query side of the Q-Former", (name) => name.startsWith("qformer.")],
  ["language projection", (name) => name.startsWith("language_projection.")],
  ["language model", (name) => name.startsWith("language_model.")],
  ["heads of stage 1", () => true],
];

const frozen = ["image encoder", "language model"];

/**
 * Weights by part, under `stage 1: PART` and `stage 2: PART`, and the sums `trainable` and `all` of each stage.
 * @param json a config.json of `Blip2ForConditionalGeneration`. Throws a `UserError` where it is none.
 */
export function parameterCounts(json: unknown, { vocabulary, sharedSize }: TextSide): Record<string, number> {
  const config = blip2Config(json);
  const first = new Parameters(() => false);
  const second = new Parameters(() => false);
  buildBlip2(config, second);
  firstStageOf(
    { queries: config.num_query_tokens, sharedSize, matching: "two-class" },
    { ...config.qformer_config, use_qformer_text_input: true, vocab_size: vocabulary },
    { config: config.vision_config },
    first,
  );
  const counts: Record<string, number> = {};
  const add = (key: string, count: number): void => {
    counts[key] = (counts[key] ?? 0) + count;
  };
  const count = (stage: string, declared: Parameters): void => {
    for (const { name, shape } of declared.all) {
      const part = parts.find(([, belongs]) => belongs(name))![0];
      const size = elementCount(shape);
      add(`${stage}: ${part}`, size);
      add(`${stage}: all`, size);
      if (!frozen.includes(part)) add(`${stage}: trainable`, size);
    }
  };
  count("stage 1", first);
  // Stage 1 looks through the same image encoder.
  const encoder = second.all.filter(
    ({ name }) => name.startsWith("vision_model.") && !first.shapes.has(name),
  );
  const size = encoder.reduce((sum, { shape }) => sum + elementCount(shape), 0);
  add("stage 1: image encoder", size);
  add("stage 1: all", size);
  count("stage 2", second);
  return counts;
}
