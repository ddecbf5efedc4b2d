/** The small files beside the weights of a converted model, and what config.json says about its tokens. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ConversionPlan } from "./plan.js";
import type { JsonObject } from "../files/json-file.js";

export interface Companions {
  readonly config: object;
  readonly files: Readonly<Record<string, string | Uint8Array | object>>;
  /** What the user should know. */
  readonly notes: readonly string[];
}

/** The preprocessor_config.json of pictures of a square size. */
async function preprocessor(side: number): Promise<object> {
  const { blipPreprocessor } = await import("../images/preprocess.js");
  return blipPreprocessor(side);
}

/**
 * The published language models: rows of their word tables, the first row without a word (which the hub's BLIP-2
 * folders use for the image token), and the token that ends a caption: for OPT the line break.
 */
const publishedTables: Readonly<Record<string, { readonly image: number; readonly end?: number }>> = {
  "opt 50272": { image: 50265, end: 50118 },
  "opt 50304": { image: 50265, end: 50118 },
  "t5 32128": { image: 32100 },
};

/** Gathers the files. `tokenizer` is a folder, where the plan's own companions are not the right ones. */
export async function companionFiles(
  plan: ConversionPlan,
  tokenizer: string | undefined,
): Promise<Companions> {
  const { architecture, config } = plan;
  const text = (config["text_config"] ?? {}) as JsonObject;
  const side = Number(
    (config["vision_config"] as JsonObject | undefined)?.["image_size"] ?? config["image_size"],
  );
  const isLavis = plan.layout === "lavis";
  switch (architecture) {
    case "Blip2VisionModel":
    case "CLIPVisionModel":
      if (!isLavis) break;
      return { config: {}, files: { "preprocessor_config.json": await preprocessor(side) }, notes: [] };
    case "Blip2ForImageTextRetrieval": {
      if (!isLavis) break;
      const pictures = { "preprocessor_config.json": await preprocessor(side) };
      if (tokenizer === undefined) {
        const notes = ["no tokenizer was given: put bert-base-uncased's with --tokenizer FOLDER"];
        return { config: {}, files: pictures, notes };
      }
      const { bertTokenizerFiles } = await import("../text/bert-tokenizer.js");
      return { config: {}, files: { ...(await bertTokenizerFiles(tokenizer)), ...pictures }, notes: [] };
    }
    case "Blip2ForConditionalGeneration":
      if (isLavis) return generationFiles(plan, text, side, tokenizer);
      break;
    default:
  }
  return { config: {}, files: await smallFiles(tokenizer ?? plan.companions), notes: [] };
}

async function generationFiles(
  { config, companions }: ConversionPlan,
  text: JsonObject,
  side: number,
  tokenizer: string | undefined,
): Promise<Companions> {
  const folder = tokenizer ?? companions!;
  const type = String(text["model_type"]);
  const known = publishedTables[`${type} ${String(text["vocab_size"])}`] ?? (await tokensOf(folder, type));
  const isRoom = known.image < Number(text["vocab_size"]);
  const end = known.end ?? text["eos_token_id"];
  const start = text["decoder_start_token_id"];
  return {
    config: { image_token_index: isRoom ? known.image : null, text_config: { ...text, eos_token_id: end } },
    files: {
      ...(await tokenizerFiles(folder)),
      "preprocessor_config.json": await preprocessor(side),
      "processor_config.json": {
        processor_class: "Blip2Processor",
        num_query_tokens: config["num_query_tokens"],
      },
      "generation_config.json": {
        bos_token_id: text["bos_token_id"] ?? (type === "t5" ? 1 : 2),
        eos_token_id: end,
        pad_token_id: text["pad_token_id"] ?? (type === "t5" ? 0 : 1),
        ...(start !== undefined && { decoder_start_token_id: start }),
      },
    },
    notes: isRoom ? [] : ["the word table has no row for an image token; config.json names none"],
  };
}

/** The same of a language model of another size, from its tokenizer. */
async function tokensOf(
  folder: string,
  type: string,
): Promise<{ readonly image: number; readonly end?: number }> {
  const { loadTokenizer } = await import("../text/tokenizer.js");
  const tokenizer = await loadTokenizer(folder);
  const image = tokenizer.has("<image>") ? tokenizer.idOf("<image>") : tokenizer.vocabularySize;
  const newline = tokenizer.encode("\n", { addSpecialTokens: false });
  return type === "opt" && newline.length === 1 ? { image, end: newline[0]! } : { image };
}

async function tokenizerFiles(folder: string): Promise<Record<string, Uint8Array>> {
  const { tokenizerFileNames } = await import("../text/tokenizer-files.js");
  return filesOf(folder, (name) => tokenizerFileNames.includes(name));
}

/** Everything small that a Hugging Face folder has beside config and weights. */
async function smallFiles(folder: string | undefined): Promise<Record<string, Uint8Array>> {
  if (folder === undefined) return {};
  const others = [
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "chat_template.json",
  ];
  return { ...(await tokenizerFiles(folder)), ...(await filesOf(folder, (name) => others.includes(name))) };
}

async function filesOf(
  folder: string,
  isWanted: (name: string) => boolean,
): Promise<Record<string, Uint8Array>> {
  const { mustStayInside } = await import("../files/inside-folder.js");
  const names = (await readdir(folder)).filter(isWanted);
  return Object.fromEntries(
    await Promise.all(
      names.map(async (name) => {
        await mustStayInside(folder, name);
        return [name, await readFile(join(folder, name))] as const;
      }),
    ),
  );
}
