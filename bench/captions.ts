/**
 * `npm run bench -- captions`: resident memory over many captions, made one after the other.
 *
 * --model FOLDER (default: the bundled model)  --count 200  --precision fp32  --threads N  --image FILE
 */
import { readdirSync } from "node:fs";
import { parseArgs } from "node:util";
import { availableCpus } from "../src/engine/node.js";
import { Blip2 } from "../src/generation/blip-2.js";
import { precisions } from "../src/loading/precision.js";
import { inRepository } from "./repository.js";

/** Growth per step of the best line through the values. */
function slope(values: readonly number[]): number {
  const mean = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0) / list.length;
  const [x, y] = [(values.length - 1) / 2, mean(values)];
  const above = values.reduce((sum, value, i) => sum + (i - x) * (value - y), 0);
  return above / values.reduce((sum, _, i) => sum + (i - x) ** 2, 0);
}

export async function captions(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      model: { type: "string", default: inRepository("models/scenes-opt") },
      count: { type: "string", default: "200" },
      precision: { type: "string", default: "fp32" },
      threads: { type: "string", default: String(availableCpus()) },
      image: { type: "string" },
    },
  });
  const precision = precisions.find((name) => name === values.precision);
  if (precision === undefined) throw new Error(`--precision is one of ${precisions.join(", ")}`);
  const samples = readdirSync(inRepository("samples")).filter((name) => /\.(png|jpe?g)$/.test(name));
  const images =
    values.image === undefined ? samples.map((name) => inRepository(`samples/${name}`)) : [values.image];
  await using model = await Blip2.load(values.model, { precision, threads: Number(values.threads) });
  const count = Number(values.count);
  const resident: number[] = [];
  for (let i = 0; i < count; i++) {
    await model.generate({ image: images[i % images.length]! });
    resident.push(process.memoryUsage.rss());
    if ((i + 1) % Math.max(1, Math.floor(count / 10)) === 0) {
      console.log(`${String(i + 1).padStart(5)} captions: ${(resident.at(-1)! / 2 ** 20).toFixed(1)} MiB`);
    }
  }
  const later = resident.slice(count >> 2);
  console.log(`after the first quarter: ${(slope(later) / 1024).toFixed(1)} KiB per caption`);
}
