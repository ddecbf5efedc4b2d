/** Model folders for tests: a whole BLIP-2 with tiny random weights, and the golden models as folders. */
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeModelFolder } from "../../src/checkpoints/model-folder.js";
import type { JsonObject } from "../../src/files/json-file.js";
import type { HostTensor } from "../../src/host-tensor.js";
import { blip2Config, buildBlip2 } from "../../src/models/blip-2.js";
import { initialise } from "../../src/nn/initialise.js";
import { Parameters } from "../../src/nn/parameters.js";
import { buildBpeTokenizer } from "../../src/text/build-bpe.js";
import { createTokenizer } from "../../src/text/tokenizer.js";
import type { GoldenCase } from "../golden-case.js";

const texts = ["a red star on grass", "two blue cats and a house in snow", "Question: what is this? Answer:"];

export interface TinyModel {
  readonly seed?: number;
  /** Side of the square pictures that the model sees. */
  readonly imageSize?: number;
  /** Keys that replace those of config.json, one level deep in its three parts. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Further files, or other content of the usual ones. */
  readonly files?: Readonly<Record<string, string | object>>;
  /** Changes the weights before they are written. */
  readonly change?: (tensors: Map<string, HostTensor>) => void;
}

/** The config.json of a tiny model. */
function tinyConfig(vocabulary: number, endId: number, imageSize = 16): JsonObject {
  return {
    architectures: ["Blip2ForConditionalGeneration"],
    model_type: "blip-2",
    num_query_tokens: 3,
    image_token_index: vocabulary - 1,
    use_decoder_only_language_model: true,
    vision_config: {
      model_type: "blip_2_vision_model",
      hidden_size: 16,
      intermediate_size: 24,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      image_size: imageSize,
      patch_size: imageSize / 2,
    },
    qformer_config: {
      model_type: "blip_2_qformer",
      hidden_size: 16,
      intermediate_size: 20,
      num_hidden_layers: 2,
      num_attention_heads: 2,
    },
    text_config: {
      model_type: "opt",
      vocab_size: vocabulary,
      hidden_size: 16,
      word_embed_proj_dim: 16,
      ffn_dim: 24,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      max_position_embeddings: 64,
      eos_token_id: endId,
    },
  };
}

/**
 * Writes the model folder `path` and returns its path. Its captions mean nothing, but they depend on picture,
 * prompt and seed, and are the same every time.
 */
export async function writeTinyModel(path: string, options: TinyModel = {}): Promise<string> {
  const { seed = 1, imageSize = 16, config = {}, files = {}, change } = options;
  const tokenizerFiles = buildBpeTokenizer(texts);
  const tokenizer = createTokenizer(
    tokenizerFiles["tokenizer.json"],
    tokenizerFiles["tokenizer_config.json"],
  );
  const endId = tokenizer.encode("\n", { addSpecialTokens: false }).at(-1)!;
  const json = tinyConfig(tokenizer.vocabularySize, endId, imageSize);
  const parameters = new Parameters(() => false);
  buildBlip2(blip2Config(json), parameters);
  const tensors = initialise(parameters.all, seed);
  // Starts as for training are so small that every picture would look alike.
  for (const [name, tensor] of tensors) {
    const isNorm = /norm\.(weight|bias)$/i.test(name);
    if (isNorm) continue;
    const values = tensor.data as Float32Array;
    values.set(values.map((value) => value * 8));
  }
  change?.(tensors);
  const merged = Object.fromEntries(
    Object.entries({ ...json, ...config }).map(([key, value]) => [
      key,
      key.endsWith("_config") && typeof value === "object" ? { ...(json[key] as object), ...value } : value,
    ]),
  );
  await writeModelFolder(path, {
    config: merged,
    tensors,
    dtype: "float32",
    files: {
      ...tokenizerFiles,
      "preprocessor_config.json": {
        image_processor_type: "BlipImageProcessor",
        size: { height: imageSize, width: imageSize },
      },
      "generation_config.json": { bos_token_id: 2, eos_token_id: endId, pad_token_id: 1 },
      ...files,
    },
  });
  return path;
}

/** Writes a golden `blip2-opt` model as a folder, with a tokenizer that has nothing but letters. */
export async function writeGoldenModel(
  path: string,
  golden: Pick<GoldenCase<JsonObject, unknown>, "config" | "weights">,
): Promise<string> {
  const vocab = Object.fromEntries(
    ["<s>", "<pad>", "</s>", "<unk>", ..."abcdefgh"].map((token, id) => [token, id]),
  );
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: true };
  await writeModelFolder(path, {
    config: golden.config,
    tensors: golden.weights,
    dtype: "float32",
    files: {
      "tokenizer.json": {
        version: "1.0",
        added_tokens: [],
        normalizer: null,
        pre_tokenizer: byteLevel,
        post_processor: null,
        decoder: byteLevel,
        model: { type: "BPE", unk_token: null, vocab, merges: [] },
      },
      "tokenizer_config.json": { bos_token: "</s>", eos_token: "</s>", pad_token: "<pad>" },
    },
  });
  return path;
}

/** A new folder for temporary files. */
export function temporaryFolder(): Promise<string> {
  return mkdtemp(join(tmpdir(), "blip2-test-"));
}
