/** Golden `Blip2ForImageTextRetrieval` models as folders, with a tokenizer whose words are `w0`, `w1`, ... */
import { writeModelFolder, type ModelFolderContent } from "../../src/checkpoints/model-folder.js";
import type { JsonObject } from "../../src/files/json-file.js";
import type { HostTensor } from "../../src/host-tensor.js";
import type { GoldenCase } from "../golden-case.js";

export interface RetrievalGolden {
  readonly num_query_tokens: number;
  readonly image_text_hidden_size: number;
  readonly image_token_index: number | null;
  readonly vision_config: JsonObject & { readonly image_size: number };
  readonly qformer_config: JsonObject & { readonly vocab_size: number };
}

export interface Changes {
  readonly config?: JsonObject;
  readonly weights?: (weights: Map<string, HostTensor>) => void;
  readonly files?: ModelFolderContent["files"];
}

/** Writes the folder and returns its path. The tokenizer puts nothing around a text. */
export async function writeRetrievalModel(
  path: string,
  golden: Pick<GoldenCase<RetrievalGolden, unknown>, "config" | "weights">,
  { config = {}, weights, files = {} }: Changes = {},
): Promise<string> {
  const tensors = new Map(golden.weights);
  weights?.(tensors);
  const size = golden.config.qformer_config.vocab_size;
  // One word more than the table has rows, as in published tokenizers with their image token.
  const vocab = Object.fromEntries(Array.from({ length: size + 1 }, (_, id) => [`w${id}`, id]));
  await writeModelFolder(path, {
    config: { ...golden.config, ...config },
    tensors,
    dtype: "float32",
    files: {
      "tokenizer.json": {
        version: "1.0",
        added_tokens: [],
        normalizer: null,
        pre_tokenizer: { type: "WhitespaceSplit" },
        post_processor: null,
        decoder: null,
        model: {
          type: "WordPiece",
          unk_token: "w3",
          continuing_subword_prefix: "##",
          max_input_chars_per_word: 9,
          vocab,
        },
      },
      // No role for w3: a token with one is cut out of every text, also out of w33.
      "tokenizer_config.json": { pad_token: "w0" },
      ...files,
    },
  });
  return path;
}
