/**
 * A small hub on loopback: models with commits, listings in pages, small files from the hub itself and large ones behind
 * a redirect to a second port, as the real one has them. A test may get in between each request and its answer.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface Asked {
  readonly host: "hub" | "store";
  /** Decoded, without the query. */
  readonly path: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/** Returns true if it has answered, or will. */
export type Interference = (asked: Asked, response: ServerResponse, body: Buffer | undefined) => boolean;

export interface Model {
  readonly id: string;
  /** By branch or tag. */
  readonly refs: Record<string, string>;
  /** By commit, then by path. */
  readonly commits: Record<string, Record<string, Buffer>>;
}

export const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
export const gitHash = (bytes: Buffer): string =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
export const isLarge = (name: string): boolean => /\.(safetensors|bin)$/.test(name);

const entriesAPage = 4;

export class LoopbackHub {
  readonly asked: Asked[] = [];
  endpoint = "";
  storeHost = "";
  interfere: Interference = () => false;
  private readonly hub = createServer((request, response) => this.answer("hub", request, response));
  private readonly store = createServer((request, response) => this.answer("store", request, response));

  constructor(readonly models: Model[]) {}

  async start(): Promise<this> {
    for (const server of [this.hub, this.store]) {
      await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
    }
    const [hub, store] = [this.hub, this.store].map((server) => (server.address() as AddressInfo).port);
    this.endpoint = `http://127.0.0.1:${hub}`;
    this.storeHost = `127.0.0.1:${store}`;
    return this;
  }

  async stop(): Promise<void> {
    for (const server of [this.hub, this.store]) {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
    }
  }

  /** The names of the files whose bytes were sent. */
  get sent(): string[] {
    return this.asked
      .filter(({ path, host }) => host === "store" || (path.includes("/resolve/") && !isLarge(path)))
      .map(({ path }) => path.split("/").at(-1)!);
  }

  private answer(host: Asked["host"], request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url!, this.endpoint);
    const asked: Asked = {
      host,
      path: decodeURIComponent(url.pathname),
      range: request.headers.range,
      authorization: request.headers.authorization,
    };
    this.asked.push(asked);
    const [, api, id, kind, ref, name] =
      /^(?:\/(api)\/models)?\/([\w.-]+\/[\w.-]+)\/(\w+)\/([\w./-]+?)(?:\/([^/]*))?$/.exec(asked.path) ?? [];
    const model = this.models.find((candidate) => candidate.id === id);
    // Revisions may hold slashes; only the last part of a file's path can be its name.
    const revision = api === undefined ? ref! : [ref, name].filter((part) => part !== undefined).join("/");
    const commit = model?.refs[revision] ?? revision;
    const files = model?.commits[commit];
    const body = files?.[name ?? ""];
    if (this.interfere(asked, response, body)) return;
    if (model === undefined) return refuse(response, 401, "RepoNotFound");
    if (files === undefined) return refuse(response, 404, "RevisionNotFound");
    if (api !== undefined && kind === "revision") return json(response, { _id: "1", id, sha: commit });
    if (api !== undefined && kind === "tree") return this.list(response, files, url);
    if (body === undefined) return refuse(response, 404, "EntryNotFound");
    if (host === "hub" && isLarge(name!)) {
      response.writeHead(302, { location: `http://${this.storeHost}${request.url}` }).end();
      return;
    }
    sendBytes(response, body, asked.range);
  }

  private list(response: ServerResponse, files: Record<string, Buffer>, url: URL): void {
    const start = Number(url.searchParams.get("cursor") ?? 0);
    const names = Object.keys(files);
    if (start + entriesAPage < names.length) {
      url.searchParams.set("cursor", String(start + entriesAPage));
      response.setHeader("link", `<${url.href}>; rel="next"`);
    }
    const entries = names.slice(start, start + entriesAPage).map((name) => {
      const bytes = files[name]!;
      const lfs = { oid: sha256(bytes), size: bytes.length, pointerSize: 130 };
      const oid = gitHash(isLarge(name) ? Buffer.from(lfs.oid) : bytes);
      return { type: "file", path: name, size: bytes.length, oid, ...(isLarge(name) && { lfs }) };
    });
    json(response, entries);
  }
}

export function sendBytes(response: ServerResponse, body: Buffer, range: string | undefined): void {
  const start = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
  if (range === undefined) {
    response.writeHead(200, { "content-length": body.length }).end(body);
    return;
  }
  response.writeHead(206, {
    "content-length": body.length - start,
    "content-range": `bytes ${start}-${body.length - 1}/${body.length}`,
  });
  response.end(body.subarray(start));
}

export function refuse(response: ServerResponse, status: number, code?: string): void {
  response.writeHead(status, code === undefined ? {} : { "x-error-code": code }).end("{}");
}

function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
}
