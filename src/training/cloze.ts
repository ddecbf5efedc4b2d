/** A text in two pieces: what is given, and what is to be said. */
export interface Cloze {
  readonly before: string;
  readonly missing: string;
}

/** A statement cut behind its verb: what it is about stands before ("the color of the star is" "red"). */
export function clozeOf(statement: string): Cloze {
  const words = statement.split(" ");
  const verb = words.findLastIndex((word) => word === "is" || word === "are");
  const cut = verb < 0 || verb === words.length - 1 ? words.length - 1 : verb + 1;
  return { before: words.slice(0, cut).join(" "), missing: words.slice(cut).join(" ") };
}
