import { Readable, Writable } from "node:stream";
import { runCommandLine, type CommandLine } from "../../src/cli/run.js";

/** A stream that keeps what is written to it. */
export class Captured extends Writable {
  text = "";
  isTTY = false;
  columns = 80;

  override _write(chunk: Buffer, _: BufferEncoding, done: () => void): void {
    this.text += chunk.toString("utf8");
    done();
  }
}

/** Runs a command line in this process and keeps what it prints. */
export async function blip2(
  words: readonly string[],
  rest: Partial<CommandLine> = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  const [stdout, stderr] = [new Captured(), new Captured()];
  const { signal } = new AbortController();
  const stdin = Readable.from([]);
  const code = await runCommandLine({ words, stdin, stdout, stderr, env: {}, signal, ...rest });
  return { code, stdout: stdout.text, stderr: stderr.text };
}
