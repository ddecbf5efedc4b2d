import { rm } from "node:fs/promises";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Blip2 } from "../../src/index.js";
import { runCommandLine } from "../../src/cli/run.js";
import { blip2, Captured } from "../cli/captured.js";
import { temporaryFolder, writeTinyModel } from "./tiny-model.js";
import { writeTinyT5 } from "./tiny-t5.js";

let root: string;
let picture: string;
let modelWords: readonly string[];

beforeAll(async () => {
  root = await temporaryFolder();
  modelWords = ["--model", await writeTinyModel(join(root, "tiny"))];
  picture = join(root, "red.png");
  const square = { width: 20, height: 20, channels: 3, background: "#c33" } as const;
  await sharp({ create: square }).png().toFile(picture);
});
afterAll(() => rm(root, { recursive: true }));

const lines = (text: string) =>
  text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
const typed = (text: string): Readable => Readable.from([text]);

/** A command line with a person before it: both ends are terminals. */
function conversation(words: readonly string[], signal?: AbortSignal) {
  const stdin = Object.assign(new PassThrough(), { isTTY: true });
  const [stdout, stderr] = [Object.assign(new Captured(), { isTTY: true }), new Captured()];
  const run = runCommandLine({
    words,
    stdin,
    stdout,
    stderr,
    env: {},
    signal: signal ?? new AbortController().signal,
  });
  const until = async (pattern: RegExp): Promise<void> => {
    while (!pattern.test(stdout.text)) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  return { stdin, stdout, stderr, run, until };
}

describe("blip2 ask", () => {
  it("answers each question for itself, as LAVIS searches for short answers", async () => {
    const questions = ["what is this?", "how many?"];
    const { code, stdout, stderr } = await blip2(["ask", picture, ...questions, ...modelWords, "--json"]);
    expect([code, stderr]).toEqual([0, ""]);
    const found = lines(stdout);
    await using model = await Blip2.load(modelWords[1]!, { threads: 1 });
    for (const [i, question] of questions.entries()) {
      const { text, logProbability } = await model.generate({
        image: picture,
        prompt: `Question: ${question} Answer:`,
        maxNewTokens: 10,
        numBeams: 5,
        lengthPenalty: 0,
      });
      expect(found[i]).toEqual({ image: picture, question, answer: text, logProbability });
    }
    expect(Object.keys(found[0]!)).toEqual(["image", "question", "answer", "logProbability"]);
  });

  it("passes its options on", async () => {
    const answers = async (...options: string[]) => {
      const words = ["ask", picture, "what?", ...modelWords, "--json", "--min-new-tokens", "6", ...options];
      return (await blip2(words)).stdout;
    };
    const usual = await answers();
    for (const options of [
      ["--prompt-format", "{}"],
      ["--beams", "1", "--repetition-penalty", "3"],
      ["--sample", "--seed", "3", "--temperature", "2"],
      ["--max-new-tokens", "6"],
    ]) {
      expect(await answers(...options), options.join(" ")).not.toBe(usual);
    }
    // What stands before a marker is not part of the answer.
    const answer = lines(usual)[0]!["answer"] as string;
    const marker = answer.slice(0, 3);
    const behind = lines(await answers("--answer-after", marker, "--max-new-tokens", "10"))[0]!["answer"];
    expect(behind).toBe(answer.slice(3).trim());
    // More than the usual longest answer may be asked for.
    const long = await blip2(["ask", picture, "what?", ...modelWords, "--min-new-tokens", "20"]);
    expect(long.code).toBe(0);
  });

  it.each([
    [["ask"], 2, "ask: IMAGE is required"],
    [["ask", "x.png"], 2, "ask: QUESTION is required"],
    [["ask", "x.png", "q", "--top-p", "0.5"], 2, "ask: --top-p is an option of sampling; give --sample too"],
    [["ask", "x.png", "q", "--prompt-format", "no place"], 1, "it needs {} once"],
    [["ask", "x.png", "q", "--model", "/no/such/folder"], 1, "/no/such/folder: this folder does not exist"],
    [
      ["caption", "x.png", "--num-captions", "4", "--beams", "2"],
      2,
      "--num-captions 4 is more than --beams 2",
    ],
    [["caption", "x.png", "--temperature", "0"], 2, "--temperature must be a number of at least 0.01"],
  ])("%j ends with a sentence", async (words, code, message) => {
    const found = await blip2(words);
    expect([found.code, found.stdout]).toEqual([code, ""]);
    expect(found.stderr).toContain(message);
  });
});

describe("blip2 caption", () => {
  it("gives several captions, drawn anew for another seed", async () => {
    const of = async (...options: string[]) => {
      const found = await blip2([
        "caption",
        picture,
        ...modelWords,
        "--json",
        "--max-new-tokens",
        "5",
        ...options,
      ]);
      expect(found.code).toBe(0);
      return lines(found.stdout);
    };
    const sampled = await of("--sample", "--seed", "2", "--num-captions", "3");
    expect(sampled).toHaveLength(3);
    const likelihoods = sampled.map(({ logProbability }) => logProbability as number);
    expect(likelihoods).toEqual(likelihoods.toSorted((a, b) => b - a));
    expect(await of("--sample", "--seed", "2", "--num-captions", "3")).toEqual(sampled);
    expect(await of("--sample", "--seed", "3", "--num-captions", "3")).not.toEqual(sampled);
    expect(await of("--beams", "4", "--num-captions", "2")).toHaveLength(2);
  });
});

describe("blip2 chat", () => {
  const short = ["--max-new-tokens", "4", "--min-new-tokens", "4"];

  it("answers each line that is piped in, behind the ones before", async () => {
    const stdin = typed("what is this?\n\n  is it red? \n");
    const words = ["chat", picture, ...modelWords, ...short];
    const { code, stdout, stderr } = await blip2([...words, "--json"], { stdin });
    expect([code, stderr]).toEqual([0, ""]);
    const found = lines(stdout);
    expect(found.map(({ question }) => question)).toEqual(["what is this?", "is it red?"]);
    expect(Object.keys(found[0]!)).toEqual(["image", "question", "answer", "logProbability", "forgotten"]);
    const alone = await blip2([...words, "--json"], { stdin: typed("is it red?") });
    expect(lines(alone.stdout)[0]!["logProbability"]).not.toBe(found[1]!["logProbability"]);
    const plain = await blip2(words, { stdin: typed("what is this?\nis it red?\n") });
    expect(plain.stdout).toBe(found.map(({ answer }) => `${String(answer)}\n`).join(""));
  });

  it("says so when the oldest turns no longer fit", async () => {
    const stdin = typed(Array.from({ length: 9 }, (_, n) => `is there a red star ${n}?\n`).join(""));
    const { code, stdout, stderr } = await blip2(["chat", picture, ...modelWords, ...short, "--json"], {
      stdin,
    });
    expect(code).toBe(0);
    const forgotten = lines(stdout).map((line) => line["forgotten"] as number);
    expect(forgotten).toHaveLength(9);
    expect(forgotten[0]).toBe(0);
    expect(forgotten.at(-1)).toBeGreaterThan(0);
    expect(forgotten).toEqual(forgotten.toSorted((a, b) => a - b));
    expect(stderr).toContain("the context of 64 tokens is used up; ");
    expect(stderr).toMatch(/oldest turns? ha(s|ve) been left out/);
  });

  it("keeps to the context that is given, with T5 too", async () => {
    const t5 = ["--model", await writeTinyT5(join(root, "tiny-t5"))];
    const talk = (words: readonly string[], ...options: string[]) =>
      blip2(["chat", picture, ...words, ...short, "--json", ...options], {
        stdin: typed("what is this?\na red star?\ntwo cats?\n"),
      });
    for (const words of [modelWords, t5]) {
      const usual = await talk(words);
      expect([usual.code, usual.stderr]).toEqual([0, ""]);
      expect(lines(usual.stdout).map((line) => line["forgotten"])).toEqual([0, 0, 0]);
      const least = await talk(words, "--context", "1");
      expect([least.code, least.stdout]).toEqual([1, ""]);
      const need = /needs a context of (\d+) tokens, the chat has 1;/.exec(least.stderr)![1]!;
      // Room for any of the questions, hardly for turns.
      const narrow = await talk(words, "--context", String(Number(need) + 8));
      expect(narrow.code).toBe(0);
      expect(lines(narrow.stdout).at(-1)!["forgotten"]).toBeGreaterThan(0);
      expect(narrow.stderr).toContain(`the context of ${Number(need) + 8} tokens is used up; `);
    }
    const beyond = await talk(modelWords, "--context", "65");
    expect([beyond.code, beyond.stderr]).toEqual([
      1,
      "blip2: chat: context is 65, the model has 64 positions; give at most these\n",
    ]);
  });

  it("streams to a person, and ends with the input", async () => {
    const { stdin, stdout, stderr, run, until } = conversation(["chat", picture, ...modelWords, ...short]);
    await until(/^> $/);
    stdin.write("what is this?\n");
    await until(/\n> $/);
    stdin.end();
    expect(await run).toBe(0);
    expect(stderr.text).toContain("Ctrl-D ends the chat");
    const piped = await blip2(["chat", picture, ...modelWords, ...short], {
      stdin: typed("what is this?\n"),
    });
    expect(stdout.text).toBe(`> ${piped.stdout}> \n`);
  });

  it("ends when it is interrupted, while it waits and while it answers", async () => {
    const waiting = new AbortController();
    const idle = conversation(["chat", picture, ...modelWords], waiting.signal);
    await idle.until(/^> $/);
    waiting.abort();
    expect(await idle.run).toBe(130);

    const answering = new AbortController();
    const busy = conversation(
      ["chat", picture, ...modelWords, "--min-new-tokens", "40", "--max-new-tokens", "40"],
      answering.signal,
    );
    await busy.until(/^> $/);
    busy.stdin.write("what is this?\n");
    await busy.until(/^> ./);
    answering.abort();
    expect(await busy.run).toBe(130);
    expect(busy.stdout.text).not.toMatch(/\n> $/);
  });

  it("ends with a sentence where it cannot go on", async () => {
    const long = await blip2(["chat", picture, ...modelWords], { stdin: typed(`${"cat ".repeat(80)}\n`) });
    expect([long.code, long.stdout]).toEqual([1, ""]);
    expect(long.stderr).toContain("tokens, the chat has 64; ask in fewer words");
    const missing = await blip2(["chat", join(root, "missing.png"), ...modelWords]);
    expect([missing.code, missing.stderr]).toEqual([1, expect.stringContaining("does not exist")]);
  });
});
