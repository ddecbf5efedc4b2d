/**
 * How texts reach an encoder-decoder in stage 2 (paper section 3.3): prompt and prefix into its encoder, the rest
 * from its decoder. A caption is cut between two words or goes whole into the decoder.
 */
import type { Random } from "../../random.js";
import { input } from "../../engine/index.js";
import { prefixLanguageModelLoss } from "../../objectives/stage-2.js";
import { ignoreIndex } from "../../objectives/cross-entropy.js";
import type { TextIds } from "../../models/language/families.js";
import type { EncoderDecoder } from "../../models/language/language-model.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import { clozeOf, dialogueOf, type Cloze } from "../../training/cloze.js";
import type { Stage2Config } from "./config.js";
import type { TextSide } from "./text-side.js";
import { RowTokens } from "../../training/row-tokens.js";
import { paddedIds, paddedRows } from "../../training/token-rows.js";

/**
 * The share of captions that are cut, unless a configuration says otherwise. The paper cuts every one; but then
 * nothing is ever said from the start, which is what a caption without a prompt asks for.
 */
const usualSplitShare = 0.5;

export function encoderDecoderText(
  model: EncoderDecoder,
  ids: TextIds,
  tokenizer: TextTokenizer,
  config: Stage2Config,
): TextSide {
  const writer = new PrefixWriter(tokenizer, ids.end, config);
  return {
    loss: (bridge, features, count, dropout, promptLimit) => {
      const batch = {
        features,
        prefixIds: input("prefix_ids", "int64", [count, "S"]),
        prefixMask: input("prefix_mask", "int64", [count, "S"]),
        labels: input("labels", "int64", [count, "T"]),
        said: input("said", "int64", [count, "T"]),
      };
      return prefixLanguageModelLoss(bridge, model, batch, ids, dropout, promptLimit);
    },
    feeds: (texts) => {
      const rows = texts.map((given) =>
        "caption" in given
          ? writer.caption(given.caption, given.random)
          : writer.statements(given.statements),
      );
      const prefixes = paddedIds(
        rows.map(({ prefix }) => prefix),
        ids.pad,
      );
      return {
        prefix_ids: prefixes.ids,
        prefix_mask: prefixes.mask,
        labels: paddedRows(
          rows.map(({ labels }) => labels),
          ignoreIndex,
        ),
        said: paddedRows(
          rows.map(({ labels, said = labels }) => said),
          ignoreIndex,
        ),
      };
    },
  };
}

/** Token ids, each with the end token. */
export interface PrefixRow {
  /** For the encoder. */
  readonly prefix: readonly number[];
  /** From the decoder; `ignoreIndex` where nothing is learnt. */
  readonly labels: readonly number[];
  /** What the decoder reads, one place later; the labels where absent. */
  readonly said?: readonly number[];
}

/** Writes rows. Texts that are too long lose their last words, not their end token. */
export class PrefixWriter {
  private readonly tokens: RowTokens;
  private readonly sentinels: readonly number[];

  constructor(
    private readonly tokenizer: TextTokenizer,
    end: number,
    private readonly config: Pick<Stage2Config, "prompt" | "maxTextLength" | "splitShare"> & {
      readonly statements: Pick<Stage2Config["statements"], "form">;
    },
  ) {
    this.tokens = new RowTokens(tokenizer, end);
    this.sentinels = this.tokens.sentinels;
  }

  /** A caption, cut or whole; whole without `random`. */
  caption(caption: string, random?: Random): PrefixRow {
    const { prompt, splitShare = usualSplitShare } = this.config;
    const words = caption.split(/\s+/).filter((word) => word !== "");
    const cut = random?.chance(splitShare) ? splitPoint(words.length, random) : 0;
    if (cut === 0) return { prefix: this.text(prompt), labels: this.text(caption) };
    return { prefix: this.text(prompt, ...words.slice(0, cut)), labels: this.text(...words.slice(cut)) };
  }

  /** As the configuration's `statements.form` says. Of a row that comes to nothing, and of a single blank, the first is a prefix. */
  statements(statements: readonly string[]): PrefixRow {
    const clozes = statements.map(clozeOf);
    const row = this.config.statements.form === "dialogue" ? this.dialogue(clozes) : this.blanks(clozes);
    return row ?? { prefix: this.text(clozes[0]!.before), labels: this.text(clozes[0]!.missing) };
  }

  /** The decoder reads what each is about, and learns what is said of that. */
  private dialogue(clozes: readonly Cloze[]): PrefixRow | undefined {
    const row = dialogueOf(clozes, this.tokens, this.config.maxTextLength);
    return row.labels.length === 0 ? undefined : { prefix: this.text(""), ...row };
  }

  /**
   * Several statements without what they say of their thing: a sentinel each in its place, and the decoder gives each sentinel
   * with what belongs there, as in T5's own training.
   */
  private blanks(clozes: readonly Cloze[]): PrefixRow | undefined {
    const { maxTextLength } = this.config;
    const [prefix, labels]: [number[], number[]] = [[], []];
    for (const [i, { before, missing }] of clozes.slice(0, this.sentinels.length).entries()) {
      const sentinel = this.sentinels[i]!;
      const [given, said] = [this.tokens.words(before), this.tokens.words(missing)];
      const longest = Math.max(prefix.length + given.length, labels.length + said.length);
      if (longest + 2 > maxTextLength) break;
      prefix.push(...given, sentinel);
      labels.push(sentinel, ...said);
    }
    if (clozes.length === 1 || labels.length === 0) return undefined;
    const { end } = this.tokens;
    return { prefix: [...prefix, end], labels: [...labels, end] };
  }

  /** With the end token. */
  private text(...parts: readonly string[]): readonly number[] {
    const ids = this.tokenizer.encode(parts.filter((part) => part !== "").join(" "));
    return this.tokens.cut(ids, this.config.maxTextLength);
  }
}

/**
 * Words before the cut: uniform from the first to the middle, as the authors say they drew it. Between words, because
 * prompts of users end there too. 0 for a caption of one word, which cannot be cut.
 */
export function splitPoint(words: number, random: Random): number {
  const middle = Math.floor(words / 2);
  return middle === 0 ? 0 : random.between(1, middle);
}
