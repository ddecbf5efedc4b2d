/** What callers ask too much of, or bring in the wrong form, is refused by name before anything is computed; and how calls end. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { InterruptedError, UserError } from "../../src/errors.js";
import { GreedySearch } from "../../src/generation/search/greedy.js";
import { Blip2, type ForwardInputs } from "../../src/index.js";
import { usual } from "./fake-stepper.js";
import { temporaryFolder, writeTinyModel } from "./tiny-model.js";
import { writeTinyT5 } from "./tiny-t5.js";

let root: string;
let opt: Blip2;
let t5: Blip2;
const image = { data: new Uint8Array(16 * 16 * 3).fill(90), width: 16, height: 16, channels: 3 } as const;

beforeAll(async () => {
  root = await temporaryFolder();
  opt = await Blip2.load(await writeTinyModel(join(root, "opt")), { threads: 1 });
  t5 = await Blip2.load(await writeTinyT5(join(root, "t5")), { threads: 1 });
});
afterAll(async () => {
  await opt.close();
  await t5.close();
  await rm(root, { recursive: true });
});

const refusal = async (work: Promise<unknown>): Promise<string> => {
  const error: unknown = await work.then(
    () => undefined,
    (failed: unknown) => failed,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).message;
};

describe("long prompts", () => {
  const words = (count: number): string => "red ".repeat(count).trim();

  it("are refused above a stated limit where positions do not bound them, which an option raises", async () => {
    const long = { image, prompt: words(2100), maxNewTokens: 1, numBeams: 1 };
    expect(await refusal(t5.generate(long))).toMatch(
      /generate: the prompt has \d+ tokens, at most 2048 are taken, .*raise maxPromptTokens/,
    );
    await t5.generate({ ...long, maxPromptTokens: 4000 });
    expect(await refusal(t5.generate({ ...long, prompt: words(40), maxPromptTokens: 20 }))).toContain(
      "at most 20",
    );
  });

  it("are refused by their characters before they are cut into tokens, on every way in", async () => {
    const prompt = "x".repeat(2048 * 32 + 1);
    for (const [call, work] of [
      ["generate", t5.generate({ image, prompt })],
      ["generateBatch", t5.generateBatch({ images: [image], prompt })],
      ["generateWithoutPicture", t5.generateWithoutPicture({ prompts: [prompt] })],
      ["generateWithoutPicture", t5.generateWithoutPicture({ prompts: ["x"], descriptions: [prompt] })],
      ["stream", t5.stream({ image, prompt }).next()],
      ["generate", opt.generate({ image, prompt })],
    ] as const) {
      const message = await refusal(work);
      expect(message).toMatch(new RegExp(`^${call}: the prompt has \\d+ characters, at most \\d+ are taken`));
      expect(message.length).toBeLessThan(200);
    }
    await using chat = await t5.chat({ image });
    expect(await refusal(chat.ask(prompt))).toContain("characters");
  });

  it("bound the new tokens too", async () => {
    expect(await refusal(t5.generate({ image, maxNewTokens: 20_000 }))).toContain("maxNewTokens is 20000");
  });
});

describe("minNewTokens", () => {
  it("1 brings a token where the end is the likeliest; 0, the default, does not", () => {
    // Id 5 is the end, and the likeliest from the start.
    const logits = Float32Array.from([0, 1, 2, 0, 0, 9]);
    const tokens = (minNewTokens: number): readonly number[] => {
      const search = new GreedySearch({ ...usual, minNewTokens, endIds: [5], maxNewTokens: 3 }, []);
      for (let step = 0; step < 3 && search.next([logits]).length > 0; step++);
      return search.results[0]!.tokenIds;
    };
    expect(tokens(0)).toEqual([5]);
    expect(tokens(1)).toEqual([2, 5]);
    expect(tokens(2)).toEqual([2, 2, 5]);
  });
});

describe("forward", () => {
  const pixelValues = { data: new Float32Array(3 * 16 * 16), dims: [1, 3, 16, 16] };
  const tensor = (data: readonly number[]) => ({ data, dims: [1, data.length] });
  const inputs = (model: Blip2, text: readonly number[]): ForwardInputs => {
    const { image_token_index: token, num_query_tokens: queries } = model.config;
    return { pixelValues, inputIds: tensor([...Array<number>(queries).fill(token!), ...text]) };
  };
  const vocabulary = (model: Blip2): number => model.config.text_config.vocab_size;

  it("takes what is right, also in memory that threads share", async () => {
    const plain = await opt.forward(inputs(opt, [2, 5]));
    const shared = new Float32Array(new SharedArrayBuffer(4 * 3 * 16 * 16));
    const found = await opt.forward({
      ...inputs(opt, [2, 5]),
      pixelValues: { data: shared, dims: [1, 3, 16, 16] },
    });
    expect(found.logits).toEqual(plain.logits);
    await t5.forward({ ...inputs(t5, [3, 1]), labels: tensor([4, 1]) });
  });

  it.each<[string, (model: Blip2) => ForwardInputs, RegExp]>([
    ["a negative id", (m) => inputs(m, [2, -5]), /inputIds holds -5; ids from 0 to/],
    ["an id beyond the vocabulary", (m) => inputs(m, [2, vocabulary(m)]), /inputIds holds \d+; ids from 0/],
    [
      "a mask of other numbers",
      (m) => ({ ...inputs(m, [2, 5]), attentionMask: tensor([1, 1, 1, 2, 1]) }),
      /attentionMask holds 2; 0 and 1/,
    ],
    [
      "a mask of nothing",
      (m) => ({ ...inputs(m, [2, 5]), attentionMask: tensor([0, 0, 0, 0, 0]) }),
      /row 0 of attentionMask is 0 everywhere/,
    ],
    [
      "a mask of another length",
      (m) => ({ ...inputs(m, [2, 5]), attentionMask: tensor([1]) }),
      /attentionMask must have dims \[1, 5\]/,
    ],
    [
      "labels beyond the vocabulary",
      (m) => ({ ...inputs(m, [2, 5]), labels: tensor([-100, -100, -100, 3, vocabulary(m)]) }),
      /labels holds \d+; ids from 0 to \d+ and -100/,
    ],
    [
      "pixels that are not numbers",
      (m) => ({
        ...inputs(m, [2]),
        pixelValues: { data: new Float32Array(768).fill(NaN), dims: [1, 3, 16, 16] },
      }),
      /pixelValues holds NaN at place 0/,
    ],
    [
      "no picture",
      (m) => ({ ...inputs(m, [2]), pixelValues: { data: [], dims: [0, 3, 16, 16] } }),
      /no picture/,
    ],
    [
      "a size that is none",
      (m) => ({ ...inputs(m, [2]), pixelValues: { data: [], dims: [-1, 3, 16, 16] } }),
      /a size of -1 in dims/,
    ],
    ["text without end", (m) => inputs(m, Array<number>(100).fill(5)), /come to 103 positions, at most 64/],
  ])("names %s, with no line of the runtime's", async (_, inputsOf, message) => {
    expect(await refusal(opt.forward(inputsOf(opt)))).toMatch(message);
  });

  it.each<[string, object, RegExp]>([
    ["no decoder ids at all", {}, /needs labels or decoderInputIds/],
    ["empty decoder ids", { decoderInputIds: { data: [], dims: [1, 0] } }, /decoderInputIds/],
    [
      "decoder ids beyond the vocabulary",
      { decoderInputIds: tensor([4, 9999]) },
      /decoderInputIds holds 9999/,
    ],
    [
      "a decoder mask of other numbers",
      { decoderInputIds: tensor([4, 5]), decoderAttentionMask: tensor([1, 7]) },
      /decoderAttentionMask holds 7/,
    ],
  ])("names %s", async (_, more, message) => {
    expect(await refusal(t5.forward({ ...inputs(t5, [3, 1]), ...more }))).toMatch(message);
  });
});

it("weights that are not numbers are the checkpoint's fault, and named so", async () => {
  const folder = await writeTinyModel(join(root, "nan"), {
    change: (tensors) => {
      const head = tensors.get("language_model.model.decoder.final_layer_norm.weight")!;
      (head.data as Float32Array).fill(NaN);
    },
  });
  await using broken = await Blip2.load(folder, { threads: 1 });
  expect(await refusal(broken.generate({ image }))).toMatch(/not numbers: its weights hold values/);
});

describe("the end of a call", () => {
  it("closing lets calls under way finish, and refuses later ones as a caller's mistake", async () => {
    const model = await Blip2.load(await writeTinyModel(join(root, "closing")), { threads: 1 });
    const under = [model.generate({ image, maxNewTokens: 20, minNewTokens: 20 }), model.look(image)] as const;
    const late = model.close();
    expect(await refusal(model.generate({ image }))).toMatch(/this model has been closed; load it again/);
    expect((await under[0]).tokenIds).toHaveLength(20);
    await under[1];
    await late;
    await model.close();
    for (const work of [model.generate({ image }), model.look(image), model.stream({ image }).next()])
      expect(await refusal(work)).toMatch(/this model has been closed/);
  });

  it("an abort rejects with the reason as its cause, under the name that callers know", async () => {
    const reason = new Error("enough");
    const aborted = await opt
      .generate({ image, signal: AbortSignal.abort(reason) })
      .catch((error: unknown) => error);
    expect(aborted).toBeInstanceOf(InterruptedError);
    expect(aborted).toMatchObject({ name: "AbortError", cause: reason });
    const late = AbortSignal.timeout(1);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const timed = await opt.generate({ image, signal: late }).catch((error: unknown) => error);
    expect(timed).toMatchObject({ name: "TimeoutError", cause: { name: "TimeoutError" } });
    const loading = await Blip2.load(join(root, "opt"), { signal: AbortSignal.abort(reason) }).catch(
      (error: unknown) => error,
    );
    expect(loading).toMatchObject({ name: "AbortError", cause: reason });
  });
});
