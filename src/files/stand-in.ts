/** What lies in the place of a file that was never fetched: a pointer of Git LFS, or a page that a server sent instead. */
import { dirname } from "node:path";
import { UserError } from "../errors.js";

/** As many bytes or characters of a file as `refuseStandIn` looks at. */
export const textStart = 200;

/** Throws a `UserError` that says what `path` is and how to get the file, if it begins like a pointer or a page. */
export function refuseStandIn(path: string, start: Uint8Array | string): void {
  const text = (typeof start === "string" ? start : new TextDecoder("latin1").decode(start)).slice(
    0,
    textStart,
  );
  if (text.startsWith("version https://git-lfs.github.com/"))
    throw new UserError(
      `${path}: is a pointer of Git LFS, not the file itself; run "git lfs pull" in ${dirname(path)} to fetch it`,
    );
  if (/^(?:\xef\xbb\xbf|\ufeff)?\s*<(?:!doctype|html|head|body|\?xml)/i.test(text))
    throw new UserError(
      `${path}: is a web page (HTML), not the file itself; fetch it again, for instance with "hf download"`,
    );
}
