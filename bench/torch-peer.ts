/** The PyTorch side of a benchmark: reference/bench_training_step.py as a server that takes turns with us. */
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { inRepository } from "./repository.js";

const script = inRepository("reference/bench_training_step.py");

/** One line of the peer's answers. */
export interface PeerAnswer {
  readonly seconds: readonly number[];
  readonly loss: number | null;
  readonly peak_rss_bytes: number;
  /** The peak after the imports. */
  readonly start_rss_bytes: number;
  readonly versions: Readonly<Record<string, string>>;
}

export class TorchPeer {
  private constructor(
    private readonly child: ChildProcess,
    private readonly lines: AsyncIterator<string>,
    readonly versions: Readonly<Record<string, string>>,
  ) {}

  /** Starts the peer and waits for its untimed step; a text says why there is none, for example without torch. */
  static async start(options: readonly string[]): Promise<TorchPeer | string> {
    const python = process.env["BLIP2_PYTHON"] ?? "python3";
    const child = spawn(python, [script, ...options], { stdio: ["pipe", "pipe", "pipe"] });
    let errors = "";
    child.stderr.on("data", (text: Buffer) => (errors += text.toString()));
    const failed = new Promise<string>((resolve) => {
      child.on("error", (error) => resolve(error.message));
    });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const first = await Promise.race([failed, lines.next()]);
    if (typeof first === "string") return `${python}: ${first}`;
    if (first.done) return `${python}: ${errors.trim().split("\n").at(-1) ?? "it ended without a word"}`;
    return new TorchPeer(child, lines, (JSON.parse(first.value) as PeerAnswer).versions);
  }

  /** Times `count` steps there, while we wait. */
  async run(count: number): Promise<PeerAnswer> {
    this.child.stdin!.write(`run ${count}\n`);
    const { value, done } = await this.lines.next();
    if (done) throw new Error("the PyTorch peer has ended");
    const answer = JSON.parse(value) as PeerAnswer | { readonly error: string };
    if ("error" in answer) throw new Error(`the PyTorch peer says: ${answer.error}`);
    return answer;
  }

  close(): void {
    this.child.stdin!.end();
  }
}
