/**
 * A BLIP-2 checkpoint of a published size with random weights: float16 safetensors in shards, written piece by piece. Its answers
 * mean nothing; its arithmetic is that of the real one.
 */
import { mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import { writeFileAtomic } from "../src/files/atomic-write.js";
import { float32ToHalf } from "../src/float16.js";
import { fillSafetensors, type WriteTensor } from "../src/checkpoints/safetensors.js";
import { elementCount } from "../src/host-tensor.js";
import { blip2Config, buildBlip2 } from "../src/models/blip-2.js";
import { Parameters } from "../src/nn/parameters.js";
import { buildBpeTokenizer } from "../src/text/build-bpe.js";

type Json = Readonly<Record<string, unknown>>;

const vocabulary = 50304;

const common = {
  architectures: ["Blip2ForConditionalGeneration"],
  model_type: "blip-2",
  num_query_tokens: 32,
  image_token_index: vocabulary - 1,
  use_decoder_only_language_model: true,
  tie_word_embeddings: true,
};
const opt = {
  model_type: "opt",
  vocab_size: vocabulary,
  max_position_embeddings: 2048,
  dropout: 0,
  activation_function: "relu",
  do_layer_norm_before: true,
  tie_word_embeddings: true,
};

const textOf = (width: number, layers: number, heads: number): Json => ({
  ...opt,
  hidden_size: width,
  word_embed_proj_dim: width,
  ffn_dim: 4 * width,
  num_hidden_layers: layers,
  num_attention_heads: heads,
});

const smallParts = {
  vision_config: {
    model_type: "blip_2_vision_model",
    hidden_size: 384,
    intermediate_size: 1536,
    num_hidden_layers: 6,
    num_attention_heads: 6,
    image_size: 224,
    patch_size: 14,
  },
  qformer_config: {
    model_type: "blip_2_qformer",
    hidden_size: 384,
    intermediate_size: 1536,
    num_hidden_layers: 4,
    num_attention_heads: 6,
  },
};

/** `full` is ViT-g/14, Q-Former base and OPT-2.7B: 3.7 thousand million weights. */
export const checkpointSizes: Readonly<Record<string, Json>> = {
  full: {
    ...common,
    vision_config: {
      model_type: "blip_2_vision_model",
      hidden_size: 1408,
      intermediate_size: 6144,
      num_hidden_layers: 39,
      num_attention_heads: 16,
      image_size: 224,
      patch_size: 14,
    },
    qformer_config: { model_type: "blip_2_qformer" },
    text_config: textOf(2560, 32, 32),
  },
  small: { ...common, ...smallParts, text_config: textOf(768, 6, 12) },
  /** The language model alone is of a published size. */
  "opt-1.3b": { ...common, ...smallParts, text_config: textOf(2048, 24, 32) },
};

const poolSize = 2 ** 21;
const shardBytes = 2e9;

/** Normal numbers by Box and Muller from a 32-bit generator, always the same. */
function normalPool(std: number): Uint16Array {
  let state = 1;
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  const values = new Float32Array(poolSize);
  for (let i = 0; i < poolSize; i += 2) {
    const radius = std * Math.sqrt(-2 * Math.log(uniform()));
    const angle = 2 * Math.PI * uniform();
    values[i] = radius * Math.cos(angle);
    values[i + 1] = radius * Math.sin(angle);
  }
  return float32ToHalf(values).halves;
}

/** Writes the checkpoint of that size into `folder`, unless it is there. */
export async function ensureRandomCheckpoint(folder: string, size: string): Promise<void> {
  const config = checkpointSizes[size];
  if (config === undefined) throw new Error(`--sizes is one of ${Object.keys(checkpointSizes).join(", ")}`);
  const index = "model.safetensors.index.json";
  const text = `${JSON.stringify(config, null, 2)}\n`;
  const written = await readFile(path.join(folder, index)).catch(() => undefined);
  const before = await readFile(path.join(folder, "config.json"), "utf8").catch(() => undefined);
  if (written !== undefined && before === text) return;
  if (before !== undefined) throw new Error(`${folder} holds another model; choose another --folder`);

  const parameters = new Parameters(() => false);
  buildBlip2(blip2Config(config), parameters);
  const shards: { name: string; dims: readonly number[] }[][] = [[]];
  let room = shardBytes;
  for (const [name, dims] of parameters.shapes) {
    const length = 2 * elementCount(dims);
    if (length > room && shards.at(-1)!.length > 0) {
      shards.push([]);
      room = shardBytes;
    }
    shards.at(-1)!.push({ name, dims });
    room -= length;
  }

  await mkdir(folder, { recursive: true });
  const pool = normalPool(0.02);
  const ones = new Uint16Array(poolSize).fill(0x3c00);
  const zeros = new Uint16Array(poolSize);
  let draw = 1;
  const weightMap: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const number = (n: number): string => String(n).padStart(5, "0");
    const file = `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    const declared = shard.map(({ name, dims }) => [name, { dtype: "float16" as const, dims }] as const);
    await fillSafetensors(path.join(folder, file), declared, { format: "pt" }, async (write) => {
      for (const { name, dims } of shard) {
        weightMap[name] = file;
        const isNorm = /norm\d?\.weight$/i.test(name);
        const source = isNorm ? ones : name.endsWith(".bias") ? zeros : pool;
        await writeFrom(source, elementCount(dims), name, write, () => {
          draw = Math.imul(draw, 48271) >>> 0;
          return source === pool ? draw % (poolSize / 2) : 0;
        });
      }
    });
  }
  const tokenizer = buildBpeTokenizer(["a photo of a cat and a dog", "Question: what is this? Answer:"]);
  const files: Record<string, unknown> = {
    ...tokenizer,
    "preprocessor_config.json": {
      image_processor_type: "BlipImageProcessor",
      size: { height: 224, width: 224 },
    },
    "generation_config.json": { bos_token_id: 2, eos_token_id: 2, pad_token_id: 1 },
    "config.json": text,
    [index]: { metadata: {}, weight_map: weightMap },
  };
  for (const [name, content] of Object.entries(files)) {
    await writeFileAtomic(
      path.join(folder, name),
      typeof content === "string" ? content : `${JSON.stringify(content, null, 2)}\n`,
    );
  }
}

async function writeFrom(
  source: Uint16Array,
  count: number,
  name: string,
  write: WriteTensor,
  start: () => number,
): Promise<void> {
  for (let done = 0; done < count;) {
    const from = start();
    const most = Math.min(count - done, poolSize - from);
    await write(name, new Uint8Array(source.buffer, 2 * from, 2 * most));
    done += most;
  }
}
