/** The `post_processor` of a tokenizer.json: puts special tokens around the ids of one text. */
import { quoted } from "../quoted.js";
import { checkedId, isObject, type Part } from "./parts.js";

export interface Surroundings {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

const nothing: Surroundings = { before: [], after: [] };

/** Throws `UserError` for what is none, or one of a kind that is not known here. */
export function readPostProcessor(part: Part): Surroundings {
  switch (part.type) {
    case "TemplateProcessing":
      return template(part);
    case "BertProcessing":
    case "RobertaProcessing":
      return { before: [pairId(part, "cls")], after: [pairId(part, "sep")] };
    // Changes offsets alone.
    case "ByteLevel":
      return nothing;
    case "Sequence":
      return part
        .parts("processors")
        .map(readPostProcessor)
        .reduce(
          (inner, outer) => ({
            before: [...outer.before, ...inner.before],
            after: [...inner.after, ...outer.after],
          }),
          nothing,
        );
    default:
      throw part.unknownType("TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel and Sequence");
  }
}

/** `[token, id]` */
function pairId(part: Part, key: string): number {
  const [token, id] = part.list(key);
  return checkedId(id, String(token), part.at(key));
}

const mostAround = 1000;

function template(part: Part): Surroundings {
  const pieces = part.list("single");
  if (pieces.length > mostAround)
    throw part.refuse(`single has ${pieces.length} parts; at most ${mostAround} are read`);
  const [before, after]: number[][] = [[], []];
  let text = 0;
  for (const piece of pieces) {
    const { SpecialToken: special, Sequence: sequence } = isObject(piece) ? piece : {};
    if (isObject(special)) {
      const ids = part.part("special_tokens").part(String(special["id"])).list("ids");
      for (const id of ids) {
        const checked = checkedId(id, String(special["id"]), part.at("special_tokens"));
        (text === 0 ? before! : after!).push(checked);
      }
    } else if (isObject(sequence) && sequence["id"] === "A") {
      text++;
    } else {
      throw part.refuse(`single must be special tokens around the sequence A, got ${quoted(piece)}`);
    }
  }
  if (text !== 1) throw part.refuse(`single must hold the sequence A once, it holds it ${text} times`);
  return { before: before!, after: after! };
}
