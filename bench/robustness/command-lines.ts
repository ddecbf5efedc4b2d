/** Command lines of words that somebody may type, or a script may pass on. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import { pathToFileURL } from "node:url";
import { UserError } from "../../src/errors.js";
import type { Random } from "../../src/random.js";
import { inRepository } from "../repository.js";
import type { Kind } from "./trial.js";

const verbs = [
  "caption",
  "ask",
  "chat",
  "match",
  "attend",
  "convert",
  "scenes",
  "train",
  "evaluate",
  "doctor",
];
const options = [
  ["--model", "--prompt", "--beams", "--max-new-tokens", "--out", "--count", "--seed", "--config", "--data"],
  ["--precision", "--revision", "--top-p", "--json", "--resume", "--text", "--layer", "--threads", "--stop"],
].flat();
const values = [
  ["0", "1", "-1", "3", "1e9", "9".repeat(30), "NaN", "Infinity", "0x10", "", " ", "int8", "fp32", "stage1"],
  ["no-such-file.png", "no/such/folder", "..", "/dev/null", "org/name", "-dash.png", "-h", "--", "a b", "😀"],
  [
    "\u001b[31m",
    "line\nbreak",
    "x".repeat(5000),
    "'\"`$(id)",
    "https://example.com/a.png",
    "data:image/png;base64,AAAA",
  ],
].flat();
/** Each is wrong after any verb. */
const mistakes = ["--no-such-option", "--jsn", "-dash.png", "-q", "--json=yes", "--help-me", "-hx"];

function words(random: Random): string[] {
  const rest = Array.from({ length: random.between(0, 6) }, () =>
    random.chance(0.4) ? random.pick(options) : random.pick(values),
  );
  return [random.pick(verbs), ...rest];
}

interface CommandLines {
  readonly runCommandLine: (commandLine: {
    words: readonly string[];
    stdin: Readable;
    stdout: Writable;
    stderr: Writable;
    env: Record<string, string>;
    signal: AbortSignal;
  }) => Promise<number>;
}

class Kept extends Writable {
  text = "";
  override _write(chunk: Buffer, _: BufferEncoding, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

export const commandLines: Kind = {
  name: "command-lines",
  title: "command lines",
  rule:
    "Verbs with options and values at random, some of them empty, huge, or with control signs; with a mistake that has to be refused with exit code 2; and calls for help. " +
    "Right: help with exit code 0. Accepted: a line that was carried out. Every refusal is one line of at most 5,000 letters, without internal errors.",
  count: 1200,
  quick: 80,
  limit: 60_000,
  async prepare(folder) {
    // What is built finds package.json and the models.
    const { runCommandLine } = (await import(
      pathToFileURL(inRepository("dist/cli/run.js")).href
    )) as CommandLines;
    await mkdir(join(folder, "here"), { recursive: true });
    process.chdir(join(folder, "here"));
    Object.assign(process.env, { HF_HUB_OFFLINE: "1", HF_HOME: join(folder, "hf"), XDG_CACHE_HOME: folder });
    const carryOut = async (line: readonly string[]): Promise<{ code: number; shown: string }> => {
      const [stdout, stderr] = [new Kept(), new Kept()];
      const { signal } = new AbortController();
      const stdin = Readable.from([]);
      const code = await runCommandLine({ words: line, stdin, stdout, stderr, env: {}, signal });
      const last = stderr.text.trimEnd().split("\n").at(-1) ?? "";
      if (stderr.text.includes("internal error")) throw new Error(stderr.text);
      if (code === 0) return { code, shown: stdout.text };
      if (!last.startsWith("blip2: ")) return { code, shown: `fault: "${last}"` };
      throw new UserError(last, { exitCode: code === 2 ? 2 : 1 });
    };
    return (random, index) => {
      const part = index % 4;
      const line = words(random);
      if (part === 0) {
        const help = [...line.filter((word) => !["--", "-h"].includes(word) && !/^-./.test(word)), "--help"];
        return {
          form: "help",
          must: "read",
          run: async () =>
            (await carryOut(help)).shown.startsWith(`blip2 ${help[0]}`) ? undefined : "no help",
        };
      }
      if (part === 1) {
        const [mistake, verb] = [random.pick(mistakes), line[0]!];
        return {
          form: "a mistake",
          must: "refuse",
          run: async () => {
            try {
              return `exit code ${(await carryOut([verb, mistake])).code}`;
            } catch (error) {
              if (error instanceof UserError && error.exitCode !== 2) return `exit code 1: ${error.message}`;
              throw error;
            }
          },
        };
      }
      return {
        form: "words at random",
        must: "either",
        run: async () => {
          const { shown } = await carryOut(line);
          return shown.startsWith("fault") ? shown : undefined;
        },
      };
    };
  },
};
