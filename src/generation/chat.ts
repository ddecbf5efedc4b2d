/** Several questions about one picture, each asked behind the ones before and their answers. */
import { UserError } from "../errors.js";
import type { Generated, GenerateOptions, StreamOptions } from "./calls.js";
import type { ImageSource } from "../images/load-image.js";
import type { ImageView } from "./image-view.js";
import { usualPromptTokens } from "./limits.js";
import { checkOptions, type GenerateSettings } from "./options.js";
import { questionPrompt, type Turn } from "./questions.js";

export interface ChatOptions {
  readonly image: ImageSource | ImageView;
  /** How a question is put, with `{}` where it goes. Default: `questionFormat`. */
  readonly format?: string | undefined;
  /**
   * The oldest turns are left out so that a question with all before it takes at most so many tokens, counted as
   * `contextLength` does. Default: the model's positions; for T5, which has no limit of its own, 512.
   */
  readonly context?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a chat needs of a model. */
export interface ChatModel {
  generate(options: GenerateOptions): Promise<Generated>;
  stream(options: StreamOptions): AsyncGenerator<string, void, undefined>;
  /** How many tokens a picture, a prompt and what may be answered are for the model. */
  contextLength(prompt: string, maxNewTokens: number | undefined, maxPromptTokens: number): number;
}

/** Asks in turn: the next question waits for the answer to the last. */
export class Chat implements AsyncDisposable {
  private kept: Turn[] = [];
  private dropped = 0;

  /**
   * @param format with `{}` where a question goes.
   * @param context the most that `contextLength` may come to.
   */
  constructor(
    private readonly model: ChatModel,
    private readonly view: ImageView,
    private readonly format: string,
    /** See `ChatOptions`. */
    readonly context: number,
  ) {
    questionPrompt(format, "");
  }

  /** The turns that the model still reads, oldest first. */
  get turns(): readonly Turn[] {
    return this.kept;
  }

  /** How many of the oldest turns have been left out so far, because the context was used up. */
  get forgotten(): number {
    return this.dropped;
  }

  /**
   * The answer to a question, which becomes a turn. Greedy search unless `settings` ask for another.
   * Throws a `UserError` if the context has no room even for this question alone; then no turn is left out.
   */
  async ask(question: string, settings: GenerateSettings = {}): Promise<Generated> {
    checkOptions("ask", settings);
    const options = this.options(question, settings);
    const isOtherSearch = settings.sample === true || settings.penaltyAlpha !== undefined;
    const generated = await this.model.generate({ ...(isOtherSearch ? {} : { numBeams: 1 }), ...options });
    this.kept.push({ question, answer: generated.text });
    return generated;
  }

  /** The same, piece by piece. Who leaves early keeps the turn with what was said so far. */
  async *stream(
    question: string,
    settings: Omit<StreamOptions, "image" | "prompt"> = {},
  ): AsyncGenerator<string, void, undefined> {
    checkOptions("ask", settings);
    let answer = "";
    let failed = false;
    try {
      for await (const piece of this.model.stream(this.options(question, settings))) {
        answer += piece;
        yield piece;
      }
    } catch (error) {
      failed = true;
      throw error;
    } finally {
      if (!failed) this.kept.push({ question, answer });
    }
  }

  private options<S extends GenerateSettings>(question: string, settings: S) {
    const promptBehind = (turns: readonly Turn[]): string => questionPrompt(this.format, question, turns);
    const maxPromptTokens = settings.maxPromptTokens ?? Math.max(this.context, usualPromptTokens);
    const lengthBehind = (turns: readonly Turn[]): number =>
      this.model.contextLength(promptBehind(turns), settings.maxNewTokens, maxPromptTokens);
    const least = lengthBehind([]);
    if (least === Infinity) {
      throw new UserError(
        `ask: the question has ${question.length} characters, too many for a context of ${this.context} tokens; ask in fewer words`,
      );
    }
    if (least > this.context) {
      throw new UserError(
        `ask: the question needs a context of ${least} tokens, the chat has ${this.context}; ` +
          "ask in fewer words, or allow fewer new tokens or more context",
      );
    }
    while (lengthBehind(this.kept) > this.context) {
      this.kept.shift();
      this.dropped++;
    }
    // Models that go on with a dialogue would write the next question too.
    const next = this.format.slice(0, this.format.indexOf("{}")).trim();
    const stop = settings.stop ?? (next === "" ? undefined : next);
    return { ...settings, maxPromptTokens, stop, image: this.view, prompt: promptBehind(this.kept) };
  }

  /** Frees the picture's soft prompt. */
  close(): Promise<void> {
    return this.view.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
