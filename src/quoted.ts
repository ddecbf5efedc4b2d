/** Content of a file as it may stand in a message. */

const longest = 200;

/** Cut where it is long: the beginning tells which it was. */
export function shortened(text: string): string {
  return text.length > longest ? `${text.slice(0, longest)}...` : text;
}

/**
 * JSON-quoted and cut, so that a hostile file can neither flood nor forge the message. What nests too deeply to be
 * written is described.
 */
export function quoted(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(shortened(value));
  let text: string;
  try {
    text = JSON.stringify(value) ?? "(none)";
  } catch {
    // JSON.parse takes any depth, JSON.stringify does not.
    return "(something deeply nested)";
  }
  return shortened(text);
}
