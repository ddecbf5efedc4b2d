/**
 * Makes the sample pictures: scenes that no model here was trained on, drawn at four times the size that models
 * see (they shrink pictures themselves). The same pictures every time: node --import tsx samples/make.ts
 */
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { makeScene, sceneSvg, type Split } from "../src/data/scenes/index.js";

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

for (const [split, index] of chosen) {
  const file = fileURLToPath(new URL(`${split}-${index}.png`, import.meta.url));
  const svg = Buffer.from(sceneSvg(makeScene(seed, split, index)));
  await sharp(svg, { density }).removeAlpha().png({ compressionLevel: 9, palette: false }).toFile(file);
}
