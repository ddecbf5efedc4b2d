/** All kinds of input. */
import { commandLines } from "./command-lines.js";
import { dataSets } from "./data-sets.js";
import { generationConfigs } from "./generation-configs.js";
import { hub } from "./hub.js";
import { modelFolders } from "./model-folders.js";
import { pictures } from "./pictures.js";
import { pytorch } from "./pytorch.js";
import { quantisedCopies } from "./quantised-copies.js";
import { runFolders } from "./run-folders.js";
import { safetensors } from "./safetensors.js";
import { longTexts, tokenizerFolders } from "./tokenizers.js";
import type { Kind } from "./trial.js";

export const kinds: readonly Kind[] = [
  pictures,
  safetensors,
  pytorch,
  modelFolders,
  generationConfigs,
  tokenizerFolders,
  longTexts,
  quantisedCopies,
  dataSets,
  runFolders,
  commandLines,
  hub,
];
