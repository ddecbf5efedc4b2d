/** A tiny random T5 as a model folder, as a training on text leaves one. */
import { writeModelFolder } from "../../src/checkpoints/model-folder.js";
import { T5, t5ConfigSchema } from "../../src/models/language/t5.js";
import { initialise } from "../../src/nn/initialise.js";
import { Parameters } from "../../src/nn/parameters.js";
import { buildBpeTokenizer } from "../../src/text/build-bpe.js";
import { createTokenizer } from "../../src/text/tokenizer.js";

/** Ids of its `<pad>`, which starts the decoder, and `</s>`. */
export const [padId, endId] = [0, 1];

/** Writes the folder `path`; its tokenizer knows the words of `texts`. */
export async function writeTinyT5(
  path: string,
  texts: readonly string[],
  config: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const files = buildBpeTokenizer(texts, "encoder-decoder");
  const { vocabularySize } = createTokenizer(files["tokenizer.json"], files["tokenizer_config.json"]);
  const t5 = t5ConfigSchema.parse({
    model_type: "t5",
    vocab_size: vocabularySize,
    d_model: 16,
    d_kv: 6,
    d_ff: 24,
    num_layers: 2,
    num_decoder_layers: 1,
    num_heads: 2,
    relative_attention_num_buckets: 8,
    relative_attention_max_distance: 20,
    dropout_rate: 0,
    feed_forward_proj: "gated-gelu",
    dense_act_fn: "gelu",
    tie_word_embeddings: false,
    pad_token_id: padId,
    eos_token_id: endId,
    decoder_start_token_id: padId,
    ...config,
  });
  const parameters = new Parameters(() => false);
  const { config: checked } = new T5(t5, parameters.scope());
  await writeModelFolder(path, {
    config: { architectures: ["T5ForConditionalGeneration"], ...checked },
    tensors: initialise(parameters.all, 4),
    dtype: "float16",
    files: { ...files },
  });
}
