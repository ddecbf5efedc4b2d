/**
 * `npm run experiments -- run NAME|all [--threads N] [--only SEED] [--arm ARM]` trains and measures what is not there yet,
 * in runs/experiments, and keeps results and thinned logs in docs/experiments. `npm run experiments -- page` makes docs/experiments.md
 * from those.
 */
import { parseArgs } from "node:util";
import { InterruptedError, UserError } from "../../src/errors.js";
import { inRepository } from "../repository.js";
import { plan } from "./definitions.js";
import { Places } from "./experiment.js";
import { writePage } from "./page.js";
import { Runner } from "./run.js";

const names = ["all", ...plan.experiments.map(({ name }) => name)].join("|");
const usage = `usage: npm run experiments -- run ${names} [--threads N] [--only SEED] [--arm ARM]
       npm run experiments -- page`;

function wholeNumber(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d+$/.test(text)) return Number(text);
  throw new UserError(`--${option}: a whole number is required, got ${text}`, { exitCode: 2 });
}

async function main(words: readonly string[], signal: AbortSignal): Promise<void> {
  const { values, positionals } = parseArgs({
    args: [...words],
    allowPositionals: true,
    options: { threads: { type: "string" }, only: { type: "string" }, arm: { type: "string" } },
  });
  const [command, name, ...rest] = positionals;
  const places = new Places(inRepository("."));
  const isRun = command === "run" && name !== undefined && rest.length === 0;
  const isPage = command === "page" && positionals.length === 1 && Object.keys(values).length === 0;
  if (isRun) {
    const runner = new Runner({
      plan,
      places,
      threads: wholeNumber("threads", values.threads),
      signal,
      say: (line) => console.error(`${new Date().toTimeString().slice(0, 8)} ${line}`),
    });
    return runner.run(name, wholeNumber("only", values.only), values.arm);
  }
  if (!isPage) throw new UserError(usage, { exitCode: 2 });
  await writePage(plan, places);
  console.error(`written: ${places.page}`);
}

const controller = new AbortController();
for (const name of ["SIGINT", "SIGTERM"] as const) {
  process.once(name, () => {
    console.error("stopping after this step; once more ends at once");
    controller.abort();
  });
}
try {
  await main(process.argv.slice(2), controller.signal);
} catch (error) {
  const isUsage = (error as { code?: unknown }).code === "ERR_PARSE_ARGS_UNKNOWN_OPTION";
  if (!(error instanceof UserError) && !(error instanceof InterruptedError) && !isUsage) throw error;
  console.error((error as Error).message);
  process.exitCode = isUsage ? 2 : error instanceof UserError ? error.exitCode : 130;
}
