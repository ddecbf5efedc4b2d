/** Captions behind the soft prompt of a decoder-only language model (paper section 3.3). */
import { input } from "../../engine/index.js";
import { UserError } from "../../errors.js";
import type { TextIds } from "../../models/language/families.js";
import type { DecoderOnly } from "../../models/language/language-model.js";
import { ignoreIndex } from "../../objectives/cross-entropy.js";
import { softPromptLoss } from "../../objectives/stage-2.js";
import type { TextTokenizer } from "../../text/tokenizer.js";
import { RowTokens } from "../../training/row-tokens.js";
import { paddedBatch, type TokenRow } from "../../training/token-rows.js";
import { clozeOf } from "../../training/cloze.js";
import type { Stage2Config } from "./config.js";
import type { TextSide } from "./text-side.js";

export function decoderText(
  model: DecoderOnly,
  ids: TextIds,
  tokenizer: TextTokenizer,
  config: Stage2Config,
  queries: number,
): TextSide {
  if (queries + config.maxTextLength > model.maximumLength) {
    throw new UserError(
      `maxTextLength is ${config.maxTextLength}, too much after ${queries} queries: the language model has ${model.maximumLength} positions`,
    );
  }
  const writer = new RowWriter(tokenizer, ids, config);
  return {
    loss: (bridge, features, count, dropout, promptLimit) => {
      const batch = {
        features,
        ids: input("ids", "int64", [count, "T"]),
        mask: input("mask", "int64", [count, "T"]),
        labels: input("labels", "int64", [count, "T"]),
      };
      return softPromptLoss(bridge, model, batch, dropout, promptLimit);
    },
    feeds: (texts) =>
      paddedBatch(
        texts.map((given) =>
          "caption" in given ? writer.caption(given.caption) : writer.statements(given.statements),
        ),
        ids.pad,
      ),
  };
}

/** Token rows behind a soft prompt. */
export class RowWriter {
  private readonly tokens: RowTokens;

  constructor(
    private readonly tokenizer: TextTokenizer,
    private readonly special: TextIds,
    private readonly config: Pick<Stage2Config, "prompt" | "maxTextLength" | "learnStartToken">,
  ) {
    this.tokens = new RowTokens(tokenizer, special.end);
  }

  /**
   * Start token, prompt, caption, end token. Prompt and caption are one text, so that the caption's first word has the space before it
   * that it has wherever it stands; of that text, as many tokens as the prompt has alone are not learnt (LAVIS's `prompt_length`).
   */
  caption(caption: string): TokenRow {
    const { maxTextLength, learnStartToken } = this.config;
    // The space between them belongs to the caption's first word; another break, as of lines, to the prompt.
    const prompt = this.config.prompt.replace(/ +$/, "");
    const gap = /\s$/.test(prompt) ? "" : " ";
    const whole = prompt === "" ? [] : this.tokenizer.encode(`${prompt}${gap}${caption.trimStart()}`);
    const length = prompt === "" ? 0 : this.tokenizer.encode(prompt).length;
    const opening = prompt === "" ? [this.special.start] : whole.slice(0, length);
    const said = prompt === "" ? this.tokens.words(caption) : whole.slice(length);
    const isLearnt = learnStartToken && prompt === "";
    const target = this.tokens.cut([...said, this.special.end], maxTextLength - opening.length);
    return {
      ids: [...opening, ...target],
      labels: [...opening.map((id) => (isLearnt ? id : ignoreIndex)), ...target],
    };
  }

  /** Start token, then statements with their end tokens; of each, what it is about is given. */
  statements(statements: readonly string[]): TokenRow {
    const { start, end } = this.special;
    const ids = [start];
    const labels = [ignoreIndex];
    for (const statement of statements) {
      const { before, missing } = clozeOf(statement);
      const given = this.tokens.words(before);
      const target = [...this.tokens.words(missing), end];
      if (ids.length + given.length + target.length > this.config.maxTextLength) break;
      ids.push(...given, ...target);
      labels.push(...given.map(() => ignoreIndex), ...target);
    }
    return { ids, labels };
  }
}
