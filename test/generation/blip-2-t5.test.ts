import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import { float32Tensor, type HostTensor } from "../../src/host-tensor.js";
import { Blip2 } from "../../src/index.js";
import { temporaryFolder } from "./tiny-model.js";
import { tinyT5Config, writeTinyT5 } from "./tiny-t5.js";

const noise = (seed: number, size = 16) => {
  const data = Uint8Array.from(
    { length: size * size * 3 },
    (_, i) => (Math.imul(i + 7, seed * 2654435761) >>> 11) % 256,
  );
  return { data, width: size, height: size, channels: 3 } as const;
};
const images = [noise(1), noise(2, 24), noise(3)];

let root: string;
let model: Blip2;
beforeAll(async () => {
  root = await temporaryFolder();
  model = await Blip2.load(await writeTinyT5(join(root, "tiny")), { threads: 1 });
});
afterAll(async () => {
  await model.close();
  await rm(root, { recursive: true });
});

describe("BLIP-2 with T5", () => {
  it("gives a batch what it gives each picture alone, with prompts of different length", async () => {
    const prompts = ["a red star", undefined, "Question: what is this? Answer:"];
    for (const settings of [{ numBeams: 1 }, { numBeams: 3 }, { numBeams: 1, repetitionPenalty: 1.5 }]) {
      const options = { ...settings, maxNewTokens: 8, minNewTokens: 3 };
      const together = await model.generateBatch({ images, prompts, ...options });
      expect(new Set(together.map(({ logProbability }) => logProbability)).size).toBe(3);
      for (const [i, image] of images.entries()) {
        const alone = await model.generate({ image, prompt: prompts[i], ...options });
        expect(together[i]!.tokenIds).toEqual(alone.tokenIds);
        expect(together[i]!.text).toBe(alone.text);
        expect(together[i]!.logProbability).toBeCloseTo(alone.logProbability, 4);
      }
    }
  });

  it("takes an empty prompt as none: both are the end token", async () => {
    const [none, empty] = [undefined, ""].map((prompt) =>
      model.generate({ image: images[0]!, prompt, maxNewTokens: 4 }),
    );
    expect(await none).toEqual(await empty);
  });

  it("streams the greedy text", async () => {
    const options = { image: images[0]!, prompt: "a red", maxNewTokens: 12, minNewTokens: 10 };
    const streamed: string[] = [];
    for await (const piece of model.stream(options)) streamed.push(piece);
    expect(streamed.length).toBeGreaterThan(1);
    expect(streamed.join("")).toBe((await model.generate({ ...options, numBeams: 1 })).text);
  });

  it("holds an answer's stream back until the model's marker has come, but no caption's", async () => {
    const marked = await writeTinyT5(join(root, "marked"));
    const file = join(marked, "generation_config.json");
    const known = await readFile(file, "utf8").catch(() => "{}");
    const asking = { question_format: "Question: {}", answer_after: "never said" };
    await writeFile(file, JSON.stringify({ ...(JSON.parse(known) as object), ...asking }));
    await using asked = await Blip2.load(marked, { threads: 1 });
    expect([asked.questionFormat, asked.answerAfter]).toEqual(["Question: {}", "never said"]);
    const pieces = async (prompt?: string): Promise<string[]> => {
      const found: string[] = [];
      const options = { image: images[0]!, prompt, maxNewTokens: 12, minNewTokens: 10 };
      for await (const piece of asked.stream(options)) found.push(piece);
      expect(found.join("")).toBe((await asked.generate({ ...options, numBeams: 1 })).text);
      return found;
    };
    expect((await pieces()).length).toBeGreaterThan(1);
    expect(await pieces("a red")).toHaveLength(1);
  });

  it("refuses contrastive search, which needs hidden states", async () => {
    const run = model.generate({ image: images[0]!, penaltyAlpha: 0.6, topK: 4 });
    await expect(run).rejects.toThrow(/penaltyAlpha: contrastive search needs hidden states/);
  });

  it("knows no longest text", async () => {
    const options = { image: images[0]!, numBeams: 1, minNewTokens: 70, maxNewTokens: 70 };
    expect((await model.generate(options)).tokenIds).toHaveLength(70);
  });

  describe("load", () => {
    const options = { image: images[0]!, maxNewTokens: 4, minNewTokens: 4 };
    const altered = async (change: (tensors: Map<string, HostTensor>) => void, text: object = {}) => {
      const config = {
        ...tinyT5Config,
        text_config: { ...(tinyT5Config["text_config"] as object), ...text },
      };
      return Blip2.load(await writeTinyT5(join(root, "altered"), { config, change }), { threads: 1 });
    };
    const name = (table: string) => `language_model.${table}.weight`;

    it("passes over copies of the word table and a bias that nothing reads", async () => {
      await using copied = await altered((tensors) => {
        for (const stack of ["encoder", "decoder"])
          tensors.set(name(`${stack}.embed_tokens`), tensors.get(name("shared"))!);
        const bias = name("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias");
        tensors.set(bias, float32Tensor(new Float32Array(64), [32, 2]));
      });
      expect(await copied.generate(options)).toEqual(await model.generate(options));
    });

    it("takes the word table under the name of a copy", async () => {
      await using renamed = await altered((tensors) => {
        tensors.set(name("encoder.embed_tokens"), tensors.get(name("shared"))!);
        tensors.delete(name("shared"));
      });
      expect(await renamed.generate(options)).toEqual(await model.generate(options));
    });

    it("ties the head that a file does not have, and scales what it reads as the config says", async () => {
      const tie = (tensors: Map<string, HostTensor>) => tensors.delete(name("lm_head"));
      const copy = (tensors: Map<string, HostTensor>) =>
        tensors.set(name("lm_head"), tensors.get(name("shared"))!);
      const probability = async (change: typeof tie | typeof copy, text: object) => {
        await using tied = await altered(change, text);
        return (await tied.generate(options)).logProbability;
      };
      const unscaled = await probability(tie, { tie_word_embeddings: true, scale_decoder_outputs: false });
      const scaled = await probability(tie, { tie_word_embeddings: true });
      expect(scaled).not.toBeCloseTo(unscaled, 3);
      expect(await probability(copy, { tie_word_embeddings: false })).toBeCloseTo(unscaled, 5);
      expect(await probability(copy, { tie_word_embeddings: true })).toBeCloseTo(scaled, 5);
    });

    it("names every tensor that does not fit", async () => {
      const load = altered((tensors) => {
        tensors.delete(name("encoder.block.0.layer.0.SelfAttention.relative_attention_bias"));
        tensors.set(name("model.decoder.embed_tokens"), tensors.get(name("shared"))!);
      });
      await expect(load).rejects.toThrow(UserError);
      await expect(load).rejects.toThrow(
        /missing:\s+language_model.encoder.block.0.*relative_attention_bias.*\n.*not expected:\s+.*model.decoder/s,
      );
    });
  });
});
