/** Names and problems in a message: the first of them, and how many more there are. */
import { quoted } from "./quoted.js";

/** Names of a message; hostile files have hundreds of thousands. */
const mostListed = 20;

/** A name from a file as it may stand in a message: plain if it is short and printable, else quoted and cut. */
const shownName = (name: string): string =>
  name.length <= 200 && !/[\p{Cc}\u2028\u2029]/u.test(name) ? name : quoted(name);

/** `a, b, c and 4 more`. */
export function listed(items: Iterable<unknown>, separator = ", "): string {
  const all = [...items].map(String);
  const rest = all.length - mostListed;
  const shown = all.slice(0, mostListed).join(separator);
  if (rest <= 0) return shown;
  return separator.includes("\n") ? `${shown}${separator}and ${rest} more` : `${shown} and ${rest} more`;
}

/** The same of names that come from files. */
export const listedNames = (names: Iterable<string>, separator?: string): string =>
  listed([...names].map(shownName), separator);
