/** The `pre_tokenizer` of a tokenizer.json: cuts a text into the pieces that the model looks at one by one. */
import { byteText } from "./byte-level.js";
import type { Part } from "./parts.js";
import { gpt2Rule, readPattern } from "./patterns.js";
import { punctuation, word } from "./unicode-classes.js";

/** A piece of a text, and whether the text begins with it. */
export interface Piece {
  readonly text: string;
  readonly first: boolean;
}

/** Pieces of one piece, which is not empty. */
export type PreTokenize = (piece: Piece) => Piece[];

/** Throws `UserError` for what is none, or one of a kind that is not known here. */
export function readPreTokenizer(part: Part): PreTokenize {
  switch (part.type) {
    case "Sequence": {
      const steps = part.parts("pretokenizers").map(readPreTokenizer);
      return (piece) => steps.reduce((pieces, step) => pieces.flatMap(step), [piece]);
    }
    case "BertPreTokenizer": {
      const words = splitter(whiteSpace, "Removed");
      const marks = splitter(signs, "Isolated");
      return (piece) => words(piece).flatMap(marks);
    }
    case "WhitespaceSplit":
      return splitter(whiteSpace, "Removed");
    case "Whitespace":
      return splitter(wordsAndSigns, "Removed", true);
    case "Punctuation":
      return splitter(signs, readBehaviour(part, "Isolated"));
    case "Digits":
      return splitter(/\p{N}/gu, part.boolean("individual_digits", false) ? "Isolated" : "Contiguous");
    case "Split":
      return splitter(readPattern(part).expression, readBehaviour(part), part.boolean("invert", false));
    case "Metaspace":
      return metaspace(part);
    case "ByteLevel":
      return byteLevel(part);
    default:
      throw part.unknownType(
        "Sequence, BertPreTokenizer, WhitespaceSplit, Whitespace, Punctuation, Digits, Split, Metaspace and ByteLevel",
      );
  }
}

const whiteSpace = /\p{White_Space}/gu;
const signs = new RegExp(`[${punctuation}]`, "gu");
const wordsAndSigns = new RegExp(`[${word}]+|[^${word}\\p{White_Space}]+`, "gu");

const behaviours = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] as const;
/** What becomes of the places where a text is cut. */
type Behaviour = (typeof behaviours)[number];

function readBehaviour(part: Part, fallback?: Behaviour): Behaviour {
  const name = part.string("behavior", fallback);
  const known = behaviours.find((behaviour) => behaviour === name);
  if (known !== undefined) return known;
  throw part.refuse(
    `behavior must be one of ${behaviours.join(", ")}, got ${JSON.stringify(name.slice(0, 40))}`,
  );
}

/** Cuts where `expression` matches, or with `invert` around where it does. */
function splitter(expression: RegExp, behaviour: Behaviour, invert = false): PreTokenize {
  return ({ text, first }) => {
    const spans: { start: number; end: number; cut: boolean }[] = [];
    let done = 0;
    for (const match of text.matchAll(expression)) {
      if (match.index > done) spans.push({ start: done, end: match.index, cut: invert });
      done = match.index + match[0].length;
      spans.push({ start: match.index, end: done, cut: !invert });
    }
    if (done < text.length) spans.push({ start: done, end: text.length, cut: invert });
    return joined(spans, behaviour).map(({ start, end }) => ({
      text: text.slice(start, end),
      first: first && start === 0,
    }));
  };
}

interface Span {
  readonly start: number;
  readonly end: number;
  readonly cut: boolean;
}

function joined(spans: readonly Span[], behaviour: Behaviour): readonly Span[] {
  if (behaviour === "Isolated") return spans;
  if (behaviour === "Removed") return spans.filter(({ cut }) => !cut);
  const result: Span[] = [];
  spans.forEach((span, i) => {
    const before = spans[i - 1];
    const joins =
      before !== undefined &&
      (behaviour === "Contiguous"
        ? span.cut === before.cut
        : behaviour === "MergedWithPrevious"
          ? span.cut && !before.cut
          : before.cut && !span.cut);
    if (joins) result[result.length - 1] = { ...span, start: result.at(-1)!.start };
    else result.push(span);
  });
  return result;
}

/** Spaces become a visible mark, which goes before each word (sentencepiece). */
function metaspace(part: Part): PreTokenize {
  const { mark, prepend } = readMetaspace(part);
  const words = part.boolean("split", true)
    ? splitter(new RegExp(mark.replace(/[\\^$.*+?()[\]{}|/]/, "\\$&"), "gu"), "MergedWithNext")
    : (piece: Piece) => [piece];
  return ({ text, first }) => {
    const marked = text.replaceAll(" ", mark);
    const prefix = prepend === "always" || (prepend === "first" && first);
    return words({ text: prefix && !marked.startsWith(mark) ? mark + marked : marked, first });
  };
}

/** Of the pre-tokenizer or the decoder. Older files say `add_prefix_space` in place of `prepend_scheme`. */
export function readMetaspace(part: Part): {
  readonly mark: string;
  readonly prepend: "always" | "first" | "never";
} {
  const mark = part.string("replacement", "\u2581");
  if ([...mark].length !== 1) throw part.refuse("one character is required for replacement");
  if (part.has("str_rep") && part.string("str_rep") !== mark)
    throw part.refuse("str_rep must be the replacement");
  const older = part.boolean("add_prefix_space", true) ? "always" : "never";
  const prepend = part.string("prepend_scheme", older);
  if (prepend === "always" || prepend === "first" || prepend === "never") return { mark, prepend };
  throw part.refuse("prepend_scheme must be always, first or never");
}

/** Bytes become characters that stand for them (GPT-2). */
function byteLevel(part: Part): PreTokenize {
  const prefix = part.boolean("add_prefix_space", true);
  const words = part.boolean("use_regex", true)
    ? splitter(new RegExp(gpt2Rule, "gu"), "Isolated")
    : (piece: Piece) => [piece];
  return ({ text, first }) =>
    words({ text: prefix && !text.startsWith(" ") ? ` ${text}` : text, first }).map((piece) => ({
      ...piece,
      text: byteText(piece.text),
    }));
}
