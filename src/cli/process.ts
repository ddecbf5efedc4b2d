/** Ties a command line to this process: its words, streams, signals and exit code. */
import { InterruptedError } from "../errors.js";
import { ReaderGoneError, runCommandLine, type CommandLine } from "./run.js";

/**
 * Runs the words of this process and sets its exit code. Nothing calls process.exit, which would wait for, or crash
 * in, a native run on another thread.
 */
export async function runProcess(verbs?: NonNullable<CommandLine["verbs"]>): Promise<void> {
  const controller = new AbortController();
  let isAsked = false;

  const interrupt = (signal: NodeJS.Signals): void => {
    if (isAsked) {
      // Asked twice: give the signal back its own meaning, which ends the process at once.
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
      return;
    }
    isAsked = true;
    if (process.stderr.isTTY) process.stderr.write("\nblip2: stopping; press Ctrl-C again to quit at once\n");
    controller.abort(new InterruptedError("interrupted"));
  };
  process.on("SIGINT", interrupt);
  process.on("SIGTERM", interrupt);

  // "blip2 search ... | head": who stops reading wants no more work and no complaint.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    controller.abort(new ReaderGoneError("the reader of stdout has gone away"));
  });
  process.stderr.on("error", () => {});

  process.exitCode = await runCommandLine({
    words: process.argv.slice(2),
    get stdin() {
      return process.stdin;
    },
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    signal: controller.signal,
    ...(verbs && { verbs }),
  });
}
