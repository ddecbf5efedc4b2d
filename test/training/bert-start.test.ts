/** A Q-Former that begins as BERT: what is copied, what grows, what stays drawn. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { writeSafetensors } from "../../src/checkpoints/safetensors.js";
import { elementCount, float32Tensor, type HostTensor } from "../../src/host-tensor.js";
import { FirstStage } from "../../src/models/blip-2-bridge.js";
import { qFormerConfigSchema } from "../../src/models/q-former.js";
import { initialise } from "../../src/nn/initialise.js";
import { Parameters } from "../../src/nn/parameters.js";
import { bertTokenizerFiles } from "../../src/text/bert-tokenizer.js";
import { createTokenizer } from "../../src/text/tokenizer.js";
import { startFromBert } from "../../src/recipes/bert-start.js";

const words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s"];
const width = 4;
const bertShapes: Record<string, number[]> = {
  "embeddings.word_embeddings.weight": [words.length, width],
  "embeddings.position_embeddings.weight": [6, width],
  "embeddings.token_type_embeddings.weight": [2, width],
  "embeddings.LayerNorm.gamma": [width],
  "embeddings.LayerNorm.beta": [width],
  "encoder.layer.0.intermediate.dense.weight": [8, width],
  "encoder.layer.0.intermediate.dense.bias": [8],
  "encoder.layer.0.output.dense.weight": [width, 8],
  "encoder.layer.0.output.dense.bias": [width],
  "pooler.dense.weight": [width, width],
  ...Object.fromEntries(
    ["query", "key", "value"].flatMap((part) => [
      [`encoder.layer.0.attention.self.${part}.weight`, [width, width]],
      [`encoder.layer.0.attention.self.${part}.bias`, [width]],
    ]),
  ),
  "encoder.layer.0.attention.output.dense.weight": [width, width],
  "encoder.layer.0.attention.output.dense.bias": [width],
  "encoder.layer.0.attention.output.LayerNorm.weight": [width],
  "encoder.layer.0.attention.output.LayerNorm.bias": [width],
  "encoder.layer.0.output.LayerNorm.weight": [width],
  "encoder.layer.0.output.LayerNorm.bias": [width],
};

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "blip2-bert-"));
});
afterAll(() => rm(root, { recursive: true }));

async function bertFolder(name: string, shapes = bertShapes, type = "bert"): Promise<string> {
  const folder = join(root, name);
  await mkdir(folder);
  const tensors = Object.entries(shapes).map(([key, dims], i): [string, HostTensor] => [
    `bert.${key}`,
    float32Tensor(
      Float32Array.from({ length: elementCount(dims) }, (_, n) => 100 * i + n),
      dims,
    ),
  ]);
  await writeSafetensors(join(folder, "model.safetensors"), new Map(tensors));
  await writeFile(join(folder, "config.json"), JSON.stringify({ model_type: type }));
  await writeFile(join(folder, "vocab.txt"), `${words.join("\n")}\n`);
  return folder;
}

function drawn(): Map<string, HostTensor> {
  const parameters = new Parameters(() => true);
  const qformer = qFormerConfigSchema.parse({
    vocab_size: words.length + 1,
    hidden_size: width,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    intermediate_size: 8,
    max_position_embeddings: 6,
    encoder_hidden_size: 3,
    use_qformer_text_input: true,
  });
  const model = new FirstStage(
    { qformer, visionNormEpsilon: 1e-6, queryCount: 2, sharedSize: 3 },
    parameters.scope(),
  );
  expect(model.config.queryCount).toBe(2);
  return initialise(parameters.trainable, 1);
}

const bertValues = (key: string): Float32Array => {
  const i = Object.keys(bertShapes).indexOf(key);
  return Float32Array.from({ length: elementCount(bertShapes[key]!) }, (_, n) => 100 * i + n);
};

it("takes over BERT, copies the text's feed-forward to the queries, and leaves the rest drawn", async () => {
  const before = drawn();
  const after = await startFromBert(before, await bertFolder("good"));
  expect([...after.keys()]).toEqual([...before.keys()]);
  const layer = "qformer.encoder.layer.0";
  const copies: Record<string, string> = {
    "qformer.layernorm.weight": "embeddings.LayerNorm.gamma",
    "qformer.layernorm.bias": "embeddings.LayerNorm.beta",
    "embeddings.position_embeddings.weight": "embeddings.position_embeddings.weight",
    [`${layer}.attention.attention.key.weight`]: "encoder.layer.0.attention.self.key.weight",
    [`${layer}.attention.output.LayerNorm.bias`]: "encoder.layer.0.attention.output.LayerNorm.bias",
    [`${layer}.intermediate.dense.weight`]: "encoder.layer.0.intermediate.dense.weight",
    [`${layer}.intermediate_query.dense.weight`]: "encoder.layer.0.intermediate.dense.weight",
    [`${layer}.output.dense.bias`]: "encoder.layer.0.output.dense.bias",
    [`${layer}.output_query.dense.bias`]: "encoder.layer.0.output.dense.bias",
    [`${layer}.output_query.LayerNorm.weight`]: "encoder.layer.0.output.LayerNorm.weight",
  };
  for (const [name, bert] of Object.entries(copies))
    expect(after.get(name)!.data, name).toEqual(bertValues(bert));
  const table = after.get("embeddings.word_embeddings.weight")!.data as Float32Array;
  expect(table.subarray(0, words.length * width)).toEqual(bertValues("embeddings.word_embeddings.weight"));
  const newRow = (before.get("embeddings.word_embeddings.weight")!.data as Float32Array).subarray(
    words.length * width,
  );
  expect(table.subarray(words.length * width)).toEqual(newRow);
  for (const name of [
    "query_tokens",
    `${layer}.crossattention.attention.key.weight`,
    "itm_head.weight",
    "cls.predictions.bias",
  ])
    expect(after.get(name), name).toBe(before.get(name));
});

it("refuses a BERT of other sizes, and what is no BERT, by name", async () => {
  const { "encoder.layer.0.output.dense.bias": _missing, ...shapes } = bertShapes;
  const other = { ...shapes, "embeddings.position_embeddings.weight": [5, width] };
  await expect(startFromBert(drawn(), await bertFolder("other", other))).rejects.toThrow(
    /does not fit the sizes of "qformer"[^]*encoder\.layer\.0\.output\.dense\.bias is missing[^]*position_embeddings\.weight is \[5, 4\], \[6, 4\] is required/,
  );
  await expect(startFromBert(drawn(), await bertFolder("opt", bertShapes, "opt"))).rejects.toThrow(
    /"bert" is required/,
  );
});

it("gives the tokenizer BERT's vocabulary and [DEC] behind it", async () => {
  const files = await bertTokenizerFiles(await bertFolder("words"));
  const tokenizer = createTokenizer(files["tokenizer.json"], files["tokenizer_config.json"]);
  expect(tokenizer.idOf("[DEC]")).toBe(words.length);
  expect(tokenizer.encode("A cats")).toEqual([2, 5, 6, 7, 3]);
  expect(files["vocab.txt"]).toBe(`${words.join("\n")}\n[DEC]\n`);
});
