/** Help texts, generated from what the verbs declare. */
import { commonOptions, kebabCase, operandLabel, placeholder, type Option } from "./options.js";
import type { Verb } from "./verb.js";

const width = 100;

export function generalHelp(verbs: readonly Verb[]): string {
  return [
    "blip2: BLIP-2 for TypeScript; run and train a Q-Former between two frozen models",
    "",
    "usage: blip2 VERB [operands] [options]",
    "",
    "verbs:",
    ...columns(verbs.map(({ name, summary }) => [name, summary])),
    "",
    "blip2 VERB --help explains a verb; blip2 --version prints the version.",
    "Results go to stdout, progress and remarks to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage,",
    "130 interrupted. BLIP2_PROGRESS=log prints progress as lines where stderr is not a terminal.",
    "",
  ].join("\n");
}

export function verbHelp(verb: Verb): string {
  const operands = Object.entries(verb.operands ?? {});
  const options = Object.entries<Option>({ ...verb.options, ...commonOptions });
  const section = (title: string, lines: readonly string[]): string[] =>
    lines.length === 0 ? [] : ["", `${title}:`, ...lines];
  return [
    `blip2 ${verb.name}: ${verb.summary}`,
    "",
    `usage: ${usage(verb)}`,
    ...section(
      "operands",
      columns(
        operands.map(([name, { help, choices }]) => [
          operandLabel(name),
          choices ? `${help} (${choices.join(", ")})` : help,
        ]),
      ),
    ),
    ...section(
      "options",
      columns(options.map(([name, option]) => [flagLabel(name, option), optionHelp(option)])),
    ),
    ...section("keys of a --json line", columns(Object.entries(verb.jsonKeys))),
    ...section(
      "examples",
      (verb.examples ?? []).map((line) => `  ${line}`),
    ),
    "",
  ].join("\n");
}

function usage(verb: Verb): string {
  const operands = Object.entries(verb.operands ?? {}).map(([name, { repeated, optional }]) => {
    const label = `${operandLabel(name)}${repeated ? "..." : ""}`;
    return optional ? `[${label}]` : label;
  });
  const required = Object.entries(verb.options)
    .filter(([, option]) => "required" in option)
    .map(([name, option]) => flagLabel(name, option));
  return ["blip2", verb.name, ...operands, ...required, "[options]"].join(" ");
}

function flagLabel(name: string, option: Option): string {
  const flag = name === "help" ? "-h, --help" : `--${kebabCase(name)}`;
  return option.type === "boolean" ? flag : `${flag} ${placeholder(option)}`;
}

function optionHelp(option: Option): string {
  if (option.type === "boolean") return option.help;
  const notes: string[] = [];
  if (option.type === "enum" && option.value !== undefined) notes.push(option.choices.join(", "));
  if (option.required) notes.push("required");
  if (option.repeated) notes.push("may be repeated");
  if (option.default !== undefined) notes.push(`default ${option.default}`);
  return notes.length === 0 ? option.help : `${option.help} (${notes.join("; ")})`;
}

/** Two aligned columns; the right one is wrapped within itself. */
function columns(rows: readonly (readonly [left: string, right: string])[]): string[] {
  const leftWidth = Math.min(28, Math.max(0, ...rows.map(([left]) => left.length)));
  const gap = " ".repeat(leftWidth + 4);
  return rows.flatMap(([left, right]) => {
    const lines = wrap(right, width - gap.length).map((line) => gap + line);
    if (left.length > leftWidth) return [`  ${left}`, ...lines];
    return [`  ${left.padEnd(leftWidth)}  ${lines[0]?.trimStart() ?? ""}`.trimEnd(), ...lines.slice(1)];
  });
}

function wrap(text: string, limit: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= limit)
      lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}
