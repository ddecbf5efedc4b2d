/** The `decoder` of a tokenizer.json: tokens become a text again. */
import { bytesOf } from "./byte-level.js";
import type { Part } from "./parts.js";
import { readPattern } from "./patterns.js";
import { readMetaspace } from "./pre-tokenizers.js";

/** Changes the tokens, which are then written one behind the other. */
export type Decode = (tokens: readonly string[]) => readonly string[];

/** Throws `UserError` for what is none, or one of a kind that is not known here. */
export function readDecoder(part: Part): Decode {
  switch (part.type) {
    case "Sequence": {
      const steps = part.parts("decoders").map(readDecoder);
      return (tokens) => steps.reduce((result, step) => step(result), tokens);
    }
    case "ByteLevel":
      return byteLevel;
    case "WordPiece":
      return wordPiece(part.string("prefix", "##"), part.boolean("cleanup", true));
    case "Metaspace": {
      const { mark, prepend } = readMetaspace(part);
      return (tokens) =>
        tokens.map((token, i) => token.replaceAll(mark, i === 0 && prepend !== "never" ? "" : " "));
    }
    case "Replace": {
      const [{ expression }, content] = [readPattern(part), part.string("content")];
      return (tokens) => tokens.map((token) => token.replace(expression, () => content));
    }
    case "Fuse":
      return (tokens) => [tokens.join("")];
    case "ByteFallback":
      return byteFallback;
    case "Strip": {
      const [content, start, stop] = [part.string("content"), part.count("start"), part.count("stop")];
      if ([...content].length !== 1) throw part.refuse("one character is required for content");
      return (tokens) => tokens.map((token) => stripped(token, content, start, stop));
    }
    default:
      throw part.unknownType(
        "Sequence, ByteLevel, WordPiece, Metaspace, Replace, Fuse, ByteFallback and Strip",
      );
  }
}

/** As Python's transformers cleans up a text that was written with a space before each word. */
export function cleanedUp(text: string): string {
  return text
    .replaceAll(" .", ".")
    .replaceAll(" ?", "?")
    .replaceAll(" !", "!")
    .replaceAll(" ,", ",")
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");
}

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** A token with a character that stands for no byte is text itself. What is no UTF-8 becomes U+FFFD. */
const byteLevel: Decode = (tokens) => {
  const bytes: number[] = [];
  for (const token of tokens) for (const byte of bytesOf(token)) bytes.push(byte);
  return [utf8.decode(Uint8Array.from(bytes))];
};

function wordPiece(prefix: string, cleanUp: boolean): Decode {
  // The library that Python uses has one rule more here.
  const clean = (token: string): string =>
    cleanUp ? cleanedUp(token.replaceAll(" do not", " don't")) : token;
  return (tokens) =>
    tokens.map((token, i) => {
      if (i === 0) return clean(token);
      return clean(token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`);
    });
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Runs of tokens <0x00> to <0xFF> are UTF-8; of a run that is none every byte becomes U+FFFD. */
const byteFallback: Decode = (tokens) => {
  const result: string[] = [];
  let run: number[] = [];
  const settle = (): void => {
    try {
      if (run.length > 0) result.push(strict.decode(Uint8Array.from(run)));
    } catch {
      result.push("\ufffd".repeat(run.length));
    }
    run = [];
  };
  for (const token of tokens) {
    const [, hex] = /^<0x([0-9a-fA-F]{2})>$/.exec(token) ?? [];
    if (hex !== undefined) run.push(Number.parseInt(hex, 16));
    else {
      settle();
      result.push(token);
    }
  }
  settle();
  return result;
};

/** Up to so many of the character `content` at each end are taken off. */
function stripped(token: string, content: string, start: number, stop: number): string {
  const letters = [...token];
  let [from, to] = [0, letters.length];
  while (from < Math.min(start, letters.length) && letters[from] === content) from++;
  while (letters.length - to < stop && to > 0 && letters[to - 1] === content) to--;
  return letters.slice(from, Math.max(from, to)).join("");
}
