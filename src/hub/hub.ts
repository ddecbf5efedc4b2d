/**
 * Models by their name on the Hugging Face hub, fetched once into the cache that Python's tools use too.
 *
 * `@huggingface/hub` says which commit a revision is and which files that has. Its own `snapshotDownload` takes every file
 * of a repository, starts each again after an interruption, checks no hash, and two processes at once write into the same
 * partial file; so the fetching itself is in hub-download.ts, and the cache in hub-cache.ts.
 */
import { warnOnce } from "../notices.js";
import { realpath, rename, statfs } from "node:fs/promises";
import { z } from "zod";
import { InterruptedError, UserError } from "../errors.js";
import { quoted } from "../quoted.js";
import { recoverFolder } from "../files/atomic-write.js";
import { isCommit, RepositoryCache, sizeIfThere } from "./cache.js";
import { downloadFile, onDisk, type HubFile } from "./download.js";
import { chooseFiles, indexName, lackingFiles, shardsOf } from "./files.js";
import { HubConnection, UnreachableError } from "./request.js";
import { hubSettings, type HubSettings } from "./settings.js";
import { withLockFile } from "../files/lock-file.js";

/** How far a download has come. Files that the cache had already count as done. */
export interface DownloadReport {
  /** The file that is being fetched. */
  readonly file: string;
  /** Bytes of all files together. */
  readonly done: number;
  readonly total: number;
}

export interface HubOptions {
  /** Branch, tag or commit; "main" if not given. For models on the hub only. */
  readonly revision?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onDownload?: ((report: DownloadReport) => void) | undefined;
  /** One sentence that people should see. Default: a warning of the process, each once. */
  readonly onNotice?: ((notice: string) => void) | undefined;
}

/**
 * The folder of a model: `name` itself if there is such a folder, else the model of that name on the hub, fetched if the cache lacks it.
 * What is neither a folder nor can be a name on the hub is returned as it is, for whoever reads the folder to refuse.
 *
 * Throws `UserError` naming model, revision and remedy, and `InterruptedError`. A download that fails, or whose process is
 * killed, is taken up where it stopped.
 */
export async function findModel(
  name: string,
  options: HubOptions = {},
  // Tests bring their own.
  given?: HubSettings,
): Promise<string> {
  const { revision } = options;
  const folder = await recoverFolder(name);
  if ((await realPathOf(folder)) !== undefined || !isHubId(name)) {
    if (revision === undefined) return name;
    const what = isHubId(name) ? "is a folder here" : "is no name of a model on the hub";
    throw new UserError(
      `${name}: ${what}, so revision ${revision} has no meaning; leave it out, or give ORG/NAME`,
    );
  }
  checkRevision(name, revision);
  const settings = given ?? (await hubSettings(process.env));
  return new Snapshot(name, revision ?? "main", settings, options).find();
}

/** ORG/NAME, or the NAME alone of the hub's oldest models. */
export function isHubId(name: string): boolean {
  const part = /^\w(?:[\w.-]*\w)?$/;
  const parts = name.split("/");
  return (
    parts.length <= 2 && name.length <= 96 && parts.every((word) => part.test(word) && !/--|\.\./.test(word))
  );
}

function checkRevision(name: string, revision: string | undefined): void {
  if (revision === undefined) return;
  const words = revision.split("/");
  // It becomes a path in the cache and an address.
  if (words.every((word) => /^\w[\w.+@-]*$/.test(word) && !word.includes(".."))) return;
  throw new UserError(
    `${name}: a branch, a tag or a commit is required as revision, got ${quoted(revision)}`,
  );
}

async function realPathOf(path: string): Promise<string | undefined> {
  return realpath(path).catch(() => undefined);
}

const hash = z.string().regex(/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/);
const listed = z.object({
  type: z.string(),
  path: z.string(),
  size: z.int().nonnegative(),
  oid: hash.optional(),
  lfs: z.object({ oid: hash, size: z.int().nonnegative() }).optional(),
});

/** A listing of more pages, of a thousand files each, is taken for one without an end. */
const mostPages = 100;

class Snapshot {
  private readonly cache: RepositoryCache;
  private readonly connection: HubConnection;
  private readonly notice: (notice: string) => void;

  constructor(
    private readonly id: string,
    private readonly revision: string,
    private readonly settings: HubSettings,
    private readonly options: HubOptions,
  ) {
    this.cache = new RepositoryCache(settings.cache, id);
    this.connection = new HubConnection(settings, { id, revision }, options.signal);
    this.notice = options.onNotice ?? warnOnce;
  }

  async find(): Promise<string> {
    const cached = await this.cache.readRef(this.revision);
    if (this.settings.offline) return this.fromCache(cached);
    const isFixed = isCommit(this.revision);
    if (isFixed && (await lackingFiles(this.cache, this.revision, true)).length === 0) {
      return this.folder(this.revision);
    }
    let commit: string;
    try {
      commit = await this.currentCommit();
    } catch (error) {
      if (!(error instanceof UnreachableError)) throw error;
      return this.fromCache(cached, error);
    }
    if ((await lackingFiles(this.cache, commit, true)).length > 0) await this.fetch(commit);
    await this.remember(commit);
    return this.folder(commit);
  }

  /** Without links on the way to the folder; the files in it may be links to blobs. */
  private folder(commit: string): Promise<string> {
    return realpath(this.cache.snapshot(commit));
  }

  /** The commit that a ref in the cache names, if all of it is there. `error` says why the hub cannot be asked. */
  private async fromCache(commit: string | undefined, error?: UnreachableError): Promise<string> {
    const lacking = commit === undefined ? [] : await lackingFiles(this.cache, commit, false);
    if (commit !== undefined && lacking.length === 0) {
      if (error !== undefined) {
        this.notice(
          `${this.connection.named}: the hub cannot be reached; the copy in the cache is used (${commit})`,
        );
      }
      return this.folder(commit);
    }
    const state = commit === undefined ? "has no copy" : `has a copy that lacks ${lacking.join(", ")}`;
    const found = `there is no folder ${this.id}, and the cache ${this.settings.cache} ${state}`;
    if (error !== undefined) throw new UnreachableError(`${error.message}; ${found}`, { cause: error });
    throw new UserError(
      `${this.connection.named}: ${found}, while HF_HUB_OFFLINE forbids to fetch it; unset that, or bring the cache from a machine that has it`,
    );
  }

  private async currentCommit(): Promise<string> {
    const { modelInfo } = await import("@huggingface/hub");
    const { sha } = await this.answer(() => modelInfo({ ...this.request, additionalFields: ["sha"] }));
    const { endpoint } = this.settings;
    if (typeof sha !== "string" || !isCommit(sha))
      throw this.connection.failure(`${endpoint} names no commit; check HF_ENDPOINT`);
    if (isCommit(this.revision) && sha !== this.revision)
      throw this.connection.failure(`${endpoint} offers another commit, ${sha}; check HF_ENDPOINT`);
    return sha;
  }

  private async listing(commit: string): Promise<Map<string, HubFile>> {
    const { listFiles } = await import("@huggingface/hub");
    const files = new Map<string, HubFile>();
    const asked = new Set<string>();
    const nextPage: typeof fetch = async (address, init) => {
      const url = String(address instanceof Request ? address.url : address);
      if (asked.has(url) || asked.size === mostPages)
        throw this.connection.failure(
          `${this.settings.endpoint} lists files without an end (page ${asked.size + 1}${asked.has(url) ? " again" : ""}); check HF_ENDPOINT`,
        );
      asked.add(url);
      return this.connection.fetch(address, init);
    };
    await this.answer(async () => {
      const request = { ...this.request, repo: this.id, revision: commit, fetch: nextPage };
      for await (const entry of listFiles(request)) {
        const { type, path, size, oid, lfs } = listed.parse(entry);
        const etag = lfs?.oid ?? oid;
        // Only these can be needed, and as paths only these are harmless.
        if (type !== "file" || etag === undefined || !/^\w[\w.-]*$/.test(path)) continue;
        const kind = etag.length === 64 ? "sha256" : "git";
        files.set(path, { name: path, size: lfs?.size ?? size, etag, hash: kind });
      }
    });
    return files;
  }

  private get request() {
    const { endpoint: hubUrl } = this.settings;
    return { name: this.id, revision: this.revision, hubUrl, fetch: this.connection.fetch };
  }

  /** Words what is thrown if an answer is none of the hub's. */
  private async answer<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (error) {
      if (error instanceof UserError || error instanceof InterruptedError) throw error;
      const { endpoint } = this.settings;
      throw this.connection.failure(`${endpoint} does not answer as a hub does; check HF_ENDPOINT`, {
        cause: error,
      });
    }
  }

  private async fetch(commit: string): Promise<void> {
    const listing = await this.listing(commit);
    const { files, index, absent } = chooseFiles(listing, this.connection.named);
    await onDisk(this.cache.folder, () => this.cache.prepare(commit));
    if (index !== undefined) await this.fetchFile(commit, index, () => undefined);
    const shards =
      index === undefined
        ? []
        : await shardsOf(this.cache.pointer(commit, indexName), listing, this.connection.named);
    const wanted = [...files, ...shards];
    const total = wanted.reduce((sum, { size }) => sum + size, 0);
    await this.warnOfSpace(wanted);
    let before = 0;
    for (const file of wanted) {
      const report = (done: number): void =>
        this.options.onDownload?.({ file: file.name, done: before + done, total });
      await this.fetchFile(commit, file, report);
      before += file.size;
      report(0);
    }
    await onDisk(this.cache.folder, () => this.cache.recordAbsent(commit, absent));
  }

  private async fetchFile(commit: string, file: HubFile, onBytes: (done: number) => void): Promise<void> {
    const { cache, connection } = this;
    const { signal } = this.options;
    const { name, size, etag } = file;
    const isThere = async (): Promise<boolean> => (await cache.sizeOf(commit, name)) === size;
    if (await isThere()) return;
    const onWait = (): void =>
      this.notice(`${connection.named}: another process is fetching ${name}; waiting for it`);
    const address = [this.id, "resolve", commit, encodeURIComponent(name)].join("/");
    const url = new URL(`${this.settings.endpoint}/${address}`);
    const lock = cache.lock(etag);
    const fetchLocked = async (): Promise<void> => {
      // Whoever held the lock may have brought it.
      if (await isThere()) return;
      const isFresh = (await sizeIfThere(cache.blob(etag))) !== size;
      if (isFresh) {
        await downloadFile(connection, url, file, cache.partial(etag), { signal, onBytes });
        await onDisk(cache.blob(etag), () => rename(cache.partial(etag), cache.blob(etag)));
      }
      await onDisk(cache.pointer(commit, name), () => cache.point(commit, name, etag, isFresh));
    };
    await onDisk(lock, () => withLockFile(lock, fetchLocked, { signal, onWait }));
  }

  /** A full disk is an error when it comes; free space is not known exactly everywhere. */
  private async warnOfSpace(wanted: readonly HubFile[]): Promise<void> {
    let needed = 0;
    for (const { size, etag } of wanted) {
      const has = (await sizeIfThere(this.cache.blob(etag))) ?? (await sizeIfThere(this.cache.partial(etag)));
      needed += Math.max(0, size - (has ?? 0));
    }
    const { bavail, bsize } = await statfs(this.cache.folder);
    const free = bavail * bsize;
    if (free === 0 || needed <= free) return;
    const [need, have] = [needed, free].map((bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`);
    this.notice(
      `${this.connection.named}: ${need} are to be fetched, but ${this.settings.cache} has ${have} free; HF_HUB_CACHE names another place`,
    );
  }

  /** Best effort: a cache on a read-only disk may hold the commit that another machine's ref does not name yet. */
  private async remember(commit: string): Promise<void> {
    try {
      await this.cache.writeRef(this.revision, commit);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      this.notice(`${error.message}; offline, this revision will not be found`);
    }
  }
}
