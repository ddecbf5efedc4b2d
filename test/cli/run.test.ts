import { describe, expect, test } from "vitest";
import { ReaderGoneError } from "../../src/cli/run.js";
import { defineVerb, type Verb } from "../../src/cli/verb.js";
import { verbs } from "../../src/cli/verbs/index.js";
import { InterruptedError, UserError } from "../../src/errors.js";
import { blip2 } from "./captured.js";

/** A set of verbs with one that does what the test says. */
function withVerb(run: Verb["run"]): { verbs: Record<string, () => Promise<Verb>> } {
  const work = defineVerb({ name: "work", summary: "do something", options: {}, jsonKeys: {}, run });
  return { verbs: { work: async () => work } };
}

const failing = (error: unknown) =>
  withVerb(async () => {
    throw error;
  });

describe("picking a verb", () => {
  test.each([
    [[], "blip2: a verb is missing; blip2 --help lists the verbs\n"],
    [["docter"], "blip2: unknown verb docter; did you mean doctor?\n"],
    [["qqq"], "blip2: unknown verb qqq; blip2 --help lists the verbs\n"],
    [["help", "scene"], "blip2: unknown verb scene; did you mean scenes?\n"],
    [["toString"], "blip2: unknown verb toString; blip2 --help lists the verbs\n"],
    [["--josn"], "blip2: unknown option --josn; blip2 --help lists the verbs\n"],
  ])("%j is wrong usage", async (words, stderr) => {
    expect(await blip2(words)).toEqual({ code: 2, stdout: "", stderr });
  });

  test("prints the version", async () => {
    const { code, stdout } = await blip2(["--version"]);
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^\d+\.\d+\.\d+\S*\n$/)]);
  });
});

describe("help", () => {
  test.each([[["--help"]], [["-h"]], [["help"]]])("%j lists every verb", async (words) => {
    const { code, stdout, stderr } = await blip2(words);
    expect([code, stderr]).toEqual([0, ""]);
    for (const name of Object.keys(verbs)) expect(stdout).toMatch(new RegExp(`^  ${name} +\\w`, "m"));
  });

  test("of a verb shows operands, options with their defaults, keys and examples", async () => {
    const verb = defineVerb({
      name: "draw",
      summary: "draw something",
      operands: {
        what: { choices: ["cat", "house"], help: "the thing" },
        image: { repeated: true, optional: true, help: "pictures to draw on" },
      },
      options: {
        out: { type: "string", value: "FILE", required: true, help: "where the drawing goes" },
        lineWidth: { type: "number", default: 1.5, help: "in pixels" },
        tag: { type: "string", repeated: true, help: "a mark" },
        tone: { type: "enum", choices: ["dark", "light"], help: "how it looks" },
      },
      jsonKeys: { file: "the drawing" },
      examples: ["blip2 draw cat --out cat.png"],
      run: async () => {},
    });
    const { code, stdout } = await blip2(["draw", "--help"], { verbs: { draw: async () => verb } });
    expect(code).toBe(0);
    expect(stdout).toMatchInlineSnapshot(`
      "blip2 draw: draw something

      usage: blip2 draw WHAT [IMAGE...] --out FILE [options]

      operands:
        WHAT   the thing (cat, house)
        IMAGE  pictures to draw on

      options:
        --out FILE         where the drawing goes (required)
        --line-width N     in pixels (default 1.5)
        --tag TEXT         a mark (may be repeated)
        --tone dark|light  how it looks
        --json             print one JSON object per line instead of text
        -h, --help         show this help

      keys of a --json line:
        file  the drawing

      examples:
        blip2 draw cat --out cat.png
      "
    `);
  });

  test.each(Object.keys(verbs))("of %s fits the screen and agrees with the list", async (name) => {
    const verb = await verbs[name]?.();
    expect(verb?.name).toBe(name);
    expect(verb?.summary).toMatch(/^[a-z].*[^.]$/);
    const { stdout } = await blip2([name, "--help"]);
    expect(await blip2(["help", name])).toEqual({ code: 0, stdout, stderr: "" });
    for (const line of stdout.split("\n")) expect(line.length).toBeLessThanOrEqual(100);
  });
});

describe("exit codes", () => {
  test("0 for work done, and whatever the verb reports otherwise", async () => {
    expect(
      (
        await blip2(
          ["work"],
          withVerb(async () => {}),
        )
      ).code,
    ).toBe(0);
    expect(
      (
        await blip2(
          ["work"],
          withVerb(async () => 1),
        )
      ).code,
    ).toBe(1);
  });

  test("1 and one sentence for work that failed", async () => {
    const error = new UserError("x.safetensors: cut short:\n  required 10 bytes\n  got 9");
    expect(await blip2(["work"], failing(error))).toEqual({
      code: 1,
      stdout: "",
      stderr: "blip2: x.safetensors: cut short: required 10 bytes got 9\n",
    });
  });

  test("2 for usage that only the library can judge", async () => {
    const { code } = await blip2(["work"], failing(new UserError("no", { exitCode: 2 })));
    expect(code).toBe(2);
  });

  test("1 for a refusal of the system, in its words", async () => {
    const error = Object.assign(new Error("ENOSPC: no space left on device, write"), { syscall: "write" });
    const { code, stderr } = await blip2(["work"], failing(error));
    expect([code, stderr]).toEqual([1, "blip2: ENOSPC: no space left on device, write\n"]);
  });

  test("a notice is shown once", async () => {
    const verb = withVerb(async ({ notice }) => {
      for (const sentence of ["a", "b", "a", "a"]) notice(sentence);
    });
    expect((await blip2(["work"], verb)).stderr).toBe("blip2: a\nblip2: b\n");
  });

  test("no long word of the command line is repeated whole, however a failure quotes it", async () => {
    const long = `a "picture"\nof ${"it ".repeat(20_000)}`;
    const shown = /a \\?"picture\\?"/;
    for (const message of [`${long}: no`, `got ${JSON.stringify(long)}`, `/folder/${long}/config.json: no`]) {
      for (const given of [long, `--prompt=${long}`]) {
        const work = defineVerb({
          name: "work",
          summary: "do something",
          operands: { text: { repeated: true, optional: true, help: "texts" } },
          options: { prompt: { type: "string", help: "a text" } },
          jsonKeys: {},
          run: async ({ log }) => {
            log(`blip2: ${message}`);
            throw new UserError(message);
          },
        });
        const { code, stderr } = await blip2(["work", given], {
          verbs: { work: async () => work },
          env: { BLIP2_DEBUG: "1" },
        });
        expect(code).toBe(1);
        expect(stderr.length).toBeLessThan(5000);
        expect(stderr).toMatch(shown);
        expect(stderr).toContain("...");
      }
    }
    const { stderr } = await blip2([long]);
    expect(stderr.length).toBeLessThan(1000);
  });

  test("1 and a request to report it for a bug, with the stack on demand", async () => {
    const words = ["work"];
    const { code, stderr } = await blip2(words, failing(new TypeError("x is not a function")));
    expect(code).toBe(1);
    expect(stderr).toBe(
      "blip2: internal error, please report it (BLIP2_DEBUG=1 shows where): x is not a function\n",
    );
    const shown = await blip2(words, { ...failing(new TypeError("oh")), env: { BLIP2_DEBUG: "1" } });
    expect(shown.stderr).toContain("run.test.ts");
  });

  test("130 for an interruption, however the work takes it", async () => {
    const controller = new AbortController();
    const interrupted = { code: 130, stdout: "", stderr: "blip2: interrupted\n" };
    expect(await blip2(["work"], failing(new InterruptedError("stopped")))).toEqual(interrupted);
    controller.abort(new InterruptedError("interrupted"));
    const { signal } = controller;
    expect(await blip2(["work"], { signal, ...withVerb(async () => {}) })).toEqual(interrupted);
    expect(await blip2(["work"], { signal, ...failing(new Error("odd")) })).toEqual(interrupted);
  });

  test("0 and silence when the reader has gone", async () => {
    const controller = new AbortController();
    controller.abort(new ReaderGoneError("gone"));
    const { signal } = controller;
    expect(await blip2(["work"], { signal, ...failing(new InterruptedError("x")) })).toEqual({
      code: 0,
      stdout: "",
      stderr: "",
    });
  });
});
