/** What a model does when it is not told otherwise: from its generation_config.json, its config.json, and LAVIS's captions. */
import { UserError } from "../errors.js";
import { listed } from "../listed.js";
import { familyOf, type LanguageConfig } from "../models/language/families.js";
import { parseGenerationConfig, type GenerationConfig } from "./generation-config.js";
import type { SearchSettings } from "./search/search.js";

/** What a language model's config says of ids. */
type TextIds = Pick<LanguageConfig, "model_type" | "vocab_size"> & {
  readonly bos_token_id: number | null;
  readonly eos_token_id: number | readonly number[] | null;
  readonly pad_token_id: number | null;
  readonly decoder_start_token_id?: number | null | undefined;
};

/** What only a model's file asks for. */
type PlacedIds = Pick<SearchSettings, "notFirst" | "first" | "last">;

/** Of these, `numBeams` and `topK` depend on the search where the model's file does not say. */
type UsualSettings = Required<
  Omit<SearchSettings, "endIds" | "numBeams" | "sampling" | "contrastive" | "isStopped" | keyof PlacedIds>
> & {
  readonly numBeams: number | undefined;
  readonly sample: boolean;
  readonly temperature: number;
  readonly topK: number | undefined;
  readonly topP: number;
  readonly penaltyAlpha: number;
};

/** What a model does when it is not told otherwise. */
export interface GenerationDefaults {
  readonly settings: UsualSettings;
  readonly placed: PlacedIds;
  readonly stops: readonly string[];
  readonly questionFormat: string;
  readonly answerAfter: string | undefined;
  readonly startId: number;
  readonly endIds: readonly number[];
  readonly padId: number;
  /** Where the text of an encoder-decoder starts. */
  readonly decoderStartId?: number;
  /** Lengths that count what stands before the text, where the file has no `max_new_tokens` or `min_new_tokens`. */
  readonly maxLength?: number;
  readonly minLength?: number;
}

/**
 * Defaults from the content of generation_config.json, then from the language model's config, then LAVIS's for
 * captions: 5 beams, at most 30 new tokens. `onNotice` is told of keys that mean nothing here. Throws a `UserError` naming
 * `where` and the key that does not fit.
 */
export function generationDefaults(
  json: unknown,
  text: TextIds,
  where = "generation_config.json",
  onNotice?: (notice: string) => void,
): GenerationDefaults {
  const config = parseGenerationConfig(json ?? {}, where, onNotice);
  const family = familyOf(text);
  const isEncoderDecoder = family.kind === "encoder-decoder";
  const { num_beams: numBeams, top_k: topK } = config;
  const penaltyAlpha = config.penalty_alpha ?? 0;
  const maxLength = config.max_length ?? 20;
  const minLength = config.min_length ?? 0;
  if (isEncoderDecoder && penaltyAlpha > 0) {
    onNotice?.(
      `${where}: passed over, as models with an encoder do not do it: penalty_alpha ${penaltyAlpha}`,
    );
  }
  // As in transformers, which searches so only with one beam and several tokens to try.
  const isContrastive = !isEncoderDecoder && (numBeams ?? 1) === 1 && (topK ?? 4) > 1;
  const ids = idsReader(config, text, where);
  const endIds = ids.all("eos_token_id");
  const padId = ids.one("pad_token_id") ?? family.usualIds.pad;
  const suppressed = config.suppress_tokens ?? [];
  return {
    settings: {
      maxNewTokens: config.max_new_tokens ?? 30,
      minNewTokens: config.min_new_tokens ?? 0,
      numBeams: numBeams ?? undefined,
      numReturnSequences: config.num_return_sequences ?? 1,
      lengthPenalty: config.length_penalty ?? 1,
      earlyStopping: config.early_stopping ?? false,
      repetitionPenalty: config.repetition_penalty ?? 1,
      noRepeatNgramSize: config.no_repeat_ngram_size ?? 0,
      forbidden: [
        ...withoutEnds(config.bad_words_ids ?? [], endIds),
        ...suppressed.filter((id) => id >= 0).map((id) => [id]),
      ],
      sample: config.do_sample ?? false,
      temperature: config.temperature ?? 1,
      topK: topK ?? undefined,
      topP: config.top_p ?? 1,
      penaltyAlpha: isContrastive ? penaltyAlpha : 0,
    },
    placed: {
      notFirst: config.begin_suppress_tokens?.filter((id) => id >= 0),
      // Elsewhere something stands before the text, and transformers does nothing.
      ...(isEncoderDecoder && { first: ids.one("forced_bos_token_id") }),
      ...(ids.all("forced_eos_token_id").length > 0 && { last: ids.all("forced_eos_token_id") }),
    },
    stops: [config.stop_strings ?? []].flat(),
    questionFormat: config.question_format ?? family.questionFormat,
    answerAfter: config.answer_after ?? undefined,
    startId: ids.one("bos_token_id", true) ?? family.usualIds.start,
    endIds,
    padId,
    ...(isEncoderDecoder && { decoderStartId: ids.one("decoder_start_token_id") ?? padId }),
    // 20 is what transformers writes where nobody has chosen a length.
    ...(isSaid(config.max_new_tokens) || maxLength === 20 ? {} : { maxLength }),
    ...(isSaid(config.min_new_tokens) || minLength === 0 ? {} : { minLength }),
  };
}

const isSaid = (value: unknown): boolean => value !== null && value !== undefined;

type IdKey =
  | "bos_token_id"
  | "eos_token_id"
  | "pad_token_id"
  | "decoder_start_token_id"
  | "forced_bos_token_id"
  | "forced_eos_token_id";

/**
 * Ids of a role: from generation_config.json, else from the language model's config. Negative ones stand for none. Throws
 * a `UserError` naming file and key of what is outside the vocabulary.
 */
function idsReader(config: GenerationConfig, text: TextIds, where: string) {
  const all = (key: IdKey, textFirst = false): number[] => {
    const own = (text as Readonly<Partial<Record<IdKey, number | readonly number[] | null>>>)[key];
    const places = [
      [where, key, config[key]],
      [where.replace(/generation_config\.json$/, "config.json"), `text_config.${key}`, own],
    ] as const;
    for (const [file, name, value] of textFirst ? places.toReversed() : places) {
      if (value === null || value === undefined) continue;
      const found = [value].flat().filter((id) => id >= 0);
      const outside = found.filter((id) => id >= text.vocab_size);
      if (outside.length > 0) {
        throw new UserError(
          `${file}: ${name} is ${listed([value].flat())}, the model's vocabulary has ${text.vocab_size} tokens; ` +
            `ids from 0 to ${text.vocab_size - 1} are required`,
        );
      }
      if (found.length > 0) return [...new Set(found)];
      // No end at all may be meant; of other roles something must stand there.
      if (key === "eos_token_id") return [];
    }
    return [];
  };
  return { all, one: (key: IdKey, textFirst?: boolean): number | undefined => all(key, textFirst)[0] };
}

/** The end of a text cannot be forbidden; transformers passes over it too. */
function withoutEnds(
  sequences: readonly (readonly number[])[],
  endIds: readonly number[],
): readonly (readonly number[])[] {
  return sequences.filter(([first, ...rest]) => rest.length > 0 || !endIds.includes(first!));
}
