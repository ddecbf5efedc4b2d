/** The `normalizer` of a tokenizer.json: what is done to a text before it is cut into pieces. */
import { charsmapNormalizer } from "./precompiled-charsmap.js";
import type { Part } from "./parts.js";
import { readPattern } from "./patterns.js";
import { lowerCase, normalForm } from "./unicode.js";
import { control, mark, nonspacingMark } from "./unicode-classes.js";

export type Normalize = (text: string) => string;

/** Throws `UserError` for what is none, or one of a kind that is not known here. */
export function readNormalizer(part: Part): Normalize {
  switch (part.type) {
    case "Sequence": {
      const steps = part.parts("normalizers").map(readNormalizer);
      return (text) => steps.reduce((result, step) => step(result), text);
    }
    case "BertNormalizer":
      return bertNormalizer(part);
    case "Precompiled": {
      const map = part.has("precompiled_charsmap") ? part.string("precompiled_charsmap") : "";
      return map === "" ? (text) => text : charsmapNormalizer(Buffer.from(map, "base64"), part.file);
    }
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = part.type;
      return (text) => normalForm(text, form);
    }
    case "Lowercase":
      return lowerCase;
    case "StripAccents":
      return (text) => text.replace(marks, "");
    case "Strip": {
      const [left, right] = [part.boolean("strip_left"), part.boolean("strip_right")];
      return (text) => {
        const start = left ? firstOther(text) : 0;
        return text.slice(start, right ? Math.max(start, lastOther(text)) : undefined);
      };
    }
    case "Replace": {
      const [{ expression }, content] = [readPattern(part), part.string("content")];
      return (text) => text.replace(expression, () => content);
    }
    case "Prepend": {
      const beginning = part.string("prepend");
      return (text) => (text === "" ? "" : beginning + text);
    }
    default:
      throw part.unknownType(
        "Sequence, BertNormalizer, Precompiled, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Replace and Prepend",
      );
  }
}

const marks = new RegExp(`[${mark}]`, "gu");
const accents = new RegExp(`[${nonspacingMark}]`, "gu");
const controls = new RegExp(`[\\0${control}]`, "gu");
const whiteSpace = /\p{White_Space}/gu;

/** Where characters of Chinese are taken to be; the seventh block begins in the middle of one, as in BERT's own code. */
const chinese =
  /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;

function bertNormalizer(part: Part): Normalize {
  const clean = part.boolean("clean_text", true);
  const apart = part.boolean("handle_chinese_chars", true);
  const lower = part.boolean("lowercase", true);
  const strip = part.boolean("strip_accents", lower);
  return (text) => {
    let result = text;
    if (clean) result = result.replace(controls, "").replace(whiteSpace, " ");
    if (apart) result = result.replace(chinese, " $& ");
    if (strip) result = normalForm(result, "NFD").replace(accents, "");
    return lower ? lowerCase(result) : result;
  };
}

const isWhite = (text: string, place: number): boolean => /\p{White_Space}/u.test(text.charAt(place));

/** Where white space at the beginning ends. */
export function firstOther(text: string): number {
  let place = 0;
  while (place < text.length && isWhite(text, place)) place++;
  return place;
}

/** Where white space at the end begins. */
export function lastOther(text: string): number {
  let place = text.length;
  while (place > 0 && isWhite(text, place - 1)) place--;
  return place;
}
