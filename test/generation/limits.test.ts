/** What callers ask too much of, or bring in the wrong form, is refused by name before anything is computed; and how calls end. */
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { InterruptedError, UserError } from "../../src/errors.js";
import { GreedySearch } from "../../src/generation/search/greedy.js";
import { Blip2Runner } from "../../src/generation/blip-2-runner.js";
import { Blip2, type ForwardInputs, type Generated } from "../../src/index.js";
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

  it("are held to maxPromptTokens where positions bound them, too, and cannot be raised beyond these", async () => {
    expect(await refusal(opt.generate({ image, prompt: "red ".repeat(20), maxPromptTokens: 10 }))).toMatch(
      /the prompt has \d+ tokens, at most 10 are taken/,
    );
    expect(await refusal(opt.generate({ image, prompt: "x".repeat(3000), maxPromptTokens: 9000 }))).toMatch(
      /the prompt has 3000 characters, at most 1024 are taken/,
    );
  });

  it("have no room, which is said without cutting them into tokens", async () => {
    const endless = "x".repeat(10_000_000);
    for (const model of [opt, t5]) {
      expect(model.hasRoomFor(endless)).toBe(false);
      expect(model.contextLength(endless)).toBe(Infinity);
      expect(model.hasRoomFor("a red")).toBe(true);
    }
    expect(t5.hasRoomFor(words(2100))).toBe(false);
    await using chat = await t5.chat({ image, context: 3000 });
    await chat.ask(words(2100), { maxNewTokens: 1 });
    expect(await refusal(chat.ask(endless))).toMatch(
      /10000000 characters, too many for a context of 3000 tokens/,
    );
  });

  it("bound the new tokens too", async () => {
    expect(await refusal(t5.generate({ image, maxNewTokens: 20_000 }))).toContain("maxNewTokens is 20000");
  });
});

describe("memory", () => {
  const prompts = ["a red star", "a", "two blue cats and a red star", "a red", "two"];
  const images = prompts.map((_, i) => ({ ...image, data: image.data.map((value) => value + i * 20) }));

  it.each([{ numBeams: 1 }, { numBeams: 3, numReturnSequences: 2 }, { sample: true, numReturnSequences: 3 }])(
    "bounds what is run together, and no text changes: %j",
    async (search) => {
      for (const model of [opt, t5]) {
        const prefills = vi.spyOn(Blip2Runner.prototype, "softPrompts");
        const options = { images, prompts, maxNewTokens: 5, minNewTokens: 5, ...search };
        const together = await model.generateBatch(options);
        expect(prefills).toHaveBeenCalledTimes(1);
        // The least in which one prompt has room.
        const least = async <T>(call: (maxMemory: number) => Promise<T>): Promise<T> => {
          for (let most = 10_000; most < 1e7; most *= 1.2) {
            const found = await call(most).catch((error: unknown) => error);
            if (!(found instanceof UserError)) return found as T;
          }
          throw new Error("never has room");
        };
        const apart = await least((maxMemory) => model.generateBatch({ ...options, maxMemory }));
        expect(prefills.mock.calls.length).toBeGreaterThan(3);
        prefills.mockRestore();
        const ids = (found: readonly Generated[]) =>
          found.map(({ tokenIds, sequences }) => sequences?.map((one) => one.tokenIds) ?? tokenIds);
        expect(ids(apart)).toEqual(ids(together));
        const plain = { prompts, numBeams: 1, maxNewTokens: 4 };
        const few = await least((maxMemory) => model.generateWithoutPicture({ ...plain, maxMemory }));
        expect(ids(few)).toEqual(ids(await model.generateWithoutPicture(plain)));
      }
    },
  );

  it("is refused to one prompt that would take too much, by name", async () => {
    for (const model of [opt, t5]) {
      const few = { image, maxNewTokens: 5, maxMemory: 1000 };
      const message =
        /a prompt of \d+ positions, 5 new tokens and 5 sequences at once would take about .* GiB beside the weights, .* fewer beams or texts, or raise maxMemory/;
      expect(await refusal(model.generate(few))).toMatch(message);
      expect(await refusal(model.generateBatch({ images, ...few, image: undefined } as never))).toContain(
        "unknown",
      );
      expect(await refusal(model.stream({ ...few }).next())).toContain("maxMemory");
    }
    // As it would be for a large model: nothing of it is reserved before it is refused.
    const huge = { image, prompt: "red ".repeat(60_000).trim(), maxPromptTokens: 100_000, maxNewTokens: 1 };
    expect(await refusal(t5.generate({ ...huge, numBeams: 1 }))).toMatch(/would take about \d+ GiB/);
  });
});

describe("lengths that a model's file asks for", () => {
  const load = async (folder: string, json: object, onNotice?: (notice: string) => void): Promise<Blip2> => {
    const path = await writeTinyModel(join(root, folder));
    const file = join(path, "generation_config.json");
    const known = JSON.parse(await readFile(file, "utf8")) as object;
    await writeFile(file, JSON.stringify({ ...known, ...json }));
    return Blip2.load(path, { threads: 1, onNotice });
  };

  it("count each prompt of a batch for itself", async () => {
    await using model = await load("max-length", { max_length: 16, min_length: 12, num_beams: 1 });
    const prompts = ["a red star on grass", undefined, "two"];
    const images = prompts.map(() => image);
    const together = await model.generateBatch({ images, prompts });
    for (const [i, prompt] of prompts.entries()) {
      const alone = await model.generate({ image, prompt });
      expect(together[i]!.tokenIds).toEqual(alone.tokenIds);
      const most = 16 - (model.contextLength(prompt ?? "", 0) || 0);
      expect(alone.tokenIds.length).toBeLessThanOrEqual(most);
      expect(alone.tokenIds.length).toBeGreaterThanOrEqual(Math.min(most, 12 - (16 - most)));
    }
    const long = { image, prompt: "two blue cats and a house in snow, two blue cats" };
    expect(await refusal(model.generate(long))).toMatch(
      /max_length .* is 16, and \d+ positions .* give maxNewTokens/,
    );
    await model.generate({ ...long, maxNewTokens: 2 });
    // A chat leaves out turns rather than come to that.
    await using chat = await model.chat({ image, format: "{}" });
    for (const question of ["a red", "two", "a red star", "cats"]) await chat.ask(question);
    expect(chat.forgotten).toBeGreaterThan(0);
  });

  it("give way to the model's positions", async () => {
    for (const lengths of [{ max_new_tokens: 1e9 }, { max_length: 1e9 }, { max_new_tokens: 64 }]) {
      await using model = await load("long", { ...lengths, num_beams: 1 });
      expect((await model.generate({ image, prompt: "a red" })).tokenIds.length).toBeLessThan(62);
      expect(model.hasRoomFor("a red")).toBe(true);
      await using chat = await model.chat({ image });
      await chat.ask("what?", { maxNewTokens: 2 });
    }
  });

  it("name what is passed over once, to who listens or as a warning of the process", async () => {
    const odd = { min_p: 0.2, toString: 3, encoder_no_repeat_ngram_size: 4, transformers_version: "9" };
    const notices: string[] = [];
    await (await load("odd", odd, (notice) => notices.push(notice))).close();
    expect(notices).toEqual([
      expect.stringMatching(
        /generation_config.json: passed over, .*: min_p 0.2, toString 3, encoder_no_repeat_ngram_size 4$/,
      ),
    ]);
    const warning = vi.spyOn(process, "emitWarning").mockImplementation(() => undefined);
    await (await load("odd", odd)).close();
    expect(warning.mock.calls.map(([text]) => text)).toEqual(notices);
    warning.mockRestore();
  });

  it.each([
    [
      { pad_token_id: 9999 },
      /generation_config.json: pad_token_id is 9999, the model's vocabulary has \d+ tokens/,
    ],
    [{ forced_eos_token_id: 9999 }, /generation_config.json: forced_eos_token_id is 9999/],
    [{ eos_token_id: [3, 9999] }, /generation_config.json: eos_token_id is 3, 9999/],
    [{ num_beams: "5" }, /generation_config.json: num_beams is "5"/],
  ])("refuse %j with file and key", async (json, message) => {
    expect(await refusal(load("refused", json))).toMatch(message);
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

  it("takes memory that may grow, and 64-bit ids as they are", async () => {
    const { pixelValues: _, ...rest } = inputs(opt, [2, 5]);
    const growing = new Float32Array(
      Reflect.construct(ArrayBuffer, [4 * 768, { maxByteLength: 8000 }]) as ArrayBuffer,
    );
    const ids = BigInt64Array.from([...(rest.inputIds.data as number[])], BigInt);
    const found = await opt.forward({
      pixelValues: { data: growing, dims: [1, 3, 16, 16] },
      inputIds: { data: ids, dims: [1, 5] },
    });
    expect(found.logits).toEqual((await opt.forward(inputs(opt, [2, 5]))).logits);
  });

  it.each<[string, (model: Blip2) => ForwardInputs, RegExp]>([
    [
      "a null among numbers",
      (m) => ({ ...inputs(m, [2]), pixelValues: { data: Array(768).fill(null), dims: [1, 3, 16, 16] } }),
      /pixelValues holds null at place 0; numbers are required/,
    ],
    [
      "digits in the place of numbers",
      (m) => ({ ...inputs(m, [2]), attentionMask: { data: ["1", 1, 1, 1] as never, dims: [1, 4] } }),
      /attentionMask holds "1" at place 0/,
    ],
    [
      "half floats, which are held as bits",
      (m) => ({
        ...inputs(m, [2]),
        pixelValues: { dtype: "float16", data: new Uint16Array(768), dims: [1, 3, 16, 16] } as never,
      }),
      /pixelValues is of float16/,
    ],
    [
      "data that are no numbers",
      (m) => ({ ...inputs(m, [2]), pixelValues: { data: "x".repeat(768) as never, dims: [1, 3, 16, 16] } }),
      /pixelValues must be a tensor/,
    ],
    [
      "no labels where some are announced",
      (m) => ({ ...inputs(m, [2]), labels: null as never }),
      /labels must be a tensor/,
    ],
    [
      "a fraction",
      (m) => ({ ...inputs(m, [2]), labels: tensor([0.5, 1, 1, 1]) }),
      /labels must hold whole numbers, 0.5/,
    ],
    [
      "ids of other rows",
      (m) => ({ ...inputs(m, [2]), inputIds: { data: [], dims: [0, 0] } }),
      /inputIds must have dims \[1, 0\]/,
    ],
    [
      "too much at once",
      (m) => ({ ...inputs(m, [2, 5]), maxMemory: 5000 }),
      /a batch of 1 rows of 5 positions would take about/,
    ],
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
    ["labels beyond the vocabulary as such", { labels: tensor([4, 9999]) }, /labels holds 9999/],
    ["negative labels as such", { labels: tensor([-1, 4]) }, /labels holds -1/],
    [
      "null for a mask",
      { labels: tensor([4]), decoderAttentionMask: null },
      /decoderAttentionMask must be a tensor/,
    ],
    ["too many decoder ids", { labels: tensor(Array<number>(2100).fill(4)) }, /come to 2100 positions/],
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

describe("weights that are not numbers", () => {
  const broken = async (folder: string, name: RegExp, places: (data: Float32Array) => Float32Array) =>
    Blip2.load(
      await writeTinyModel(join(root, folder), {
        change: (tensors) => {
          for (const [key, { data }] of tensors) if (name.test(key)) places(data as Float32Array).fill(NaN);
        },
      }),
      { threads: 1 },
    );

  it.each([
    [
      "the language model's",
      /decoder\.final_layer_norm\.weight/,
      /logits .* are not numbers: its weights hold values/,
    ],
    ["one row of its words", /embed_tokens/, /logits .* are not numbers: its weights hold values/],
    [
      "the image encoder's",
      /vision_model\.post_layernorm/,
      /sees in the picture are not numbers: the weights of its image/,
    ],
    ["the projection's", /language_projection\.bias/, /sees in the picture are not numbers/],
  ])("are the checkpoint's fault, and named so: %s", async (_, name, message) => {
    // Of the word table only the last row: a token that no prompt has.
    const part = (data: Float32Array): Float32Array =>
      name.source === "embed_tokens" ? data.subarray(-16) : data;
    await using model = await broken(`nan-${_}`, name, part);
    for (const search of [{ numBeams: 1 }, { numBeams: 3 }, { sample: true }, { penaltyAlpha: 0.5 }])
      expect(await refusal(model.generate({ image, maxNewTokens: 3, ...search }))).toMatch(message);
  });
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
