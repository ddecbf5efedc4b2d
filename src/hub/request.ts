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

/** What is being asked for, to be named in errors. */
export interface Wanted {
  readonly id: string;
  readonly revision: string;
}

/** No answer about a model is larger; a file listing of the hub holds a thousand entries a page. */
const mostAnswerBytes = 2 ** 26;
const longestPause = 60_000; // ms
/** After so much has arrived, an interruption counts as the first again. */
const goodProgress = 2 ** 20;

/** `settings` with everything that a request needs beside its address. */
export class HubConnection {
  /** Whether a server has answered at all. */
  private isReached = false;

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
        let length = 0;
        for (let part = await nextBytes(); part !== undefined; part = await nextBytes()) {
          length += part.length;
          if (length > mostAnswerBytes) throw this.failure(`${url.host} answered without an end`);
          parts.push(part);
        }
        answer = new Response(Buffer.concat(parts), { status: response.status, headers: response.headers });
      });
    });
    return answer!;
  };

  /**
   * Calls `work` until it succeeds, at most `retries` more times; `work` reports the bytes that have arrived.
   * Throws `UnreachableError` after the last, with a further remedy.
   */
  async repeated(
    url: URL,
    work: (arrived: (bytes: number) => void) => Promise<void>,
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
        // Without a network nobody shall wait long for the copy in the cache.
        if (failures > (this.isReached ? retries : Math.min(1, retries))) {
          throw new UnreachableError(
            `${this.named}: cannot be fetched from ${url.host} (${error.message}, ${failures} tries); check the network, ` +
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
    let timer: NodeJS.Timeout | undefined;
    /** Waits for the server, but not for ever. */
    const heard = async <T>(answer: Promise<T>): Promise<T> => {
      timer = setTimeout(stop, this.settings.timeout);
      try {
        return await answer;
      } catch (error) {
        stopIf(this.signal);
        const silent = `silent for ${this.settings.timeout / 1000} s`;
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
      if (!isGood(response.status)) throw this.refusal(response);
      const reader = response.body?.getReader();
      await read(response, async () => {
        const part = reader && (await heard(reader.read()));
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
      return new BrokenError(asked, 1000 * (Number(headers.get("retry-after")) || 0));
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

/** What fetch hides behind "fetch failed". */
function reasonOf(error: unknown): string {
  const cause = (error as { cause?: { code?: string; message?: string } }).cause;
  return cause?.code ?? cause?.message ?? (error as Error).message;
}
