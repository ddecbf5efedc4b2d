/** A whole BLIP-2 with a tiny random T5 as a model folder, with a tokenizer of T5's kind (unigram pieces). */
import { writeModelFolder } from "../../src/checkpoints/model-folder.js";
import type { JsonObject } from "../../src/files/json-file.js";
import type { HostTensor } from "../../src/host-tensor.js";
import { blip2Config, buildBlip2 } from "../../src/models/blip-2.js";
import { initialise } from "../../src/nn/initialise.js";
import { Parameters } from "../../src/nn/parameters.js";

const words = [
  "a",
  "red",
  "star",
  "two",
  "blue",
  "cats",
  "Question",
  "what",
  "is",
  "this",
  "Answer",
  ":",
  "?",
];
const letters = [..."abcdefghijklmnopqrstuvwxyzQA:? "].map((letter) => letter.replace(" ", "\u2581"));
const pieces = ["<pad>", "</s>", "<unk>", ...words.map((word) => `\u2581${word}`), ...letters];
const imageToken = pieces.length;

export const tinyT5Config: JsonObject = {
  model_type: "blip-2",
  num_query_tokens: 3,
  image_token_index: imageToken,
  use_decoder_only_language_model: false,
  vision_config: {
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    image_size: 16,
    patch_size: 8,
  },
  qformer_config: { hidden_size: 16, intermediate_size: 20, num_hidden_layers: 2, num_attention_heads: 2 },
  // As the published files of FLAN-T5 have it.
  text_config: {
    model_type: "t5",
    vocab_size: imageToken + 4,
    d_model: 16,
    d_kv: 6,
    d_ff: 24,
    num_layers: 2,
    num_decoder_layers: 2,
    num_heads: 2,
    feed_forward_proj: "gated-gelu",
    is_gated_act: true,
    dense_act_fn: "gelu",
    tie_word_embeddings: false,
    bos_token_id: 1,
    eos_token_id: 1,
    pad_token_id: 0,
    decoder_start_token_id: 0,
  },
};

/** Writes the folder `path` and returns its path; `change` may alter the tensors before. */
export async function writeTinyT5(
  path: string,
  {
    config = tinyT5Config,
    change,
  }: { config?: JsonObject; change?: (tensors: Map<string, HostTensor>) => void } = {},
): Promise<string> {
  const parameters = new Parameters(() => false);
  buildBlip2(blip2Config(config), parameters);
  const tensors = initialise(parameters.all, 3);
  // Starts as for training are so small that every picture would look alike.
  for (const [name, { data }] of tensors) {
    if (/norm\.(weight|bias)$/i.test(name) || name.startsWith("language_model.")) continue;
    (data as Float32Array).set((data as Float32Array).map((value) => value * 8));
  }
  change?.(tensors);
  const special = (id: number, content: string) => ({
    id,
    content,
    special: true,
    normalized: false,
    single_word: false,
    lstrip: false,
    rstrip: false,
  });
  const metaspace = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always", split: true };
  const sequence = { Sequence: { id: "A", type_id: 0 } };
  const end = { SpecialToken: { id: "</s>", type_id: 0 } };
  const roles = { eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" };
  await writeModelFolder(path, {
    config,
    tensors,
    dtype: "float32",
    files: {
      "tokenizer.json": {
        version: "1.0",
        added_tokens: [...[0, 1, 2].map((id) => special(id, pieces[id]!)), special(imageToken, "<image>")],
        normalizer: null,
        pre_tokenizer: metaspace,
        post_processor: {
          type: "TemplateProcessing",
          single: [sequence, end],
          pair: [sequence, end, { Sequence: { id: "B", type_id: 0 } }, end],
          special_tokens: { "</s>": { id: "</s>", ids: [1], tokens: ["</s>"] } },
        },
        decoder: metaspace,
        model: {
          type: "Unigram",
          unk_id: 2,
          vocab: pieces.map((piece, id) => [piece, id < 3 ? 0 : -2 - id / 100]),
        },
      },
      "tokenizer_config.json": { tokenizer_class: "T5Tokenizer", ...roles },
      "preprocessor_config.json": { size: { height: 16, width: 16 } },
      "generation_config.json": { eos_token_id: 1, pad_token_id: 0, decoder_start_token_id: 0 },
    },
  });
  return path;
}
