/**
 * One model in the hub's cache, in the layout that Python's `huggingface_hub` uses, so that both share what they fetch:
 *
 *     models--ORG--NAME/blobs/ETAG                the contents; ETAG is the hash that the hub knows a file by
 *     models--ORG--NAME/refs/REVISION             the commit that a branch or tag was last seen at
 *     models--ORG--NAME/snapshots/COMMIT/FILE     a link to ../../blobs/ETAG; the file itself where links are impossible
 *     models--ORG--NAME/.no_exist/COMMIT/FILE     empty: that commit has no such file
 *
 * Of our own: `blobs/ETAG.blip2.incomplete` is what has arrived of a file. Python gives each process a name of its own,
 * `ETAG.RANDOM.incomplete`, and older ones `ETAG.incomplete`; neither is touched here.
 */
import { copyFile, mkdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { codeOf, writeFileAtomic } from "../files/atomic-write.js";

export class RepositoryCache {
  readonly folder: string;
  private readonly lockFolder: string;

  /** `id` has been checked: it can only name a folder in `cache`. */
  constructor(cache: string, id: string) {
    const name = `models--${id.replace("/", "--")}`;
    this.folder = join(cache, name);
    this.lockFolder = join(cache, ".locks", name);
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  pointer(commit: string, name: string): string {
    return join(this.snapshot(commit), name);
  }

  blob(etag: string): string {
    return join(this.folder, "blobs", etag);
  }

  partial(etag: string): string {
    return `${this.blob(etag)}.blip2.incomplete`;
  }

  lock(etag: string): string {
    return join(this.lockFolder, `${etag}.blip2.lock`);
  }

  /** Makes the folders that a download of this commit writes into. */
  async prepare(commit: string): Promise<void> {
    for (const folder of [this.snapshot(commit), join(this.folder, "blobs"), this.lockFolder]) {
      await mkdir(folder, { recursive: true });
    }
  }

  /** The commit that a branch or tag was last seen at. */
  async readRef(revision: string): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    try {
      const commit = (await readFile(join(this.folder, "refs", revision), "utf8")).trim();
      return isCommit(commit) ? commit : undefined;
    } catch (error) {
      if (["ENOENT", "ENOTDIR", "EISDIR"].includes(codeOf(error) ?? "")) return undefined;
      throw error;
    }
  }

  /** Written when the snapshot is complete, so that a ref never leads to half a model where it led to a whole one. */
  async writeRef(revision: string, commit: string): Promise<void> {
    if (isCommit(revision) || (await this.readRef(revision)) === commit) return;
    await writeFileAtomic(join(this.folder, "refs", revision), commit);
  }

  /** The size of a file of a snapshot, or nothing if it is not there. */
  async sizeOf(commit: string, name: string): Promise<number | undefined> {
    return sizeIfThere(this.pointer(commit, name));
  }

  async has(commit: string, name: string): Promise<boolean> {
    return (await this.sizeOf(commit, name)) !== undefined;
  }

  /** Whether the hub has said that this commit has no such file. */
  async knownAbsent(commit: string, name: string): Promise<boolean> {
    return (await sizeIfThere(join(this.folder, ".no_exist", commit, name))) !== undefined;
  }

  async recordAbsent(commit: string, names: readonly string[]): Promise<void> {
    const folder = join(this.folder, ".no_exist", commit);
    await mkdir(folder, { recursive: true });
    for (const name of names) await writeFile(join(folder, name), "");
  }

  /**
   * Gives a blob its name in a snapshot. Where there are no symbolic links (Windows without developer mode, some network
   * disks), a fresh blob is moved there, and an older one, which another snapshot may use, is copied.
   */
  async point(commit: string, name: string, etag: string, isFresh: boolean): Promise<void> {
    const [pointer, blob] = [this.pointer(commit, name), this.blob(etag)];
    await rm(pointer, { force: true });
    try {
      await symlink(relative(dirname(pointer), blob), pointer);
    } catch (error) {
      // Another process was faster, with the same file.
      if (codeOf(error) === "EEXIST") return;
      if (!["EPERM", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "UNKNOWN"].includes(codeOf(error) ?? "")) {
        throw error;
      }
      if (isFresh) return rename(blob, pointer);
      const temporary = `${this.partial(etag)}.copy`;
      await copyFile(blob, temporary);
      await rename(temporary, pointer);
    }
  }
}

export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

/** The size of the file that a path leads to, or nothing if it leads nowhere. */
export async function sizeIfThere(path: string): Promise<number | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() ? found.size : undefined;
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes(codeOf(error) ?? "")) return undefined;
    throw error;
  }
}
