/** Links in model folders: followed where published layouts have them, refused where they lead out. */
import { realpath } from "node:fs/promises";
import { basename, dirname, join, sep } from "node:path";
import { UserError } from "../errors.js";
import { codeOf } from "./atomic-write.js";

/**
 * Throws `UserError` if the file `name` of `folder` is a symbolic link that leaves the folder, so that a downloaded
 * folder cannot point at other files of this machine. In the hub's cache, where `snapshots/REVISION` is full of links to
 * `blobs`, those are followed. A file that does not exist passes; who opens it will say so.
 */
export async function mustStayInside(folder: string, name: string): Promise<void> {
  const path = join(folder, name);
  let root: string;
  let target: string;
  try {
    [root, target] = await Promise.all([realpath(folder), realpath(path)]);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    throw new UserError(`${path}: cannot be followed (${codeOf(error)})`, { cause: error });
  }
  const allowed = [root];
  const snapshots = dirname(root);
  if (basename(snapshots) === "snapshots") allowed.push(join(dirname(snapshots), "blobs"));
  if (allowed.some((place) => target.startsWith(place + sep))) return;
  throw new UserError(
    `${path}: this is a link to ${target}, out of its folder, and is not followed; ` +
      "put the file itself here, or give the folder that holds it",
  );
}
