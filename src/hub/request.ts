/**
 * Requests to the hub: the token goes to the hub alone, broken connections and busy servers are tried again, and refusals
 * are worded for people.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { interrupted, stopIf, UserError } from "../errors.js";
import type { HubSettings } from "./settings.js";

/** The hub gave no answer, though it was asked several times. A copy in the cache may serve instead. */
export class UnreachableError extends UserError {
  override readonly name = "UnreachableError";
}

/** What failed for a reason that may pass. */
class BrokenError extends Error {
  override readonly name = "BrokenError";

  constructor(
    message: string,
    /** The server's own wish, in milliseconds. */
    readonly wait: number = 0,
  ) {
    super(message);
  }
}

/** No answer about a model is larger, nor are all answers about one together; a listing holds a thousand files a page. */
const mostAnswerBytes = 2 ** 26;
const longestPause = 60_000; // ms
/** What setTimeout takes: 24 days. It fires at once for more. */
const longestTimeout = 2 ** 31 - 1; // ms
/** After so much progress, an interruption counts as the first again. */
const goodProgress = 2 ** 20;
/** A body counts as broken where less arrives in `dripPeriods` times the timeout: a drip would never end, and never be silent. */
const leastProgress = 2 ** 16;
const dripPeriods = 4;

/** What is being asked for, to be named in errors. */
export interface Wanted {
  readonly id: string;
  readonly revision: string;
}

/** `settings` with everything that a request needs beside its address. */
export class HubConnection {
  /** Whether a server has answered at all. */
  private isReached = false;
  /** In all answers to `fetch` together. */
  private answerBytes = 0;

  constructor(
    readonly settings: HubSettings,
    private readonly wanted: Wanted,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /**
   * To be given to `@huggingface/hub` in place of `fetch`: answers with a whole body, or throws `UserError`
   * (`UnreachableError` if there was no answer).
   */
  readonly fetch: typeof fetch = async (address, init) => {
    const url = new URL(address instanceof Request ? address.url : address);
    let answer: Response | undefined;
    await this.repeated(url, async () => {
      await this.request(url, init, async (response, nextBytes) => {
        const parts: Uint8Array[] = [];
        for (let part = await nextBytes(); part !== undefined; part = await nextBytes()) {
          this.answerBytes += part.length;
          if (this.answerBytes > mostAnswerBytes) throw this.failure(`${url.host} answered without an end`);
          parts.push(part);
        }
        answer = new Response(Buffer.concat(parts), { status: response.status, headers: response.headers });
      });
    });
    return answer!;
  };

  /**
   * Calls `work` until it succeeds, at most `retries` more times; `work` reports progress in bytes: those that no earlier
   * try had brought. Throws `UnreachableError` after the last, with a further remedy.
   */
  async repeated(
    url: URL,
    work: (progressed: (bytes: number) => void) => Promise<void>,
    remedy?: string,
  ): Promise<void> {
    const { retries, pause } = this.settings;
    for (let failures = 1; ; failures++) {
      let bytes = 0;
      try {
        return await work((more) => void (bytes += more));
      } catch (error) {
        if (!(error instanceof BrokenError)) throw error;
        if (bytes >= goodProgress) failures = 1;
        // Without a network nobody shall wait long for the copy in the cache, and nobody comes back before the time asked for.
        const most = this.isReached ? retries : Math.min(1, retries);
        if (failures > most || error.wait > longestPause) {
          const tries = failures === 1 ? "1 try" : `${failures} tries`;
          throw new UnreachableError(
            `${this.named}: cannot be fetched from ${url.host} (${error.message}, ${tries}); check the network, ` +
              `or choose a mirror with HF_ENDPOINT${remedy === undefined ? "" : `; ${remedy}`}`,
            { cause: error },
          );
        }
        // Spread, so that several processes that failed together do not come back together.
        const wait = pause * 2 ** (failures - 1) * (0.75 + Math.random() / 2);
        await this.sleep(Math.min(longestPause, Math.max(wait, error.wait)));
      }
    }
  }

  /**
   * One request. `read` is given the answer and a function that waits for the next bytes of its body.
   * Throws `UserError` for a refusal, `InterruptedError`, or what `repeated` tries again.
   */
  async request(
    url: URL,
    init: RequestInit | undefined,
    read: (response: Response, nextBytes: () => Promise<Uint8Array | undefined>) => Promise<void>,
    isGood: (status: number) => boolean = (status) => status >= 200 && status < 300,
  ): Promise<void> {
    stopIf(this.signal);
    const silence = new AbortController();
    const stop = (): void => silence.abort();
    this.signal?.addEventListener("abort", stop);
    const timeout = Math.min(this.settings.timeout, longestTimeout);
    let timer: NodeJS.Timeout | undefined;
    /** Waits for the server, but not for ever. */
    const heard = async <T>(answer: Promise<T>): Promise<T> => {
      timer = setTimeout(stop, timeout);
      try {
        return await answer;
      } catch (error) {
        stopIf(this.signal);
        const silent = `silent for ${timeout / 1000} s`;
        throw new BrokenError(silence.signal.aborted ? silent : reasonOf(error));
      } finally {
        clearTimeout(timer);
      }
    };
    try {
      const response = await heard(
        fetch(url, { ...init, headers: this.headers(url, init), signal: silence.signal }),
      );
      this.isReached = true;
      if (url.protocol === "https:" && response.url.startsWith("http:")) {
        throw this.failure(
          `${url.host} leads from https to the unprotected ${new URL(response.url).origin}, which is not followed; check HF_ENDPOINT`,
        );
      }
      if (!isGood(response.status)) throw this.refusal(response);
      const reader = response.body?.getReader();
      let [since, arrived] = [performance.now(), 0];
      await read(response, async () => {
        const part = reader && (await heard(reader.read()));
        arrived += part?.value?.length ?? 0;
        const spent = performance.now() - since;
        if (arrived >= leastProgress) [since, arrived] = [performance.now(), 0];
        else if (part?.done === false && spent > dripPeriods * timeout) {
          throw new BrokenError(`only ${arrived} bytes in ${Math.round(spent / 1000)} s`);
        }
        return part?.value;
      });
    } finally {
      // Drops the connection if the body was not read to its end; harmless after it.
      silence.abort();
      this.signal?.removeEventListener("abort", stop);
    }
  }

  /** For answers that contradict the request. */
  broken(message: string): Error {
    return new BrokenError(message);
  }

  failure(problem: string, options?: { cause?: unknown }): UserError {
    return new UserError(`${this.named}: ${problem}`, options);
  }

  get named(): string {
    return `${this.wanted.id} (revision ${this.wanted.revision})`;
  }

  private headers(url: URL, init: RequestInit | undefined): Headers {
    const headers = new Headers(init?.headers);
    headers.set("user-agent", `blip2; node/${process.versions.node}`);
    // Compressed bytes could not be resumed by position.
    headers.set("accept-encoding", "identity");
    // A redirect to another origin loses the header: fetch sees to that. A link to another origin never gets it.
    const { token, endpoint } = this.settings;
    if (token !== undefined && url.origin === new URL(endpoint).origin) {
      headers.set("authorization", `Bearer ${token}`);
    }
    return headers;
  }

  private async sleep(milliseconds: number): Promise<void> {
    try {
      await sleep(milliseconds, undefined, { signal: this.signal });
    } catch {
      throw interrupted(this.signal);
    }
  }

  private refusal({ status, headers }: Response): Error {
    const { id, revision } = this.wanted;
    const { endpoint, token } = this.settings;
    const code = headers.get("x-error-code");
    const page = `${endpoint}/${id}`;
    if (status === 408 || status === 429 || status >= 500) {
      const asked = status === 429 ? "too many requests (429)" : `status ${status}`;
      const wait = waitOf(headers.get("retry-after"));
      const wish = wait > longestPause ? `, to be asked again in ${Math.ceil(wait / 1000)} s` : "";
      return new BrokenError(asked + wish, wait);
    }
    if (code === "RevisionNotFound") {
      return this.failure(
        `the model has no such revision (${status}); ${page}/tree/main lists its branches and tags`,
      );
    }
    if (code === "GatedRepo" || status === 403) {
      return this.failure(
        `access to this model is restricted (${status}); ask for it at ${page}, then give a token of that account in HF_TOKEN`,
      );
    }
    if (status === 401 && token !== undefined && code !== "RepoNotFound") {
      return this.failure(
        `the token is not accepted (401); check HF_TOKEN, or the file that hf auth login wrote`,
      );
    }
    if (status === 401 || status === 404) {
      const found = revision === "main" ? "no model of this name" : "no model of this name and revision";
      return this.failure(
        `${found} is on ${new URL(endpoint).host} (${status}), and there is no folder ${id}; check the name` +
          (token === undefined
            ? ", or give a token in HF_TOKEN if the model is private"
            : " and what the token may see"),
      );
    }
    return this.failure(`${endpoint} refuses the request (status ${status})`);
  }
}

/** Milliseconds that a Retry-After header asks for, in seconds or as a date; 0 if it says nothing that can be read. */
function waitOf(header: string | null): number {
  if (header === null || header.trim() === "") return 0;
  const seconds = Number(header);
  const wait = Number.isNaN(seconds) ? Date.parse(header) - Date.now() : 1000 * seconds;
  return wait > 0 ? wait : 0;
}

/** What fetch hides behind "fetch failed". */
function reasonOf(error: unknown): string {
  const cause = (error as { cause?: { code?: string; message?: string } }).cause;
  return cause?.code ?? cause?.message ?? (error as Error).message;
}
