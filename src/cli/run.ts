/** From words to an exit code: picks the verb, parses its words, runs it, and says in one sentence what failed. */
import { readFileSync } from "node:fs";
import type { Readable, Writable } from "node:stream";
import { InternalError, InterruptedError, UserError } from "../errors.js";
import { shortened } from "../quoted.js";
import { generalHelp, verbHelp } from "./help.js";
import { suggestion } from "./nearest.js";
import { parseArguments, type Arguments, type Operands, type Options } from "./options.js";
import { createOutput } from "./output.js";
import { packageRoot } from "./package-root.js";
import { createProgress } from "./progress.js";
import type { Context, Verb } from "./verb.js";
import { verbs } from "./verbs/index.js";

export interface CommandLine {
  /** The words after `blip2`. */
  readonly words: readonly string[];
  readonly stdin: Readable & { readonly isTTY?: boolean };
  readonly stdout: Writable & { readonly isTTY?: boolean };
  readonly stderr: Writable & { readonly isTTY?: boolean; readonly columns?: number };
  readonly env: { readonly [name: string]: string | undefined };
  readonly signal: AbortSignal;
  /** By name; the package's own verbs unless a test brings others. */
  readonly verbs?: { readonly [name: string]: () => Promise<Verb> };
}

/** The reason to abort with when nobody reads the results any more: the command ends quietly, with 0. */
export class ReaderGoneError extends InterruptedError {
  override readonly name = "ReaderGoneError";
}

/** 0: done; 1: failed; 2: wrong usage; 130: interrupted. Never throws. */
export async function runCommandLine(commandLine: CommandLine): Promise<number> {
  const { stdout, stderr, env, signal } = commandLine;
  const progress = createProgress({ stderr, mode: env["BLIP2_PROGRESS"] });
  const shown = withoutLongWords(commandLine.words);
  try {
    const [verb, words] = await pickVerb(commandLine);
    if (verb === undefined) {
      stdout.write(words);
      return 0;
    }
    const { json, help, ...args } = parseArguments(verb, words);
    if (help) {
      stdout.write(verbHelp(verb));
      return 0;
    }
    const output = createOutput({ json, stdout, beforeWrite: () => progress.clear() });
    const log = (line: string): void => {
      progress.clear();
      stderr.write(`${shown(line)}\n`);
    };
    const noticed = new Set<string>();
    const notice = (sentence: string): void => {
      // One command may load a model, or its parts, several times.
      if (!noticed.has(sentence)) log(`blip2: ${sentence}`);
      noticed.add(sentence);
    };
    // The parser went by the verb's own declaration, from which its argument types come too.
    const context: Context = {
      // Looked at only by verbs that read: the first look opens a process's stdin.
      get input() {
        return commandLine.stdin;
      },
      get isInteractive() {
        return commandLine.stdin.isTTY === true && stdout.isTTY === true;
      },
      output,
      progress,
      log,
      notice,
      signal,
    };
    const code = await verb.run(context, args as Arguments<Options, Operands>);
    progress.clear();
    // A verb may wind up its work in good order when asked to stop; the exit code still tells.
    signal.throwIfAborted();
    return code ?? 0;
  } catch (error) {
    progress.clear();
    if (signal.reason instanceof ReaderGoneError) return 0;
    const { code, sentence } = describeFailure(error, signal, shown);
    stderr.write(`blip2: ${sentence}\n`);
    if (env["BLIP2_DEBUG"] === "1" && error instanceof Error) stderr.write(`${shown(error.stack ?? "")}\n`);
    return code;
  }
}

type Picked = readonly [verb: Verb, words: readonly string[]] | readonly [verb: undefined, text: string];

async function pickVerb({ words, verbs: known = verbs }: CommandLine): Promise<Picked> {
  const [first, ...rest] = words;
  if (first === "--version" || first === "-v") return [undefined, `${packageVersion()}\n`];
  const isHelp = first === "--help" || first === "-h" || first === "help";
  // "blip2 help scenes" is "blip2 scenes --help"
  const name = isHelp ? rest[0] : first;
  const load = name !== undefined && Object.hasOwn(known, name) ? known[name] : undefined;
  if (load !== undefined) return [await load(), isHelp ? ["--help"] : rest];
  if (isHelp && name === undefined) {
    return [undefined, generalHelp(await Promise.all(Object.values(known).map((loadVerb) => loadVerb())))];
  }
  const hint = suggestion(name ?? "", Object.keys(known));
  const remedy = hint === "" ? "; blip2 --help lists the verbs" : hint;
  if (name === undefined) throw new UserError(`a verb is missing${remedy}`, { exitCode: 2 });
  const kind = name.startsWith("-") ? "option" : "verb";
  throw new UserError(`unknown ${kind} ${shortened(name)}${remedy}`, { exitCode: 2 });
}

function packageVersion(): string {
  const text = readFileSync(new URL("package.json", packageRoot), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

/** What is written to people repeats no long word of the command line whole: they know it, and it would hide the sentence. */
function withoutLongWords(words: readonly string[]): (text: string) => string {
  const long = words
    .flatMap((word) => [word, /^--[\w-]+=(.*)$/su.exec(word)?.[1] ?? ""])
    .filter((word) => shortened(word) !== word)
    // The longest first, as one may be a part of another.
    .sort((a, b) => b.length - a.length);
  return (text) =>
    long.reduce(
      (rest, word) =>
        rest
          .replaceAll(word, () => shortened(word))
          .replaceAll(JSON.stringify(word).slice(1, -1), () => JSON.stringify(shortened(word)).slice(1, -1)),
      text,
    );
}

function describeFailure(
  error: unknown,
  signal: AbortSignal,
  shown: (text: string) => string,
): { code: number; sentence: string } {
  if (signal.aborted || error instanceof InterruptedError) return { code: 130, sentence: "interrupted" };
  const message = shown(error instanceof Error ? error.message : String(error))
    .trim()
    .replace(/\s*\n\s*/g, " ");
  if (error instanceof UserError) return { code: error.exitCode, sentence: message };
  // "ENOSPC: no space left on device, write": the system's own sentence says it well
  const isSystem = error instanceof Error && "syscall" in error;
  if (isSystem && !(error instanceof InternalError)) return { code: 1, sentence: message };
  return { code: 1, sentence: `internal error, please report it (BLIP2_DEBUG=1 shows where): ${message}` };
}
