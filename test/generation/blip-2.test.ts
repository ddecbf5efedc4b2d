import { rm } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { InterruptedError, UserError } from "../../src/errors.js";
import { float32Tensor } from "../../src/host-tensor.js";
import { Blip2, type GenerateOptions, type ImageSource } from "../../src/index.js";
import { temporaryFolder, writeTinyModel, type TinyModel } from "./tiny-model.js";

let root: string;
let model: Blip2;
let images: readonly ImageSource[];

const noise = (seed: number, size = 16) => {
  const data = Uint8Array.from(
    { length: size * size * 3 },
    (_, i) => (Math.imul(i + 7, seed * 2654435761) >>> 11) % 256,
  );
  return { data, width: size, height: size, channels: 3 } as const;
};

beforeAll(async () => {
  root = await temporaryFolder();
  model = await Blip2.load(await writeTinyModel(join(root, "tiny")), { threads: 1 });
  images = [noise(1), noise(2, 24), noise(3)];
});
afterAll(async () => {
  await model.close();
  await rm(root, { recursive: true });
});

describe("generate", () => {
  it("gives text, ids and log-probability, the same every time", async () => {
    const first = await model.generate({ image: images[0]!, maxNewTokens: 6 });
    expect(first.text).toBe(first.text.trim());
    expect(first.tokenIds.length).toBeGreaterThan(0);
    expect(first.tokenIds.length).toBeLessThanOrEqual(6);
    expect(first.logProbability).toBeLessThan(0);
    expect(await model.generate({ image: images[0]!, maxNewTokens: 6 })).toEqual(first);
  });

  it("looks at the picture and at the prompt", async () => {
    const of = async (options: GenerateOptions) =>
      (await model.generate({ ...options, maxNewTokens: 4 })).logProbability;
    const probabilities = [
      await of({ image: images[0]! }),
      await of({ image: images[1]! }),
      await of({ image: images[0]!, prompt: "two blue cats" }),
    ];
    expect(new Set(probabilities).size).toBe(3);
  });

  it("takes an empty prompt as none", async () => {
    const [none, empty] = [undefined, ""].map((prompt) =>
      model.generate({ image: images[0]!, prompt, maxNewTokens: 4 }),
    );
    expect(await none).toEqual(await empty);
  });

  it("takes paths, URLs, bytes and pixels alike", async () => {
    const { data, width, height, channels } = noise(1);
    const path = join(root, "noise.png");
    await sharp(data, { raw: { width, height, channels } }).png().toFile(path);
    const bytes = new Uint8Array(await sharp(path).png().toBuffer());
    const expected = await model.generate({ image: images[0]!, maxNewTokens: 4 });
    for (const image of [path, pathToFileURL(path), bytes]) {
      expect(await model.generate({ image, maxNewTokens: 4 })).toEqual(expected);
    }
  });

  it("gives a batch what it gives each picture alone, with prompts of different length", async () => {
    const prompts = ["a red star", undefined, "Question: what is this? Answer:"];
    const together = await model.generateBatch({ images, prompts, maxNewTokens: 8, numBeams: 3 });
    for (const [i, image] of images.entries()) {
      const alone = await model.generate({ image, prompt: prompts[i], maxNewTokens: 8, numBeams: 3 });
      expect(together[i]!.tokenIds).toEqual(alone.tokenIds);
      expect(together[i]!.text).toBe(alone.text);
      expect(together[i]!.logProbability).toBeCloseTo(alone.logProbability, 4);
    }
    expect(await model.generateBatch({ images: [] })).toEqual([]);
  });

  it("keeps to its lengths", async () => {
    const { tokenIds } = await model.generate({ image: images[0]!, minNewTokens: 5, maxNewTokens: 5 });
    expect(tokenIds).toHaveLength(5);
    expect((await model.generate({ image: images[0]!, maxNewTokens: 1 })).tokenIds).toHaveLength(1);
  });

  it("stops on request", async () => {
    const aborted = model.generate({ image: images[0]!, signal: AbortSignal.abort() });
    await expect(aborted).rejects.toThrow(InterruptedError);
    const controller = new AbortController();
    const running = model.generate({
      image: images[0]!,
      minNewTokens: 40,
      maxNewTokens: 40,
      signal: controller.signal,
    });
    setTimeout(() => controller.abort(), 5);
    await expect(running).rejects.toThrow(InterruptedError);
  });

  it.each([
    [{ max_new_tokens: 5 }, "generate: unknown option max_new_tokens; did you mean maxNewTokens?"],
    [{ numBeam: 5 }, "generate: unknown option numBeam; did you mean numBeams?"],
    [{ guidance: 5 }, /unknown option guidance; known are image, prompt/],
    [{ temperature: 5 }, "generate: temperature is an option of sampling; it needs sample: true"],
    [{ numBeams: 0 }, /generate: numBeams is 0: .*>=1/],
    [{ maxNewTokens: 2.5, prompt: 3 }, /prompt is 3: .*; maxNewTokens is 2.5: /],
    [{ minNewTokens: 9, maxNewTokens: 3 }, "generate: minNewTokens is 9, more than maxNewTokens, which is 3"],
    [{ image: undefined }, "generate: image is required"],
    [{ maxNewTokens: 500 }, /the prompt of 1 tokens leaves room for 60 new ones in the model's 64 positions/],
    [{ image: 7 }, /image: a path, a file: URL/],
    [{ image: "no/such.png" }, "no/such.png: this picture does not exist"],
  ])("refuses %j by name", async (options, message) => {
    const run = model.generate({ image: images[0]!, ...options } as GenerateOptions);
    await expect(run).rejects.toThrow(UserError);
    await expect(model.generate({ image: images[0]!, ...options } as GenerateOptions)).rejects.toThrow(
      message,
    );
  });

  it("refuses prompts that do not belong to the pictures", async () => {
    await expect(model.generateBatch({ images, prompts: ["a"] })).rejects.toThrow(
      /3 images need as many prompts, got 1/,
    );
    await expect(model.generateBatch({ images, prompts: ["a", "b", "c"], prompt: "d" })).rejects.toThrow(
      /both given/,
    );
  });
});

describe("stream", () => {
  it.each([1, 2, 3])("gives the pieces of the greedy text, picture %i", async (seed) => {
    const options = { image: noise(seed), prompt: "a red", maxNewTokens: 25, minNewTokens: 20 };
    const pieces: string[] = [];
    for await (const piece of model.stream(options)) pieces.push(piece);
    expect(pieces.length).toBeGreaterThan(1);
    expect(pieces.every((piece) => piece !== "")).toBe(true);
    expect(pieces.join("")).toBe((await model.generate({ ...options, numBeams: 1 })).text);
  });

  it("ends when the caller leaves, and can be stopped", async () => {
    const long = { image: noise(1), prompt: "a red", maxNewTokens: 25, minNewTokens: 25 };
    for await (const piece of model.stream(long)) {
      expect(piece).not.toBe("");
      break;
    }
    const controller = new AbortController();
    const run = (async () => {
      const { signal } = controller;
      for await (const _ of model.stream({ ...long, signal })) controller.abort();
    })();
    await expect(run).rejects.toThrow(InterruptedError);
  });

  it("refuses beams", async () => {
    const stream = model.stream({ image: images[0]!, numBeams: 3 } as never);
    await expect(stream.next()).rejects.toThrow("stream: numBeams must be 1");
    const several = model.stream({ image: images[0]!, sample: true, numReturnSequences: 3 } as never);
    await expect(several.next()).rejects.toThrow("stream: numReturnSequences must be 1");
  });
});

describe("forward", () => {
  const pixelValues = float32Tensor(
    Float32Array.from({ length: 768 }, (_, i) => Math.sin(i)),
    [1, 3, 16, 16],
  );
  const ids = (text: readonly number[]) => {
    const image = model.config.image_token_index!;
    return { data: [image, image, image, ...text], dims: [1, 3 + text.length] };
  };

  it("gives every shape, and a loss with labels alone", async () => {
    const inputIds = ids([2, 5, 6]);
    const found = await model.forward({ pixelValues, inputIds });
    expect(found.logits.dims).toEqual([1, 6, model.config.text_config.vocab_size]);
    expect(found.visionFeatures.dims).toEqual([1, 5, 16]);
    expect(found.queryOutput.dims).toEqual([1, 3, 16]);
    expect(found.languageProjection.dims).toEqual([1, 3, 16]);
    expect(found.loss).toBeUndefined();
    const { loss } = await model.forward({
      pixelValues,
      inputIds,
      labels: { data: [-100, -100, -100, -100, 5, 6], dims: [1, 6] },
    });
    expect(loss!.dims).toEqual([]);
  });

  it("refuses what does not fit, by name", async () => {
    const cases = [
      [
        { pixelValues: { data: [1, 2], dims: [1, 3] }, inputIds: ids([2]) },
        /pixelValues has 2 values, dims \[1, 3\] need 3/,
      ],
      [
        { pixelValues: float32Tensor(new Float32Array(12), [1, 3, 2, 2]), inputIds: ids([2]) },
        /pixelValues must have dims \[1, 3, 16, 16\]/,
      ],
      [{ pixelValues, inputIds: { data: [2, 5], dims: [1, 2] } }, /must begin with 3 image tokens/],
      [
        { pixelValues, inputIds: ids([2, 5]), labels: { data: [1], dims: [1, 1] } },
        /labels must have dims \[1, 5\]/,
      ],
      [{ pixelValues, inputIds: { data: [1.5], dims: [1, 1] } }, /inputIds must hold whole numbers/],
      [
        { pixelValues, inputIds: ids([2]), decoderInputIds: ids([2]) },
        /decoderInputIds is for an encoder-decoder, this model is none/,
      ],
      [{ pixelValues, inputIds: ids([2]), input_ids: 1 }, /unknown option input_ids; did you mean inputIds/],
    ] as const;
    for (const [inputs, message] of cases)
      await expect(model.forward(inputs as never)).rejects.toThrow(message);
  });
});

describe("load", () => {
  const load = async (options: TinyModel) =>
    Blip2.load(await writeTinyModel(join(root, "changed"), options), { threads: 1 });

  it.each<[string, TinyModel, RegExp]>([
    [
      "another architecture",
      { config: { model_type: "blip" } },
      /config.json: model_type is "blip": "blip-2" is required/,
    ],
    [
      "another language model",
      { config: { text_config: { model_type: "llama" } } },
      /text_config.model_type is "llama": "opt" or "t5" is required/,
    ],
    [
      "T5 as a decoder",
      { config: { text_config: { model_type: "t5" } } },
      /use_decoder_only_language_model is true: false, for t5 is required/,
    ],
    [
      "words narrower than the soft prompt",
      { config: { text_config: { word_embed_proj_dim: 8 } } },
      /word_embed_proj_dim is 8: hidden_size 16, the width of the soft prompt is required/,
    ],
    [
      "text for the Q-Former",
      { config: { qformer_config: { use_qformer_text_input: true } } },
      /use_qformer_text_input is true/,
    ],
    [
      "quantised weights",
      { config: { quantization_config: { bits: 8 } } },
      /quantization_config is \{"bits":8\}/,
    ],
    [
      "a head of its own",
      { config: { text_config: { tie_word_embeddings: false } } },
      /tie_word_embeddings is false/,
    ],
    [
      "an unknown activation",
      { config: { vision_config: { hidden_act: "mish" } } },
      /vision_config.hidden_act is "mish"/,
    ],
    [
      "an oblong picture size",
      { files: { "preprocessor_config.json": { size: { height: 8, width: 16 } } } },
      /size is 16 x 8: a square is required/,
    ],
    [
      "a broken generation_config",
      { files: { "generation_config.json": { eos_token_id: "x" } } },
      /generation_config.json: eos_token_id/,
    ],
    [
      "a large tokenizer",
      { config: { text_config: { vocab_size: 100 } } },
      /has \d+ tokens, text_config.vocab_size in config.json is 100/,
    ],
  ])("refuses %s by name", async (_, options, message) => {
    await expect(load(options)).rejects.toThrow(UserError);
    await expect(load(options)).rejects.toThrow(message);
  });

  it("names every tensor that is missing, misshapen or not expected", async () => {
    const change: TinyModel["change"] = (tensors) => {
      tensors.delete("query_tokens");
      tensors.delete("language_projection.bias");
      tensors.set("vision_model.post_layernorm.weight", float32Tensor([1, 2], [2]));
      tensors.set("qformer.extra", float32Tensor([1], [1]));
    };
    const error: unknown = await load({ change }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UserError);
    for (const name of [
      "query_tokens",
      "language_projection.bias",
      "vision_model.post_layernorm.weight",
      "qformer.extra",
    ]) {
      expect((error as Error).message).toContain(name);
    }
  });

  it("passes over the tied head and buffers", async () => {
    const change: TinyModel["change"] = (tensors) => {
      tensors.set(
        "language_model.lm_head.weight",
        tensors.get("language_model.model.decoder.embed_tokens.weight")!,
      );
      tensors.set("qformer.embeddings.position_ids", float32Tensor([0, 1], [1, 2]));
    };
    await using changed = await load({ change });
    const options = { image: images[0]!, maxNewTokens: 4 };
    expect(await changed.generate(options)).toEqual(await model.generate(options));
  });

  it("takes its defaults from generation_config.json", async () => {
    const files = { "generation_config.json": { eos_token_id: "none", max_new_tokens: 3 } };
    await expect(load({ files })).rejects.toThrow(/eos_token_id/);
    await using short = await load({
      files: { "generation_config.json": { max_new_tokens: 3, num_beams: 1, min_new_tokens: 3 } },
    });
    expect((await short.generate({ image: images[0]! })).tokenIds).toHaveLength(3);
    expect((await short.generate({ image: images[0]!, maxNewTokens: 2 })).tokenIds).toHaveLength(2);
  });

  it.each([
    [
      ["Salesforce/blip2-opt-2.7b"],
      /^Salesforce\/blip2-opt-2.7b \(revision main\): there is no folder Salesforce\/blip2-opt-2.7b, and the cache \/no\/such\/cache has no copy/,
    ],
    [["/no/such/folder"], /\/no\/such\/folder: this folder does not exist/],
    [["/no/such/folder", { precision: "int8" }], /this folder does not exist/],
    [["/no/such/folder", { thread: 2 }], /load: unknown option thread; did you mean threads/],
  ])("refuses %j", async (words, message) => {
    // No test asks the network.
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    vi.stubEnv("HF_HUB_CACHE", "/no/such/cache");
    try {
      await expect(Blip2.load(...(words as [string]))).rejects.toThrow(UserError);
      await expect(Blip2.load(...(words as [string]))).rejects.toThrow(message);
    } finally {
      vi.unstubAllEnvs();
    }
  });

  it("stops on request", async () => {
    const run = Blip2.load(join(root, "tiny"), { signal: AbortSignal.abort() });
    await expect(run).rejects.toThrow(InterruptedError);
  });
});
