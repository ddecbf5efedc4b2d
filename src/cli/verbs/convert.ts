import { defineVerb } from "../verb.js";

export const convert = defineVerb({
  name: "convert",
  summary: "write a Hugging Face folder from a LAVIS .pth, a .bin, or an early revision",
  operands: {
    in: {
      help: "a .pth of LAVIS (BLIP-2, EVA-CLIP or CLIP), or a Hugging Face folder or .bin file; pickles in it are read, never executed",
    },
    out: { help: "the folder to write; new, empty, or a model folder, which is replaced" },
  },
  options: {
    vision: {
      type: "string",
      value: "FILE",
      help: "eva_vit_g.pth or clip_vit_L.pth, where a .pth holds no image encoder",
    },
    languageModel: {
      type: "string",
      value: "FOLDER",
      help: "OPT or FLAN-T5 in Hugging Face's layout, for a .pth of stage 2",
    },
    tokenizer: {
      type: "string",
      value: "FOLDER",
      help: "where the tokenizer is; that of --language-model if not given; bert-base-uncased for stage 1",
    },
    dtype: {
      type: "enum",
      choices: ["unchanged", "float32", "float16"],
      default: "unchanged",
      help: "how float tensors are stored",
    },
    visionHeads: {
      type: "integer",
      min: 1,
      help: "attention heads of an image encoder of no published size",
    },
    visionLayers: { type: "integer", min: 1, help: "blocks to keep of such an image encoder's own file" },
    qformerHeads: { type: "integer", min: 1, help: "attention heads of a Q-Former of no published size" },
  },
  jsonKeys: {
    out: "the folder written",
    architecture: "the Hugging Face class that loads it",
    read: "files of tensors that were read",
    tensors: "tensors written",
    parameters: "numbers in them",
    leftOut:
      "what the files hold and the folder does not: tensors by their old names, optimizer, configuration",
    files: "further files written",
  },
  examples: [
    "blip2 convert blip2_opt2.7b.pth OUT --vision eva_vit_g.pth --language-model opt-2.7b",
    "blip2 convert blip2.pth OUT --vision eva_vit_g.pth --tokenizer bert-base-uncased",
  ],

  async run({ output, progress, log, signal }, { operands: { in: input, out }, options }) {
    const { convertCheckpoint } = await import("../../conversion/convert.js");
    const { architecture, read, leftOut, files, ...written } = await convertCheckpoint(input, out, {
      ...options,
      signal,
      onNotice: log,
      onProgress: ({ detail, step, total }) => progress.update({ label: detail, step, total }),
    });
    output.record(
      { out, architecture, read, ...written, leftOut, files },
      `${out}: ${architecture}, ${written.tensors} tensors, ${written.parameters} numbers` +
        (leftOut.length === 0
          ? ""
          : `; left out: ${leftOut.slice(0, 8).join(", ")}${leftOut.length > 8 ? `, and ${leftOut.length - 8} more (--json lists them)` : ""}`),
    );
  },
});
