/** Options and operands of a verb: declared once, from which come the parser, its errors, its types and the help. */
import { parseArgs } from "node:util";
import { InternalError, UserError } from "../errors.js";
import { quoted, shortened } from "../quoted.js";
import { suggestion } from "./nearest.js";

interface OptionBase {
  readonly help: string;
  /** What stands for the value in the help, such as `FOLDER`. */
  readonly value?: string;
  readonly required?: true;
  /** May be given several times; its value is an array. */
  readonly repeated?: true;
}

export type Option =
  | (OptionBase & { readonly type: "string"; readonly default?: string })
  | (OptionBase & {
      readonly type: "number" | "integer";
      readonly min?: number;
      readonly max?: number;
      readonly default?: number;
    })
  | (OptionBase & { readonly type: "enum"; readonly choices: readonly string[]; readonly default?: string })
  | { readonly type: "boolean"; readonly help: string };

/** A word without dashes, such as an image's path. Only the last may be repeated or optional. */
export interface Operand {
  readonly help: string;
  readonly choices?: readonly string[];
  readonly repeated?: true;
  readonly optional?: true;
}

/** By name in camelCase: `textCount` is `--text-count` on the command line. */
export type Options = { readonly [name: string]: Option };
/** By name, in the order of the command line. */
export type Operands = { readonly [name: string]: Operand };

type Scalar<O> = O extends { choices: readonly (infer Choice)[] }
  ? Choice
  : O extends { type: "number" | "integer" }
    ? number
    : O extends { type: "boolean" }
      ? boolean
      : string;

type Value<O> = O extends { repeated: true }
  ? readonly Scalar<O>[]
  : O extends { type: "boolean" } | { required: true } | { default: string | number }
    ? Scalar<O>
    : Scalar<O> | undefined;

type OperandValue<P> = P extends { repeated: true }
  ? readonly Scalar<P>[]
  : P extends { optional: true }
    ? Scalar<P> | undefined
    : Scalar<P>;

export interface Arguments<O extends Options, P extends Operands> {
  readonly options: { readonly [K in keyof O]: Value<O[K]> };
  readonly operands: { readonly [K in keyof P]: OperandValue<P[K]> };
}

/** Understood after every verb. */
export const commonOptions = {
  json: { type: "boolean", help: "print one JSON object per line instead of text" },
  help: { type: "boolean", help: "show this help" },
} as const satisfies Options;

type OptionValue = string | number | boolean | readonly (string | number | boolean)[] | undefined;

/** What `Arguments` are while nobody knows which verb it is. */
export interface ParsedArguments {
  readonly options: { readonly [name: string]: OptionValue };
  readonly operands: { readonly [name: string]: string | readonly string[] | undefined };
  readonly json: boolean;
  readonly help: boolean;
}

interface Declaration {
  readonly name: string;
  readonly options: Options;
  readonly operands?: Operands;
}

export function kebabCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** Parses what follows the verb. Every mistake is a `UserError` with exit code 2; `--help` forgives them all. */
export function parseArguments(verb: Declaration, words: readonly string[]): ParsedArguments {
  const declared = new Map<string, readonly [name: string, option: Option]>();
  for (const [name, option] of Object.entries({ ...verb.options, ...commonOptions })) {
    if (name in commonOptions && name in verb.options) {
      throw new InternalError(`${verb.name} declares --${name}, which every verb has`);
    }
    declared.set(kebabCase(name), [name, option]);
  }

  // parseArgs takes "-dash.png" for a row of short options, one of them -h, and long over long ones.
  const isCluster = (word: string): boolean => /^-[^-]./su.test(word);
  const { tokens } = parseArgs({
    args: words.map((word) => (isCluster(word) ? "-?" : word)),
    strict: false, // our own errors name the verb, the nearest option and the values allowed
    allowPositionals: true,
    tokens: true,
    options: Object.fromEntries(
      [...declared].map(([flag, [, option]]) => [
        flag,
        { type: option.type === "boolean" ? "boolean" : "string", ...(flag === "help" && { short: "h" }) },
      ]),
    ),
  });

  const isHelp = tokens.some((token) => token.kind === "option" && token.name === "help");
  if (isHelp) return { options: {}, operands: {}, json: false, help: true };

  const fail = (problem: string): never => {
    throw new UserError(`${verb.name}: ${problem}`, { exitCode: 2 });
  };
  const given = new Map<string, (string | number | boolean)[]>();
  const positionals: string[] = [];
  for (const token of tokens) {
    const word = words[token.index]!;
    if (token.kind === "positional") positionals.push(word);
    if (token.kind !== "option") continue;
    const [name, option] = declared.get(token.name) ?? [];
    if (isCluster(word)) return fail(lookingLikeAnOption(word, verb));
    if (name === undefined || option === undefined) {
      const hint = suggestion(token.name, declared.keys(), "--");
      if (hint === "" && /[./\s]/.test(token.name)) return fail(lookingLikeAnOption(word, verb));
      return fail(
        `unknown option ${shortened(token.rawName)}${hint === "" ? `; blip2 ${verb.name} --help lists them` : hint}`,
      );
    }
    const values = given.get(name) ?? [];
    if (values.length > 0 && !("repeated" in option)) fail(`${token.rawName} is given twice`);
    const value = token.value === undefined || token.inlineValue ? token.value : words[token.index + 1];
    given.set(name, [...values, readValue({ ...token, value }, option, fail)]);
  }

  const options = Object.entries(verb.options).map(([name, option]) => {
    const values = given.get(name);
    if (option.type === "boolean") return [name, values !== undefined];
    if (values === undefined && option.required)
      fail(`--${kebabCase(name)} ${placeholder(option)} is required`);
    if (option.repeated) return [name, values ?? []];
    return [name, values?.[0] ?? option.default];
  });
  return {
    options: Object.fromEntries(options),
    operands: readOperands(verb.operands ?? {}, positionals, fail),
    json: given.has("json"),
    help: false,
  };
}

/** For a file or a text that begins with a dash. */
function lookingLikeAnOption(word: string, { name, operands = {} }: Declaration): string {
  const shown = /[\s"]/.test(word) ? quoted(word) : shortened(word);
  const unknown = `${shown} looks like an option, and there is none of this name`;
  if (Object.keys(operands).length === 0) return `${unknown}; blip2 ${name} --help lists them`;
  return `${unknown}; a file is given as ./${shown.replace(/^"|"$/g, "")}, and any operand behind --, as in -- ${shown}`;
}

interface OptionToken {
  readonly rawName: string;
  readonly value?: string | undefined;
  readonly inlineValue?: boolean | undefined;
}

type Fail = (problem: string) => never;

function readValue(token: OptionToken, option: Option, fail: Fail): string | number | boolean {
  const { rawName, value, inlineValue } = token;
  if (option.type === "boolean") return inlineValue ? fail(`${rawName} takes no value`) : true;
  // "--out --count 5" forgot a folder; a value that really starts with a dash is written --out=-folder
  const isFlag = !inlineValue && value !== undefined && /^--?[A-Za-z]/.test(value);
  if (value === undefined || isFlag) return fail(`${rawName} needs a value (${placeholder(option)})`);
  if (option.type === "string")
    return value === "" ? fail(`${rawName} needs a value that is not empty`) : value;
  if (option.type === "enum") return readChoice(rawName, value, option.choices, fail);

  const number = value.trim() === "" ? NaN : Number(value);
  const { min = -Infinity, max = Infinity } = option;
  const isKind = option.type === "integer" ? Number.isSafeInteger(number) : Number.isFinite(number);
  if (isKind && number >= min && number <= max) return number;
  return fail(`${rawName} must be ${describeRange(option.type, min, max)}, not ${quoted(value)}`);
}

function describeRange(type: "number" | "integer", min: number, max: number): string {
  const kind = type === "integer" ? "an integer" : "a number";
  if (min === -Infinity && max === Infinity) return kind;
  if (max === Infinity) return `${kind} of at least ${min}`;
  return min === -Infinity ? `${kind} of at most ${max}` : `${kind} from ${min} to ${max}`;
}

function readChoice(what: string, value: string, choices: readonly string[], fail: Fail): string {
  if (choices.includes(value)) return value;
  return fail(
    `${what} must be one of ${choices.join(", ")}, not ${quoted(value)}${suggestion(value, choices)}`,
  );
}

function readOperands(
  operands: Operands,
  words: readonly string[],
  fail: Fail,
): Record<string, string | string[] | undefined> {
  const rest = [...words];
  const values = Object.entries(operands).map(([name, { choices, repeated, optional }]) => {
    const label = operandLabel(name);
    if (rest.length === 0 && !optional)
      fail(choices ? `${label} is required: ${choices.join(", ")}` : `${label} is required`);
    const taken = rest.splice(0, repeated ? rest.length : 1);
    if (choices !== undefined) taken.forEach((word) => readChoice(label, word, choices, fail));
    return [name, repeated ? taken : taken[0]];
  });
  if (rest.length > 0) fail(`unexpected operand ${quoted(rest[0])}`);
  return Object.fromEntries(values);
}

export function operandLabel(name: string): string {
  return kebabCase(name).toUpperCase();
}

/** What stands for an option's value in help and errors: its own word, its choices, or its kind. */
export function placeholder(option: Exclude<Option, { type: "boolean" }>): string {
  if (option.value !== undefined) return option.value;
  if (option.type === "enum") return option.choices.join("|");
  return option.type === "string" ? "TEXT" : "N";
}
