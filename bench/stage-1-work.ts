/**
 * A stage-1 step of the bundled model: the sizes of configs/scenes/stage1.json on the features of the bundled
 * vision model; the work `stage1` of reference/bench_training_step.py. Negatives are given, nothing is dropped.
 */
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { input } from "../src/engine/index.js";
import { FirstStage } from "../src/models/blip-2-bridge.js";
import { qFormerConfigSchema } from "../src/models/q-former.js";
import { Parameters } from "../src/nn/parameters.js";
import { stage1Losses } from "../src/objectives/stage-1.js";
import { stage1ConfigSchema } from "../src/recipes/stage-1.js";
import type { Work } from "./work.js";
import { inRepository } from "./repository.js";

/** The longest caption of a batch of scenes has 29 to 32 tokens; the rest is what bundled models have. */
const given = { text: 32, patches: 65, image_width: 192, vocab: 188, pad: 0 };

export function stage1Work(): Work {
  const file = inRepository("configs/scenes/stage1.json");
  const config = stage1ConfigSchema.parse(JSON.parse(readFileSync(file, "utf8")));
  const qformer = qFormerConfigSchema.parse({
    ...config.qformer,
    vocab_size: given.vocab,
    encoder_hidden_size: given.image_width,
    use_qformer_text_input: true,
  });
  const parameters = new Parameters(() => true);
  const model = new FirstStage(
    { qformer, visionNormEpsilon: 1e-5, queryCount: config.queries, sharedSize: config.sharedSize },
    parameters.scope(),
  );
  const batch = config.batchSize;
  const { loss } = stage1Losses(
    model,
    {
      features: input("image_features", "float32", [batch, given.patches, given.image_width]),
      ids: input("input_ids", "int64", [batch, "T"]),
      mask: input("attention_mask", "int64", [batch, "T"]),
    },
    {
      startTokenId: given.vocab - 1,
      padTokenId: given.pad,
      gatheredGradient: false,
      matching: "two-class",
      negatives: {
        images: input("negative_images", "int64", [batch]),
        texts: input("negative_texts", "int64", [batch]),
      },
    },
  );
  const peerConfig = {
    batch,
    text: given.text,
    patches: given.patches,
    image_width: given.image_width,
    hidden: qformer.hidden_size,
    layers: qformer.num_hidden_layers,
    heads: qformer.num_attention_heads,
    ffn: qformer.intermediate_size,
    queries: config.queries,
    cross_attention_frequency: qformer.cross_attention_frequency,
    vocab: given.vocab,
    projection: config.sharedSize,
    positions: qformer.max_position_embeddings,
  };
  return {
    title: `stage 1, batch ${batch}, ${config.queries} queries, ${given.text} tokens, width ${qformer.hidden_size}`,
    peerArguments: (folder) => {
      const at = path.join(folder, "stage1.json");
      writeFileSync(at, JSON.stringify(peerConfig));
      return ["--work", "stage1", "--config", at];
    },
    parameters: parameters.trainable,
    loss,
    inputs: () => {
      const count = batch * given.text;
      const ids = BigInt64Array.from({ length: count }, (_, i) =>
        BigInt(1 + ((i * 7919) % (given.vocab - 2))),
      );
      const numbers = Float32Array.from(
        { length: batch * given.patches * given.image_width },
        (_, i) => Math.sin(i * 1.7) + Math.cos(i * i),
      );
      const rotated = (by: number) =>
        BigInt64Array.from({ length: batch }, (_, i) => BigInt((i + by) % batch));
      return {
        image_features: { dtype: "float32", dims: [batch, given.patches, given.image_width], data: numbers },
        input_ids: { dtype: "int64", dims: [batch, given.text], data: ids },
        attention_mask: {
          dtype: "int64",
          dims: [batch, given.text],
          data: new BigInt64Array(count).fill(1n),
        },
        negative_images: { dtype: "int64", dims: [batch], data: rotated(1) },
        negative_texts: { dtype: "int64", dims: [batch], data: rotated(batch - 1) },
      };
    },
  };
}
