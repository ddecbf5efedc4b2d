/** T5 in few bits: near the exact numbers of transformers, and generating what its own logits say. */
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { JsonObject } from "../../src/files/json-file.js";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { Blip2 } from "../../src/generation/blip-2.js";
import { Blip2Runner } from "../../src/generation/blip-2-runner.js";
import type { EncoderDecoder } from "../../src/generation/encoder-decoder.js";
import { generateTokens } from "../../src/generation/search/generate.js";
import type { Prompt } from "../../src/generation/search/stepper.js";
import { float32Tensor, int64Tensor, type HostTensor } from "../../src/host-tensor.js";
import { blip2Config } from "../../src/models/blip-2.js";
import type { Precision } from "../../src/loading/precision.js";
import { goldenNames, readGoldenCase } from "../golden-case.js";
import { sliceOf, testDevice } from "../nn/evaluate.js";
import { rowsOf } from "./golden.js";
import { temporaryFolder, writeGoldenModel } from "./tiny-model.js";
import { tinyT5Config, writeTinyT5 } from "./tiny-t5.js";

const device = testDevice();
let root: string;
beforeAll(async () => {
  root = await temporaryFolder();
});
afterAll(async () => {
  await device.close();
  await rm(root, { recursive: true });
});

/** The difference's root mean square over that of the exact values. */
function error({ data: ours }: HostTensor, { data: theirs }: HostTensor): number {
  const square = (list: readonly number[]): number => list.reduce((sum, value) => sum + value * value, 0);
  const exact = [...(theirs as Float32Array)];
  return Math.sqrt(square(exact.map((value, i) => Number(ours[i]) - value)) / square(exact));
}

/** The most likely id of each position, but never `without`. logits: [B, T, V] */
function choices({ data, dims }: HostTensor, without: number): number[][] {
  const [batch, length, vocabulary] = dims as [number, number, number];
  return Array.from({ length: batch }, (_, b) =>
    Array.from({ length }, (_, t) => {
      const start = (b * length + t) * vocabulary;
      const row = [...(data as Float32Array).subarray(start, start + vocabulary)];
      row[without] = -Infinity;
      return row.indexOf(Math.max(...row));
    }),
  );
}

type Weights = ReadonlyMap<string, HostTensor>;

/** The weights with every matrix of the language model's layers rounded, row by row, to so many steps on either side. */
function rounded(weights: Weights, steps: number): Weights {
  const isLayer = (name: string): boolean =>
    /^language_model\.(en|de)coder\.block\./.test(name) && !name.includes("relative_attention_bias");
  const round = (tensor: HostTensor): HostTensor => {
    const width = tensor.dims[1]!;
    const values = tensor.data as Float32Array;
    const data = values.map((value, i) => {
      const start = i - (i % width);
      const step = Math.max(...values.subarray(start, start + width).map(Math.abs)) / steps;
      return step === 0 ? 0 : Math.round(value / step) * step;
    });
    return float32Tensor(data, tensor.dims);
  };
  return new Map(
    [...weights].map(([name, tensor]) => [
      name,
      isLayer(name) && tensor.dims.length === 2 ? round(tensor) : tensor,
    ]),
  );
}

describe.each(goldenNames("t5", "blip2-t5"))("%s in few bits", async (name) => {
  const golden = await readGoldenCase<JsonObject>("t5", name);
  const config = blip2Config(golden.config);
  const queries = config.num_query_tokens;
  const [ids, labels] = [golden.inputs["input_ids"]!, golden.inputs["labels"]!];
  const batch = ids.dims[0]!;
  const endId = Number(config.text_config.eos_token_id);

  const load = async (precision: Precision, weights: Weights = golden.weights) => {
    const folder = await writeGoldenModel(await mkdtemp(join(root, name)), { ...golden, weights });
    const opened = await readModelFolder(folder);
    const runner = await Blip2Runner.load(device, config, opened.weights, { precision });
    const prompt: Prompt = {
      embeddings: golden.outputs["language_projection"]!,
      ids: sliceOf(ids, 1, queries, ids.dims[1]!),
      mask: golden.inputs["attention_mask"]!,
      decoderStartId: 0,
    };
    const decoder = runner.languageModel as EncoderDecoder;
    const logits = (rows: readonly (readonly number[])[]): Promise<HostTensor> => {
      const dims = [rows.length, rows[0]!.length];
      const ones = int64Tensor(rows.flat().fill(1), dims);
      return decoder.forward(prompt, { ids: int64Tensor(rows.flat(), dims), mask: ones });
    };
    return { decoder, prompt, logits };
  };
  const behindStart = rowsOf(labels).map((row) => [0, ...row.slice(0, -1).map((id) => Math.max(0, id))]);

  it("is as near the exact one as weights rounded so far allow, and int8 nearer than int4", async () => {
    const errorOf = async (precision: Precision, weights?: Weights): Promise<number> =>
      error(await (await load(precision, weights)).logits(behindStart), golden.outputs["logits"]!);
    const [int8, int4] = [await errorOf("int8"), await errorOf("int4")];
    // Random weights of this size amplify every error, so the measure is what rounding them does to an exact model. What
    // is read is rounded too, to 8 bits.
    expect(int8 / (await errorOf("fp32", rounded(golden.weights, 127)))).toBeLessThan(2.5);
    expect(int4 / (await errorOf("fp32", rounded(golden.weights, 7)))).toBeLessThan(2);
    expect(int8).toBeGreaterThan(0.001);
    expect(int4).toBeGreaterThan(int8);
  });

  it.each(["int8", "int4"] as const)(
    "writes in %s what its logits say, token by token",
    async (precision) => {
      const { decoder, prompt, logits } = await load(precision);
      const found = await generateTokens(decoder.begin(), prompt, {
        maxNewTokens: 7,
        minNewTokens: 7,
        numBeams: 1,
        numReturnSequences: 1,
        lengthPenalty: 1,
        earlyStopping: false,
        repetitionPenalty: 1,
        endIds: [endId],
      });
      const written = found.map(([sequence]) => sequence!.tokenIds);
      expect(written.map((tokens) => tokens.length)).toEqual(Array<number>(batch).fill(7));
      const behind = written.map((tokens) => [0, ...tokens.slice(0, -1)]);
      expect(choices(await logits(behind), endId)).toEqual(written);
    },
  );
});

describe("a T5 folder in few bits", () => {
  const tied: JsonObject = {
    ...tinyT5Config,
    text_config: { ...(tinyT5Config["text_config"] as object), tie_word_embeddings: true },
  };
  const name = (table: string): string => `language_model.${table}.weight`;
  const image = { data: new Uint8Array(16 * 16 * 3).fill(90), width: 16, height: 16, channels: 3 } as const;

  it.each([
    ["a head of its own", tinyT5Config, () => undefined],
    ["a tied head", tied, () => undefined],
    [
      "the word table under the name of a copy",
      tied,
      (tensors: Map<string, HostTensor>) => {
        tensors.set(name("decoder.embed_tokens"), tensors.get(name("shared"))!);
        tensors.delete(name("shared"));
      },
    ],
    [
      "copies of the word table",
      tied,
      (tensors: Map<string, HostTensor>) => {
        for (const stack of ["encoder", "decoder"])
          tensors.set(name(`${stack}.embed_tokens`), tensors.get(name("shared"))!);
      },
    ],
  ] as const)("with %s loads, and again from its copy", async (what, config, change) => {
    const folder = await writeTinyT5(join(root, what), { config, change });
    const options = { image, prompt: "a red star", numBeams: 1, maxNewTokens: 5, minNewTokens: 5 };
    const probability = async (precision: Precision): Promise<number> => {
      await using model = await Blip2.load(folder, { precision, threads: 1 });
      return (await model.generate(options)).logProbability;
    };
    for (const precision of ["int8", "int4"] as const) {
      const first = await probability(precision);
      expect(await probability(precision)).toBe(first);
      expect(first).not.toBe(await probability("fp32"));
    }
  });
});
