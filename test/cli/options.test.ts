import { describe, expect, expectTypeOf, test } from "vitest";
import { parseArguments, type Arguments, type Operands, type Options } from "../../src/cli/options.js";
import { InternalError, UserError } from "../../src/errors.js";

const options = {
  out: { type: "string", value: "FOLDER", required: true, help: "where to" },
  count: { type: "integer", min: 1, max: 100, default: 10, help: "how many" },
  minLength: { type: "integer", help: "at least so long" },
  rate: { type: "number", min: 0, help: "how fast" },
  precision: { type: "enum", choices: ["fp32", "int8", "int4"], default: "fp32", help: "how exact" },
  tag: { type: "string", repeated: true, help: "a mark" },
  resume: { type: "boolean", help: "go on" },
} as const satisfies Options;

const operands = {
  stage: { choices: ["stage1", "stage2"], help: "what to train" },
  image: { repeated: true, optional: true, help: "pictures" },
} as const satisfies Operands;

const parse = (line: string) =>
  parseArguments({ name: "make", options, operands }, line.split(" ").filter(Boolean));

function problem(line: string): string {
  try {
    parse(line);
  } catch (error) {
    if (error instanceof UserError && error.exitCode === 2) return error.message;
    throw error;
  }
  return "no problem";
}

describe("parsing", () => {
  test("gives every declared option a value", () => {
    expect(parse("stage1 --out x")).toEqual({
      options: {
        out: "x",
        count: 10,
        minLength: undefined,
        rate: undefined,
        precision: "fp32",
        tag: [],
        resume: false,
      },
      operands: { stage: "stage1", image: [] },
      json: false,
      help: false,
    });
  });

  test("reads each type, in any order and in both spellings", () => {
    const {
      options: read,
      operands: words,
      json,
    } = parse(
      "--json stage2 --tag=a a.png --tag b --count=7 --rate 1e-3 --resume b.png --out o -- --precision int4 c.png",
    );
    expect(read).toMatchObject({ tag: ["a", "b"], count: 7, rate: 0.001, resume: true });
    expect(words).toEqual({ stage: "stage2", image: ["a.png", "b.png", "--precision", "int4", "c.png"] });
    expect(json).toBe(true);
  });

  test("maps kebab-case to camelCase", () => {
    expect(parse("stage1 --out x --min-length 3").options).toMatchObject({ minLength: 3 });
  });

  test("takes a value that starts with a dash where it is meant", () => {
    expect(parse("stage1 --out=-x --min-length -3").options).toMatchObject({ out: "-x", minLength: -3 });
  });

  test("forgives everything when help is asked for", () => {
    expect(parse("--what --count nothing -h").help).toBe(true);
  });

  test.each(["-h", "--help", "stage1 -h a.png", "stage1 --help"])("gives help for %s", (line) => {
    expect(parse(line).help).toBe(true);
  });

  test.each(["stage1 --out x -- -h", "stage1 --out x -- --help"])("gives none for %s", (line) => {
    expect(parse(line)).toMatchObject({ help: false, operands: { image: [line.split(" ").at(-1)] } });
  });

  test("implies the types of the values", () => {
    type Parsed = Arguments<typeof options, typeof operands>;
    expectTypeOf<Parsed["options"]["out"]>().toEqualTypeOf<string>();
    expectTypeOf<Parsed["options"]["count"]>().toEqualTypeOf<number>();
    expectTypeOf<Parsed["options"]["rate"]>().toEqualTypeOf<number | undefined>();
    expectTypeOf<Parsed["options"]["precision"]>().toEqualTypeOf<"fp32" | "int8" | "int4">();
    expectTypeOf<Parsed["options"]["tag"]>().toEqualTypeOf<readonly string[]>();
    expectTypeOf<Parsed["options"]["resume"]>().toEqualTypeOf<boolean>();
    expectTypeOf<Parsed["operands"]["stage"]>().toEqualTypeOf<"stage1" | "stage2">();
    expectTypeOf<Parsed["operands"]["image"]>().toEqualTypeOf<readonly string[]>();
  });
});

describe("mistakes", () => {
  test.each([
    ["stage1 --out x --cuont 3", "make: unknown option --cuont; did you mean --count?"],
    ["stage1 --out x --minLength 3", "make: unknown option --minLength; did you mean --min-length?"],
    ["stage1 --out x --prec int8", "make: unknown option --prec; did you mean --precision?"],
    ["stage1 --out x --zzz", "make: unknown option --zzz; blip2 make --help lists them"],
    ["stage1 --out x -q", "make: unknown option -q; blip2 make --help lists them"],
    ["stage1", "make: --out FOLDER is required"],
    ["stage1 --out", "make: --out needs a value (FOLDER)"],
    ["stage1 --out=", "make: --out needs a value that is not empty"],
    ["stage1 --out --count 3", "make: --out needs a value (FOLDER)"],
    ["stage1 --out x --precision", "make: --precision needs a value (fp32|int8|int4)"],
    ["stage1 --out x --out y", "make: --out is given twice"],
    ["stage1 --out x --resume=yes", "make: --resume takes no value"],
    ["stage1 --out x --count 0", 'make: --count must be an integer from 1 to 100, not "0"'],
    ["stage1 --out x --count 2.5", 'make: --count must be an integer from 1 to 100, not "2.5"'],
    ["stage1 --out x --count=", 'make: --count must be an integer from 1 to 100, not ""'],
    ["stage1 --out x --min-length many", 'make: --min-length must be an integer, not "many"'],
    ["stage1 --out x --rate -1", 'make: --rate must be a number of at least 0, not "-1"'],
    ["stage1 --out x --rate Infinity", 'make: --rate must be a number of at least 0, not "Infinity"'],
    [
      "stage1 --out x --precision int-8",
      'make: --precision must be one of fp32, int8, int4, not "int-8"; did you mean int8?',
    ],
    ["--out x", "make: STAGE is required: stage1, stage2"],
    ["stage3 --out x", 'make: STAGE must be one of stage1, stage2, not "stage3"; did you mean stage1?'],
  ])("%s", (line, message) => {
    expect(problem(line)).toBe(message);
  });

  // "-dash.png" is -d, -a, -s, -h and so on to Node's parser, and -h asks for help.
  test.each(["-dash.png", "-h.png", "-hh", "-qh", "-photo.jpg", "-😀h", "--dash.png", "--a/b"])(
    "%s, which looks like an option",
    (word) => {
      const expected = `make: ${word} looks like an option, and there is none of this name; a file is given as ./${word}, and any operand behind --, as in -- ${word}`;
      expect(problem(`stage1 --out x ${word}`)).toBe(expected);
      expect(problem(word)).toBe(expected);
      expect(parse(`stage1 --out x ./${word}`).operands).toMatchObject({ image: [`./${word}`] });
      expect(parse(`stage1 --out x -- ${word}`).operands).toMatchObject({ image: [word] });
    },
  );

  test("a text that looks like an option, and one for a verb without operands", () => {
    const words = ["stage1", "--out", "x", "-what is this?"];
    expect(() => parseArguments({ name: "make", options, operands }, words)).toThrow(
      'make: "-what is this?" looks like an option',
    );
    expect(() => parseArguments({ name: "doctor", options: {} }, ["-dash"])).toThrow(
      "doctor: -dash looks like an option, and there is none of this name; blip2 doctor --help lists them",
    );
  });

  test.each([
    "LONG --out x",
    "stage1 --out x --LONG",
    "stage1 --out x -LONG",
    "stage1 --out x --count LONG",
    "stage1 --out x --precision LONG",
    "stage1 --out x --rate=LONG",
  ])("%s shows a long word cut", (line) => {
    const message = problem(line.replaceAll("LONG", "y".repeat(100_000)));
    expect(message.length).toBeLessThan(1000);
    expect(message).toContain("y".repeat(150));
  });

  test("an operand that nobody asked for", () => {
    expect(() => parseArguments({ name: "doctor", options: {} }, ["now"])).toThrow(
      'doctor: unexpected operand "now"',
    );
  });

  test("a verb that takes the name of a common option", () => {
    const json = { type: "boolean", help: "" } as const;
    expect(() => parseArguments({ name: "make", options: { json } }, [])).toThrow(InternalError);
  });
});
