/** From prompts and soft prompts to texts: what every call of `Blip2` that writes has in common. */
import { stopIf, UserError } from "../errors.js";
import type { HostTensor } from "../host-tensor.js";
import type { ImageSource } from "../images/load-image.js";
import type { PreprocessConfig } from "../images/preprocess.js";
import type { TextTokenizer } from "../text/tokenizer.js";
import type { Blip2Runner } from "./blip-2-runner.js";
import type { Generated } from "./calls.js";
import { softPromptsOf, type ImageView } from "./image-view.js";
import { searchSettings, type GenerateSettings, type GenerationDefaults } from "./options.js";
import { paddedPrompt } from "./padded-prompt.js";
import { generateTokens, generationSteps } from "./search/generate.js";
import type { SearchSettings } from "./search/search.js";
import type { Prompt, Stepper } from "./search/stepper.js";
import { TextWriter } from "./text-writer.js";

/** Tokens of a prompt where the model has no positions that would bound it; the paper's T5 was trained on 512. */
export const usualPromptTokens = 2048;

/** No token of a text in words is longer on average. What has more characters is refused before it is cut into tokens. */
const charactersPerToken = 32;

/** What a text goes on from: Q soft positions, and then ids, of each row. */
export interface Start {
  readonly rows: readonly (readonly number[])[];
  readonly queries: number;
  /** float32 [B, Q, L]; asked for once it is clear that all has room. */
  softPrompts(): Promise<HostTensor>;
}

export class TextGenerator {
  constructor(
    private readonly runner: Blip2Runner,
    private readonly tokenizer: TextTokenizer,
    private readonly pictures: PreprocessConfig,
    private readonly defaults: GenerationDefaults,
  ) {}

  /** Behind pictures. */
  about(
    call: string,
    images: readonly (ImageSource | ImageView)[],
    prompts: readonly (string | undefined)[],
    { signal, maxPromptTokens }: GenerateSettings,
  ): Start {
    return {
      rows: prompts.map((prompt) => this.promptIds(call, prompt, maxPromptTokens)),
      queries: this.runner.config.num_query_tokens,
      softPrompts: () => softPromptsOf(this.runner, images, this.pictures, signal),
    };
  }

  async search(call: string, start: Start, asked: GenerateSettings): Promise<Generated[]> {
    const [settings, writer] = this.settings(call, start, asked);
    if (start.rows.length === 0) return [];
    const { signal } = asked;
    const prompt = await this.prompt(call, start, settings, signal);
    const found = await generateTokens(this.begin(settings), prompt, settings, signal);
    return found.map((sequences) => {
      const texts = sequences.map((sequence) => ({ text: writer.text(sequence.tokenIds), ...sequence }));
      return settings.numReturnSequences === 1 ? texts[0]! : { ...texts[0]!, sequences: texts };
    });
  }

  /** @param isAsked a caption without a prompt answers nothing, and need not wait for the model's marker. */
  async *stream(
    start: Start,
    asked: GenerateSettings,
    isAsked: boolean,
  ): AsyncGenerator<string, void, undefined> {
    const { signal } = asked;
    const [settings, writer] = this.settings("stream", start, asked, isAsked);
    const ready = await this.prompt("stream", start, settings, signal);
    let [ids, shown]: [readonly number[], string] = [[], ""];
    for await (const [running] of generationSteps(this.begin(settings), ready, settings, signal)) {
      ids = running!.results[0]!.tokenIds;
      const text = writer.settledText(ids);
      if (text.length <= shown.length) continue;
      yield text.slice(shown.length);
      shown = text;
    }
    const text = writer.text(ids);
    if (text.length > shown.length) yield text.slice(shown.length);
  }

  /** Throws a `UserError` that says how long the prompt is and how long it may be. */
  promptIds(call: string, prompt: string | undefined, maxPromptTokens?: number): readonly number[] {
    if (prompt === undefined) return [this.defaults.startId];
    this.checkCharacters(call, prompt, maxPromptTokens);
    return this.checked(call, this.tokenizer.encode(prompt), maxPromptTokens);
  }

  /** Of a prompt behind a written description, in the place where the soft prompt would stand. */
  describedIds(
    call: string,
    prompt: string,
    description: string | undefined,
    maxPromptTokens?: number,
  ): readonly number[] {
    if (description === undefined) return this.promptIds(call, prompt, maxPromptTokens);
    const whole = `${description} ${prompt}`;
    if (this.runner.languageModel.kind === "encoder-decoder")
      return this.promptIds(call, whole, maxPromptTokens);
    this.checkCharacters(call, whole, maxPromptTokens);
    const before = this.tokenizer.encode(description, { addSpecialTokens: false });
    return this.checked(call, [...before, ...this.tokenizer.encode(prompt)], maxPromptTokens);
  }

  private mostTokens(asked: number | undefined): number {
    const { maximumLength } = this.runner.languageModel;
    return asked ?? (Number.isFinite(maximumLength) ? maximumLength : usualPromptTokens);
  }

  /** Before the text is cut into tokens, which takes the caller's thread as long as the text is. */
  private checkCharacters(call: string, text: string, asked: number | undefined): void {
    const most = this.mostTokens(asked) * charactersPerToken;
    if (text.length <= most) return;
    throw new UserError(
      `${call}: the prompt has ${text.length} characters, at most ${most} are taken; shorten it${this.remedy()}`,
    );
  }

  private checked(call: string, ids: readonly number[], asked: number | undefined): readonly number[] {
    const most = this.mostTokens(asked);
    // Where the model has positions, the message about these says more.
    if (ids.length <= most || Number.isFinite(this.runner.languageModel.maximumLength)) return ids;
    throw new UserError(
      `${call}: the prompt has ${ids.length} tokens, at most ${most} are taken, as memory grows with their square; ` +
        `shorten it${this.remedy()}`,
    );
  }

  private remedy(): string {
    const isOpen = !Number.isFinite(this.runner.languageModel.maximumLength);
    return isOpen ? ", or raise maxPromptTokens" : "";
  }

  /** What a call asks for, with its words as ids, and what turns ids into its text. */
  private settings(
    call: string,
    { rows, queries }: Start,
    asked: GenerateSettings,
    isAsked = true,
  ): [settings: SearchSettings, writer: TextWriter] {
    const longest = rows.reduce((most, row) => Math.max(most, row.length), 0);
    // What an encoder-decoder writes begins with one token, and stands apart from what it reads.
    const before = this.runner.languageModel.kind === "encoder-decoder" ? 1 : queries + longest;
    const settings = searchSettings(call, asked, this.defaults, before);
    const stops = asked.stop === undefined ? this.defaults.stops : [asked.stop].flat();
    const after = asked.answerAfter ?? (isAsked ? this.defaults.answerAfter : undefined);
    const writer = new TextWriter(this.tokenizer, this.defaults.endIds, stops, after);
    // A word within a text has a space before it, and with it another id.
    const spellings = (asked.badWords ?? []).flatMap((word) => [word, ` ${word}`]);
    const words = spellings.map((word) => this.tokenizer.encode(word, { addSpecialTokens: false }));
    const forbidden = [...(settings.forbidden ?? []), ...words];
    return [{ ...settings, forbidden, isStopped: writer.isStopped }, writer];
  }

  private begin({ contrastive }: SearchSettings): Stepper {
    return this.runner.languageModel.begin({ states: contrastive !== undefined });
  }

  /** What the language model reads. */
  private async prompt(
    call: string,
    { rows, queries, softPrompts }: Start,
    settings: SearchSettings,
    signal: AbortSignal | undefined,
  ): Promise<Prompt> {
    stopIf(signal);
    const length = Math.max(...rows.map((row) => row.length));
    const { maximumLength } = this.runner.languageModel;
    const most = maximumLength - queries - length;
    if (settings.maxNewTokens > most) {
      throw new UserError(
        `${call}: the prompt of ${length} tokens leaves room for ${Math.max(0, most)} new ones in the model's ` +
          `${maximumLength} positions, maxNewTokens is ${settings.maxNewTokens}`,
      );
    }
    const softId = this.runner.config.image_token_index ?? undefined;
    return paddedPrompt(await softPrompts(), rows, { ...this.defaults, softId });
  }
}
