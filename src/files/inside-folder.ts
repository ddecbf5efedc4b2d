/** Links in model folders: followed where published layouts have them, refused where they lead out. */
import { lstat, readlink, realpath } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { UserError } from "../errors.js";
import { codeOf } from "./atomic-write.js";

/** As many links in a row as a system follows. */
const mostLinks = 40;

/** A file of the hub's cache, as Python's huggingface_hub and this package lay it out. */
const inCache = /[/\\]models--[^/\\]+[/\\](?:blobs|snapshots[/\\][^/\\]+)[/\\]/;

/**
 * Throws `UserError` if the file `name` of `folder` is a symbolic link that leaves the folder, so that a downloaded
 * folder cannot point at other files of this machine. Links into a cache of the hub are followed, and there those from
 * `snapshots/REVISION` to `blobs`, and those of a blob to a file that bears its name, which is how caches are moved to another disk.
 * A file that does not exist passes; who opens it will say so.
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
  if (isIn(target, root) || inCache.test(target) || (await passesBlob(root, name, target))) return;
  throw new UserError(
    `${path}: this is a link to ${target}, out of its folder, and is not followed; ` +
      "put the file itself here, or give the folder that holds it",
  );
}

const isIn = (path: string, folder: string): boolean => path.startsWith(folder + sep);

/** Whether the links from `name` on lead through a blob of the folder's own cache or another, whose name the target bears. */
async function passesBlob(root: string, name: string, target: string): Promise<boolean> {
  const own = basename(dirname(root)) === "snapshots" ? join(dirname(dirname(root)), "blobs") : undefined;
  let at = join(root, name);
  for (let i = 0; i < mostLinks; i++) {
    const isBlob = dirname(at) === own || (inCache.test(at) && basename(dirname(at)) === "blobs");
    if (isBlob) return basename(target) === basename(at) || isIn(target, await realpath(dirname(at)));
    if (!(await lstat(at)).isSymbolicLink()) return false;
    at = resolve(await realpath(dirname(at)), await readlink(at));
  }
  return false;
}
