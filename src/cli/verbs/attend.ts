import { UserError } from "../../errors.js";
import type { AttentionMap, ImageAttention, MatchingAttention, Peak } from "../../index.js";
import { bundledModel, bundledRetriever } from "../generation-options.js";
import { loadingHooks, modelFolder, modelOptions, precisionOption } from "../model-option.js";
import { defineVerb } from "../verb.js";

export const attend = defineVerb({
  name: "attend",
  summary: "draw where the model looks in a picture",
  operands: { image: { help: "a picture file (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, SVG, ...)" } },
  options: {
    out: { type: "string", value: "FILE", required: true, help: "the drawing, a PNG file" },
    text: { type: "string", help: "draw what speaks for this text; needs a model that matches texts" },
    ...modelOptions,
    ...precisionOption,
    imageSize: {
      type: "integer",
      min: 1,
      help: "side in pixels to which the picture is resized; the model's own",
    },
    layer: {
      type: "integer",
      min: 0,
      help: "a layer of the Q-Former that looks at pictures; the mean of all if not given",
    },
    head: { type: "integer", min: 0, help: "one of its heads; the mean of all if not given" },
    query: { type: "integer", min: 0, help: "one query; if not given all, and their mean large" },
  },
  jsonKeys: {
    image: "the path as given",
    out: "the drawing",
    layers: "the Q-Former's layers that look at pictures",
    heads: "how many heads each has",
    queries: "how many queries there are",
    layer: "the chosen layer, or null for the mean",
    head: "the chosen head, or null for the mean",
    query: "the chosen query, or null for all",
    grid: "rows and columns of the picture's patches",
    classShare:
      "what the class position has, which lies nowhere in the picture: a part of 1, the mean of the queries drawn",
    peaks:
      "for each query drawn: query, and row, column (from 0) and share of the patch it looks at most; null where it looks at none",
    text: "with --text: as given",
    itmLogit: "with --text: the matching head's logit for a match",
    itmProbability: "with --text: its probability of a match",
  },
  examples: [
    "blip2 attend photo.jpg --out attention.png",
    'blip2 attend photo.jpg --text "a red star" --out match.png',
    "blip2 attend photo.jpg --model Salesforce/blip2-opt-2.7b --layer 10 --query 3 --out q3.png --json",
  ],

  async run(context, { operands: { image }, options }) {
    const { output, progress, signal } = context;
    const { out, text, revision, precision, imageSize, layer, head, query } = options;
    const { model: name = text === undefined ? bundledModel : bundledRetriever } = options;
    const library = await import("../../index.js");
    const { loadImage } = await import("../../images/load-image.js");
    const { choiceProblems } = await import("../../models/attention-maps.js");
    const { writeFileAtomic } = await import("../../files/atomic-write.js");
    await checkOut(out, image);
    // First, because it is quick to say that a picture is not there.
    const pixels = { ...(await loadImage(image, { signal })), channels: 3 } as const;
    const folder = await modelFolder(context, name, revision);
    const { readsTexts, ...sizes } = await describe(folder);
    const problems = choiceProblems(sizes, { layer, head, query });
    if (problems.length > 0) throw new UserError(`attend: ${problems.join("; ")}`, { exitCode: 2 });
    if (text !== undefined && !readsTexts) {
      throw new UserError(
        `attend: --text needs a model that compares pictures with texts, ${name} writes texts about pictures; ` +
          "give a folder of Blip2ForImageTextRetrieval, such as Salesforce/blip2-itm-vit-g, or leave out --model for the bundled one",
      );
    }
    const loading = { precision, imageSize, ...loadingHooks(context) };
    let [attention, matching]: [ImageAttention?, MatchingAttention?] = [];
    if (readsTexts) {
      await using retriever = await library.Blip2Retriever.load(folder, loading);
      progress.update({ label: "attend", step: 0, total: 1 });
      if (text === undefined) attention = await retriever.attention(pixels, { signal });
      else matching = await retriever.matchingAttention(pixels, text, { signal });
    } else {
      await using model = await library.Blip2.load(folder, { ...loading, attentionOnly: true });
      progress.update({ label: "attend", step: 0, total: 1 });
      attention = await model.attention(pixels, { signal });
    }
    const maps =
      matching === undefined
        ? library.attentionMaps(attention!, { layer, head })
        : library.matchingMaps(matching, { layer, head });
    const drawn = query === undefined ? [...maps.keys()] : [query];
    const shown = drawn.map((index) => maps[index]!);
    const map = library.meanMap(shown);
    const panels = matching === undefined && query === undefined ? maps : [];
    await writeFileAtomic(out, await library.drawAttention(pixels, { map, panels }));
    const peaks = drawn.map((index) => ({ query: index, ...peakAsRow(library.peakOf(maps[index]!)) }));
    output.record(
      {
        image,
        out,
        ...sizes,
        layer: layer ?? null,
        head: head ?? null,
        query: query ?? null,
        grid: { rows: map.rows, columns: map.columns },
        classShare: classShare(map),
        peaks,
        ...(matching && {
          text,
          itmLogit: matching.itmLogit,
          itmProbability: matching.itmProbability,
        }),
      },
      sentence(out, map, library.peakOf(map), matching),
    );
  },
});

/** The drawing is a PNG, and never takes the place of the picture that it is of. */
async function checkOut(out: string, image: string): Promise<void> {
  const path = await import("node:path");
  const { stat } = await import("node:fs/promises");
  const ending = path.extname(out);
  if (ending !== "" && ending.toLowerCase() !== ".png") {
    throw new UserError(`attend: --out ${out}: the drawing is a PNG file, give a name that ends in .png`, {
      exitCode: 2,
    });
  }
  // The same file may have two names.
  const [written, read] = await Promise.all([out, image].map((file) => stat(file).catch(() => undefined)));
  if (written !== undefined && read !== undefined && written.ino === read.ino && written.dev === read.dev) {
    throw new UserError(
      `attend: --out ${out} is the picture itself and would replace it; give another name`,
      {
        exitCode: 2,
      },
    );
  }
}

interface Description {
  /** Whether it is a model that compares pictures with texts. */
  readonly readsTexts: boolean;
  readonly layers: readonly number[];
  readonly heads: number;
  readonly queries: number;
}

/** From config.json, before any weight is read. */
async function describe(folder: string): Promise<Description> {
  const { readModelFolder } = await import("../../checkpoints/model-folder.js");
  const { blip2Config } = await import("../../models/blip-2.js");
  const { retrievalConfig } = await import("../../models/blip-2-retrieval.js");
  const { crossAttentionLayers } = await import("../../models/q-former.js");
  const { path, config } = await readModelFolder(folder);
  const qformer = config["qformer_config"] as { readonly use_qformer_text_input?: unknown } | undefined;
  const readsTexts = qformer?.use_qformer_text_input === true;
  const checked = (readsTexts ? retrievalConfig : blip2Config)(config, `${path}/config.json`);
  return {
    readsTexts,
    layers: crossAttentionLayers(checked.qformer_config),
    heads: checked.qformer_config.num_attention_heads,
    queries: checked.num_query_tokens,
  };
}

function peakAsRow(peak: Peak | undefined): { [K in keyof Peak]: number | null } {
  return peak ?? { row: null, column: null, share: 0 };
}

/** Of the whole; 0 where there is nothing. */
function classShare({ classValue, values }: AttentionMap): number {
  const whole = values.reduce((sum, value) => sum + value, classValue);
  return whole === 0 ? 0 : classValue / whole;
}

function sentence(
  out: string,
  map: AttentionMap,
  peak: Peak | undefined,
  matching: MatchingAttention | undefined,
): string {
  const percent = (part: number): string => `${(100 * part).toFixed(1)} %`;
  const most =
    peak === undefined
      ? "nowhere"
      : `most at row ${peak.row}, column ${peak.column} of ${map.rows} x ${map.columns} patches (${percent(peak.share)})`;
  if (matching === undefined) {
    return `${out}: looks ${most}; the class position has ${percent(classShare(map))}`;
  }
  return `${out}: a match by ${percent(matching.itmProbability)}; "${matching.text}" is found ${most}`;
}
