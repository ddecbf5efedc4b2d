/** The models of test/golden/stages, built from a case's config, and the comparison of gradients. */
import { expect } from "vitest";
import { gradients, input, type Tensor } from "../../src/engine/index.js";
import { FirstStage } from "../../src/models/blip-2-bridge.js";
import { qFormerConfigSchema, type QFormerConfig } from "../../src/models/q-former.js";
import { Parameters } from "../../src/nn/parameters.js";
import { stage1Losses, type Stage1Options } from "../../src/objectives/stage-1.js";
import { expectClose, type GoldenCase, type Tensors } from "../golden-case.js";

export interface QFormerFields {
  readonly image_width: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly ffn: number;
  readonly queries: number;
  readonly cross_attention_frequency: number;
  readonly vocab: number;
  readonly projection: number;
  readonly positions: number;
  readonly itm_outputs: 1 | 2;
  readonly text: boolean;
  readonly layer_norm_eps: number;
  readonly post_layernorm_eps: number;
}

export interface Stage1Fields extends QFormerFields {
  readonly pad: number;
  readonly decoder_start: number;
}

export interface Stage1CaseOptions {
  readonly gather: "detached" | "with gradient";
}

export type Stage1Case = GoldenCase<Stage1Fields, Stage1CaseOptions>;

export function qFormerConfig(fields: QFormerFields): QFormerConfig {
  return qFormerConfigSchema.parse({
    vocab_size: fields.vocab,
    hidden_size: fields.hidden,
    num_hidden_layers: fields.layers,
    num_attention_heads: fields.heads,
    intermediate_size: fields.ffn,
    max_position_embeddings: fields.positions,
    layer_norm_eps: fields.layer_norm_eps,
    cross_attention_frequency: fields.cross_attention_frequency,
    encoder_hidden_size: fields.image_width,
    use_qformer_text_input: fields.text,
  });
}

/** The stage-1 graph of a case, with its negatives as inputs unless `overrides` say otherwise. */
export function stage1Graph(golden: Stage1Case, overrides: Partial<Stage1Options> = {}) {
  const fields = golden.config;
  const parameters = new Parameters(() => true);
  const model = new FirstStage(
    {
      qformer: qFormerConfig(fields),
      visionNormEpsilon: fields.post_layernorm_eps,
      queryCount: fields.queries,
      sharedSize: fields.projection,
      matchingClasses: fields.itm_outputs,
    },
    parameters.scope(),
  );
  const size = golden.inputs["input_ids"]!.dims[0]!;
  const places = (name: string) => input(name, "int64", [size]);
  const features = input("image_features", "float32", [size, "P", fields.image_width]);
  const ids = input("input_ids", "int64", [size, "T"]);
  const mask = input("attention_mask", "int64", [size, "T"]);
  const texts = places("negative_texts");
  const losses = stage1Losses(
    model,
    {
      features,
      ids,
      mask,
      ...(golden.inputs["image_ids"] === undefined ? {} : { pictureIds: places("image_ids") }),
    },
    {
      startTokenId: fields.decoder_start,
      padTokenId: fields.pad,
      gatheredGradient: golden.options.gather === "with gradient",
      matching: fields.itm_outputs === 2 ? "two-class" : "one-logit",
      // The one-logit form has no negative images and must not read them.
      negatives: { images: fields.itm_outputs === 2 ? places("negative_images") : texts, texts },
      ...overrides,
    },
  );
  return { parameters, model, features, ids, mask, losses };
}

/** The gradients of `loss` by parameter name, as graph outputs called `d name`. */
export function gradientOutputs(
  loss: Tensor,
  targets: ReadonlyMap<string, Tensor>,
): Readonly<Record<string, Tensor>> {
  const found = gradients(loss, [...targets.values()]);
  return Object.fromEntries([...targets.keys()].map((name, i) => [`d ${name}`, found[i]!]));
}

/**
 * Each gradient within 1e-4 of the reference, over its largest value. The true gradient of a key's bias is
 * zero, as it moves all scores of a row alike; both sides hold rounding there, which must be under 1e-6.
 */
export function expectGradients(what: string, found: Tensors, reference: Tensors): void {
  expect(Object.keys(reference).length).toBeGreaterThan(10);
  for (const [name, value] of Object.entries(reference)) {
    const floor = name.endsWith("key.bias") ? 0.01 : 0;
    expectClose(`${what} gradient of ${name}`, found[`d ${name}`], value, { within: 1e-4, floor });
  }
}
