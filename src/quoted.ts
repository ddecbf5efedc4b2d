/** Content of a file as it may stand in a message. */

const longest = 200;

/**
 * JSON-quoted and cut, so that a hostile file can neither flood nor forge the message. What nests too deeply to be
 * written is described.
 */
export function quoted(value: unknown): string {
  if (typeof value === "string")
    return JSON.stringify(value.length > longest ? `${value.slice(0, longest)}...` : value);
  let text: string;
  try {
    text = JSON.stringify(value) ?? "(none)";
  } catch {
    // JSON.parse takes any depth, JSON.stringify does not.
    return "(something deeply nested)";
  }
  return text.length > longest ? `${text.slice(0, longest)}...` : text;
}
