/**
 * `npm run bench -- timer`: how late a 10 ms timer of the calling thread fires while captions are made, against how late
 * it fires while nothing is done. Prints the 50th and 99th percentile and the largest delay. The model is the bundled
 * one; `--vocabulary 50304` gives it as many words as OPT has (random ones), because per token the calling
 * thread ranks them all; `--picture 4000x3000` measures with a large photo instead of the samples.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import sharp from "sharp";
import { toFloat32 } from "../src/float16.js";
import { readModelFolder, writeModelFolder } from "../src/checkpoints/model-folder.js";
import type { JsonObject } from "../src/files/json-file.js";
import { Random } from "../src/random.js";
import { Blip2 } from "../src/generation/blip-2.js";
import { float32Tensor } from "../src/host-tensor.js";
import type { ImageSource } from "../src/images/load-image.js";
import { median } from "./runtime-profile.js";
import { inRepository } from "./repository.js";

const period = 10; // ms

/** Delays of a timer while `work` runs, in milliseconds. */
async function delaysDuring(work: () => Promise<unknown>): Promise<number[]> {
  const delays: number[] = [];
  let due = performance.now() + period;
  let timer = setTimeout(function tick() {
    const now = performance.now();
    delays.push(Math.max(0, now - due));
    due = now + period;
    timer = setTimeout(tick, period);
  }, period);
  try {
    await work();
    // What is still due counts too.
    delays.push(Math.max(0, performance.now() - due));
  } finally {
    clearTimeout(timer);
  }
  return delays;
}

/** The model in a folder, with its word table filled up to `vocabulary` rows of random numbers. */
async function withVocabulary(from: string, vocabulary: number, to: string): Promise<string> {
  const folder = await readModelFolder(from);
  const name = "language_model.model.decoder.embed_tokens.weight";
  const tensors = new Map(
    [...(await folder.weights.readAll())].map(([key, value]) => [key, toFloat32(value)]),
  );
  const table = tensors.get(name)!;
  const width = table.dims[1]!;
  const data = new Float32Array(vocabulary * width);
  const random = new Random("words", vocabulary);
  for (let i = 0; i < data.length; i++) data[i] = (random.next() - 0.5) * 0.05;
  data.set(table.data as Float32Array);
  tensors.set(name, float32Tensor(data, [vocabulary, width]));
  const config = folder.config;
  const text = { ...(config["text_config"] as JsonObject), vocab_size: vocabulary };
  const files: Record<string, object> = {};
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) {
    const { default: content } = (await import(path.join(from, file), { with: { type: "json" } })) as {
      default: object;
    };
    files[file] = content;
  }
  await writeModelFolder(to, { config: { ...config, text_config: text }, tensors, dtype: "float32", files });
  return to;
}

export async function timerDelays(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      model: { type: "string" },
      captions: { type: "string", default: "30" },
      beams: { type: "string", default: "5" },
      tokens: { type: "string", default: "30" },
      threads: { type: "string" },
      vocabulary: { type: "string" },
      picture: { type: "string" },
    },
  });
  const temporary = await mkdtemp(path.join(tmpdir(), "blip2-bench-"));
  try {
    let folder = values.model ?? inRepository("models/scenes-opt");
    if (values.vocabulary !== undefined) {
      folder = await withVocabulary(
        path.resolve(folder),
        Number(values.vocabulary),
        path.join(temporary, "model"),
      );
    }
    let image: ImageSource = inRepository("samples/test-1.png");
    if (values.picture !== undefined) {
      const [width, height] = values.picture.split("x").map(Number) as [number, number];
      image = path.join(temporary, "photo.jpg");
      const noise = { type: "gaussian", mean: 128, sigma: 40 } as const;
      await sharp({ create: { width, height, channels: 3, background: "#888", noise } })
        .jpeg()
        .toFile(image);
    }
    const threads = values.threads === undefined ? {} : { threads: Number(values.threads) };
    await using model = await Blip2.load(folder, threads);
    const tokens = Number(values.tokens);
    const caption = (): Promise<unknown> =>
      model.generate({ image, numBeams: Number(values.beams), minNewTokens: tokens, maxNewTokens: tokens });
    for (let i = 0; i < 3; i++) await caption();
    const started = performance.now();
    const busy = await delaysDuring(async () => {
      for (let i = 0; i < Number(values.captions); i++) await caption();
    });
    const took = performance.now() - started;
    const idle = await delaysDuring(() => new Promise((resolve) => setTimeout(resolve, took)));
    for (const [label, delays] of [
      [`${values.captions} captions of ${tokens} tokens, ${values.beams} beams`, busy],
      ["nothing", idle],
    ] as const) {
      const sorted = delays.toSorted((a, b) => a - b);
      const at99 = sorted[Math.min(sorted.length - 1, Math.ceil(0.99 * sorted.length) - 1)]!;
      const cells = [
        `${label}:`.padEnd(42),
        `median ${median(delays).toFixed(1)} ms`,
        `99th percentile ${at99.toFixed(1)} ms`,
        `largest ${sorted.at(-1)!.toFixed(1)} ms`,
        `of ${delays.length} ticks in ${(took / 1000).toFixed(1)} s`,
      ];
      console.log(cells.join("  "));
    }
  } finally {
    await rm(temporary, { recursive: true });
  }
}
