/** `npm run bench -- NAME [options]`: the benchmarks by name. */
import { captions } from "./captions.js";
import { featureStore } from "./feature-store.js";
import { inference } from "./inference.js";
import { quantisation } from "./quantisation.js";
import { compareTenSteps } from "./ten-steps.js";
import { stage2Start } from "./stage-2-start.js";
import { timerDelays } from "./timer.js";
import { trainingStep } from "./training-step.js";

const benches: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = {
  training: trainingStep,
  inference,
  quantisation,
  captions,
  timer: timerDelays,
  "ten-steps": compareTenSteps,
  "stage2-start": stage2Start,
  "feature-store": featureStore,
};

const [name, ...args] = process.argv.slice(2);
const bench = name === undefined ? undefined : benches[name];
if (bench === undefined) {
  console.error(
    `usage: npm run bench -- NAME [options], where NAME is one of: ${Object.keys(benches).join(", ")}`,
  );
  process.exitCode = 2;
} else {
  await bench(args);
}
