/** From prompts and soft prompts to texts: what every call of `Blip2` that writes has in common. */
import { stopIf, UserError } from "../errors.js";
import { float32Tensor, type HostTensor } from "../host-tensor.js";
import type { ImageSource } from "../images/load-image.js";
import type { PreprocessConfig } from "../images/preprocess.js";
import type { TextTokenizer } from "../text/tokenizer.js";
import type { Blip2Runner } from "./blip-2-runner.js";
import type { Generated } from "./calls.js";
import { softPromptsOf, type ImageView } from "./image-view.js";
import {
  charactersFor,
  checkMemory,
  languageBytes,
  partsWithin,
  usualMemory,
  usualPromptTokens,
  visionBytes,
  type BatchSize,
  type Part,
} from "./limits.js";
import type { GenerationDefaults } from "./generation-defaults.js";
import { searchSettings, type GenerateSettings } from "./options.js";
import { paddedPrompt } from "./padded-prompt.js";
import { generateTokens, generationSteps } from "./search/generate.js";
import type { SearchSettings } from "./search/search.js";
import type { Prompt, Stepper } from "./search/stepper.js";
import { TextWriter } from "./text-writer.js";

/** What a text goes on from: Q soft positions, and then ids, of each row. */
export interface Start {
  readonly rows: readonly (readonly number[])[];
  readonly queries: number;
  /** Of a part of the rows, float32 [B, Q, L]; asked for once it is clear that all has room. */
  softPrompts(part: Part): Promise<HostTensor>;
}

/** No default length gives way below this. */
const shortestFitted = 64;

export class TextGenerator {
  constructor(
    private readonly runner: Blip2Runner,
    private readonly tokenizer: TextTokenizer,
    private readonly pictures: PreprocessConfig,
    private readonly defaults: GenerationDefaults,
  ) {}

  /** Behind pictures. */
  async about(
    call: string,
    images: readonly (ImageSource | ImageView)[],
    prompts: readonly (string | undefined)[],
    { signal, maxPromptTokens }: GenerateSettings,
  ): Promise<Start> {
    const rows = await inTurns(prompts, (prompt) => this.promptIds(call, prompt, maxPromptTokens), signal);
    return {
      rows,
      queries: this.runner.config.num_query_tokens,
      softPrompts: (part) => softPromptsOf(this.runner, images.slice(...part), this.pictures, signal),
    };
  }

  /** Behind prompts alone, each with what is written in the place of a picture. */
  async without(
    call: string,
    prompts: readonly string[],
    descriptions: readonly string[] | undefined,
    { signal, maxPromptTokens }: GenerateSettings,
  ): Promise<Start> {
    const ids = (prompt: string, i: number): readonly number[] =>
      this.describedIds(call, prompt, descriptions?.[i], maxPromptTokens);
    const width = this.runner.languageModel.embeddingSize;
    return {
      rows: await inTurns(prompts, ids, signal),
      queries: 0,
      softPrompts: async ([from, to]) => float32Tensor([], [to - from, 0, width]),
    };
  }

  /** A batch that would take too much memory is searched for in parts, which changes no text. */
  async search(call: string, start: Start, asked: GenerateSettings): Promise<Generated[]> {
    const [settings, writer] = this.settings(call, start, asked);
    const { signal } = asked;
    const results: Generated[] = [];
    for (const part of this.parts(call, start, settings, asked)) {
      const own = settings.slice(...part);
      const prompt = await this.prompt(start, part, signal);
      const found = await generateTokens(this.begin(own[0]!), prompt, own, signal);
      for (const sequences of found) {
        const texts = sequences.map((sequence) => ({ text: writer.text(sequence.tokenIds), ...sequence }));
        results.push(own[0]!.numReturnSequences === 1 ? texts[0]! : { ...texts[0]!, sequences: texts });
      }
    }
    return results;
  }

  /** @param isAsked a caption without a prompt answers nothing, and need not wait for the model's marker. */
  async *stream(
    start: Start,
    asked: GenerateSettings,
    isAsked: boolean,
  ): AsyncGenerator<string, void, undefined> {
    const { signal } = asked;
    const [settings, writer] = this.settings("stream", start, asked, isAsked);
    const [whole] = this.parts("stream", start, settings, asked);
    const ready = await this.prompt(start, whole!, signal);
    let [ids, shown]: [readonly number[], string] = [[], ""];
    for await (const [running] of generationSteps(this.begin(settings[0]!), ready, settings, signal)) {
      ids = running!.results[0]!.tokenIds;
      const text = writer.settledText(ids);
      if (text.length <= shown.length) continue;
      yield text.slice(shown.length);
      shown = text;
    }
    const text = writer.text(ids);
    if (text.length > shown.length) yield text.slice(shown.length);
  }

  /** How many tokens a prompt has; Infinity if it has too many characters for `most` of them, and is not cut into tokens. */
  promptTokens(prompt: string, most: number): number {
    return prompt.length > charactersFor(most) ? Infinity : this.tokenizer.encode(prompt).length;
  }

  /** Throws a `UserError` that says how long the prompt is and how long it may be. */
  private promptIds(call: string, prompt: string | undefined, maxPromptTokens?: number): readonly number[] {
    if (prompt === undefined) return [this.defaults.startId];
    this.checkCharacters(call, prompt, maxPromptTokens);
    return this.checked(call, this.tokenizer.encode(prompt), maxPromptTokens);
  }

  /** Of a prompt behind a written description, in the place where the soft prompt would stand. */
  private describedIds(
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

  /** The most tokens of a prompt that may be asked for. */
  mostTokens(asked?: number): number {
    const { maximumLength } = this.runner.languageModel;
    if (Number.isFinite(maximumLength)) return Math.min(asked ?? maximumLength, maximumLength);
    return asked ?? usualPromptTokens;
  }

  /** Before the text is cut into tokens, which takes the caller's thread as long as the text is. */
  private checkCharacters(call: string, text: string, asked: number | undefined): void {
    const most = charactersFor(this.mostTokens(asked));
    if (text.length <= most) return;
    throw new UserError(
      `${call}: the prompt has ${text.length} characters, at most ${most} are taken; shorten it${this.remedy(asked)}`,
    );
  }

  private checked(call: string, ids: readonly number[], asked: number | undefined): readonly number[] {
    const isBounded = Number.isFinite(this.runner.languageModel.maximumLength);
    const most = this.mostTokens(asked);
    // The message about the model's positions says more.
    if (ids.length <= most || (isBounded && asked === undefined)) return ids;
    throw new UserError(
      `${call}: the prompt has ${ids.length} tokens, at most ${most} are taken, as memory grows with their square; ` +
        `shorten it${this.remedy(asked)}`,
    );
  }

  private remedy(asked: number | undefined): string {
    const isOpen = asked !== undefined || !Number.isFinite(this.runner.languageModel.maximumLength);
    return isOpen ? ", or raise maxPromptTokens" : "";
  }

  /**
   * What a call asks for, with its words as ids, for each row, and what turns ids into its text. Throws a `UserError` where
   * the model has not positions enough.
   */
  private settings(
    call: string,
    { rows, queries }: Start,
    asked: GenerateSettings,
    isAsked = true,
  ): [settings: readonly SearchSettings[], writer: TextWriter] {
    const { kind, maximumLength: positions } = this.runner.languageModel;
    const stops = asked.stop === undefined ? this.defaults.stops : [asked.stop].flat();
    const after = asked.answerAfter ?? (isAsked ? this.defaults.answerAfter : undefined);
    const writer = new TextWriter(this.tokenizer, this.defaults.endIds, stops, after);
    // A word within a text has a space before it, and with it another id.
    const spellings = (asked.badWords ?? []).flatMap((word) => [word, ` ${word}`]);
    const words = spellings.map((word) => this.tokenizer.encode(word, { addSpecialTokens: false }));
    const behind = (before: number): SearchSettings => {
      const settings = searchSettings(call, asked, this.defaults, before, { positions, queries });
      const forbidden = [...(settings.forbidden ?? []), ...words];
      return { ...settings, forbidden, isStopped: writer.isStopped };
    };
    // Rows of one length share theirs. A call without rows is checked too.
    const known = new Map<number, SearchSettings>();
    if (rows.length === 0) behind(0);
    const settings = rows.map(({ length }) => {
      const earlier = known.get(length);
      if (earlier !== undefined) return earlier;
      // What an encoder-decoder writes begins with one token, and stands apart from what it reads.
      const wanted = behind(kind === "encoder-decoder" ? 1 : queries + length);
      const most = positions - queries - length;
      if (wanted.maxNewTokens > most) {
        throw new UserError(
          `${call}: the prompt of ${length} tokens leaves room for ${Math.max(0, most)} new ones in the model's ` +
            `${positions} positions, maxNewTokens is ${wanted.maxNewTokens}`,
        );
      }
      const own = asked.maxNewTokens === undefined ? this.fitted(wanted, queries, length, asked) : wanted;
      known.set(length, own);
      return own;
    });
    return [settings, writer];
  }

  /** A greatest length that the caller did not ask for gives way to what memory allows. */
  private fitted(
    settings: SearchSettings,
    queries: number,
    length: number,
    { maxMemory = usualMemory }: GenerateSettings,
  ): SearchSettings {
    const sequences = this.sequencesOf(settings);
    let written = settings.maxNewTokens;
    const size = { prompts: 1, read: queries + length, sequences };
    while (written > shortestFitted && this.bytesOf(queries, { ...size, written }) > maxMemory)
      written = Math.floor(written / 2);
    const minNewTokens = Math.min(settings.minNewTokens, written);
    return written === settings.maxNewTokens
      ? settings
      : { ...settings, maxNewTokens: written, minNewTokens };
  }

  /** What is run together. Throws a `UserError` if one prompt alone would take more than `maxMemory`. */
  private parts(
    call: string,
    { rows, queries }: Start,
    settings: readonly SearchSettings[],
    { maxMemory = usualMemory }: GenerateSettings,
  ): readonly Part[] {
    const [first] = settings;
    if (first === undefined) return [];
    const written = settings.reduce((most, { maxNewTokens }) => Math.max(most, maxNewTokens), 0);
    const sequences = this.sequencesOf(first);
    const bytes = (prompts: number, read: number): number =>
      this.bytesOf(queries, { prompts, read, written, sequences });
    const lengths = rows.map(({ length }) => queries + length);
    const longest = lengths.reduce((most, length) => Math.max(most, length), 0);
    const what = `a prompt of ${longest} positions, ${written} new tokens and ${sequences} sequences at once`;
    const remedy = sequences > 1 ? "shorten them, or ask for fewer beams or texts" : "shorten them";
    checkMemory(call, what, bytes(1, longest), maxMemory, remedy);
    return partsWithin(maxMemory, lengths, bytes);
  }

  /** @param queries 0 where no pictures are looked at. */
  private bytesOf(queries: number, size: BatchSize): number {
    const { config, languageModel } = this.runner;
    const { vocab_size: vocabulary } = config.text_config;
    const pictures = queries === 0 ? 0 : size.prompts;
    return Math.max(languageBytes(languageModel, vocabulary, size), visionBytes(config, pictures));
  }

  /** How many rows of the batch one prompt has. */
  private sequencesOf({ numBeams, numReturnSequences, contrastive }: SearchSettings): number {
    const { vocab_size: vocabulary } = this.runner.config.text_config;
    return Math.max(numBeams, numReturnSequences, Math.min(contrastive?.topK ?? 1, vocabulary));
  }

  private begin({ contrastive }: SearchSettings): Stepper {
    return this.runner.languageModel.begin({ states: contrastive !== undefined });
  }

  /** What the language model reads of a part of the rows. */
  private async prompt(start: Start, part: Part, signal: AbortSignal | undefined): Promise<Prompt> {
    stopIf(signal);
    const softId = this.runner.config.image_token_index ?? undefined;
    const soft = await start.softPrompts(part);
    checkSoftPrompts(soft);
    return paddedPrompt(soft, start.rows.slice(...part), { ...this.defaults, softId });
  }
}

/** Throws a `UserError` if what the model sees in a picture is no number, which only its weights can bring about. */
function checkSoftPrompts({ data }: HostTensor): void {
  if ((data as Float32Array).every(Number.isFinite)) return;
  throw new UserError(
    "generation: what the model sees in the picture are not numbers: the weights of its image encoder or its Q-Former hold values " +
      "that are not finite, or too large ones; fetch or convert the model again",
  );
}

/** How long texts are cut into tokens before the thread is left to others, in milliseconds. */
const turn = 8;

/** `map`, which leaves the thread to others now and then. */
async function inTurns<T extends string | undefined, R>(
  texts: readonly T[],
  work: (text: T, place: number) => R,
  signal: AbortSignal | undefined,
): Promise<R[]> {
  const results: R[] = [];
  let turnEnds = performance.now() + turn;
  for (const [i, text] of texts.entries()) {
    if (performance.now() > turnEnds) {
      await new Promise((resolve) => setTimeout(resolve));
      stopIf(signal);
      turnEnds = performance.now() + turn;
    }
    results.push(work(text, i));
  }
  return results;
}
