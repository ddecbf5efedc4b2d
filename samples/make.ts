/**
 * Makes the sample pictures and three questions about each (questions.json): scenes that no model here was trained on, drawn at four times the size that models
 * see (they shrink pictures themselves). The same pictures every time: node --import tsx samples/make.ts
 */
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { askScene, makeScene, Random, sceneSvg, type Split } from "../src/data/scenes/index.js";

const seed = 2024;
/** Compositional ones show pairs of colour and thing that training leaves out. */
const chosen: readonly (readonly [split: Split, index: number])[] = [
  ["test", 1],
  ["test", 2],
  ["test", 4],
  ["test", 9],
  ["test", 14],
  ["test", 33],
  ["compositional", 1],
  ["compositional", 8],
];
// SVG lengths are meant for 72 dots an inch.
const density = 72 * 4;

const questions: Record<string, string[]> = {};
for (const [split, index] of chosen) {
  const asked = askScene(makeScene(seed, split, index), new Random("samples", split, index), 3);
  questions[`${split}-${index}.png`] = asked.map(({ question }) => question);
  const file = fileURLToPath(new URL(`${split}-${index}.png`, import.meta.url));
  const svg = Buffer.from(sceneSvg(makeScene(seed, split, index)));
  await sharp(svg, { density }).removeAlpha().png({ compressionLevel: 9, palette: false }).toFile(file);
}
await writeFile(
  fileURLToPath(new URL("questions.json", import.meta.url)),
  `${JSON.stringify(questions, undefined, 2)}\n`,
);
