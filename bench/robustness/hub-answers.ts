/** A small model, and ways to answer for a hub that has it: pieces of which `hub-faults.ts` makes what can go wrong. */
import { createHash } from "node:crypto";
import type { ServerResponse } from "node:http";
import { isLarge, type Asked, type Interference, type Model } from "../../test/checkpoints/loopback-hub.js";

export const modelId = "org/small-blip";
export const commit = "1".repeat(40);
const weightsName = "model.safetensors";

/** The same bytes each time. */
function pattern(length: number): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0; i * 32 < length; i++) parts.push(createHash("sha256").update(`${i}`).digest());
  return Buffer.concat(parts).subarray(0, length);
}

export const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const weights = pattern(2_500_000);

export function smallFiles(): Record<string, Buffer> {
  return {
    "README.md": Buffer.from("# A model"),
    "config.json": json({ model_type: "blip-2" }),
    "generation_config.json": json({ max_new_tokens: 5 }),
    "preprocessor_config.json": json({ do_resize: true }),
    "tokenizer.json": json({ version: "1.0", added_tokens: Array.from({ length: 50 }, (_, id) => ({ id })) }),
    [weightsName]: weights,
  };
}

export const smallModel = (files = smallFiles()): Model => ({
  id: modelId,
  refs: { main: commit },
  commits: { [commit]: files },
});

export type Answer = (response: ServerResponse, asked: Asked, body: Buffer) => void;

/** Answers what `matches` itself, at most `times` times. */
export const answering =
  (matches: (asked: Asked) => boolean, answer: Answer, times = Infinity) =>
  (): Interference => {
    let left = times;
    return (asked, response, body) => {
      if (!matches(asked) || left <= 0) return false;
      left--;
      answer(response, asked, body ?? Buffer.alloc(0));
      return true;
    };
  };

export const isRevision = ({ path }: Asked): boolean => path.includes("/revision/");
export const isListing = ({ path }: Asked): boolean => path.includes("/tree/");
export const isWeights = ({ host, path }: Asked): boolean => host === "store" && path.endsWith(weightsName);
export const isTokenizer = ({ path }: Asked): boolean => path.endsWith("/tokenizer.json");
export const always = (): boolean => true;

export const send =
  (body: string | Buffer, headers: Record<string, string | number> = {}, status = 200): Answer =>
  (response) =>
    void response.writeHead(status, headers).end(body);
export const startOf = ({ range }: Asked): number => Number(/\d+/.exec(range ?? "0")![0]);

/** Sends so many bytes of what is asked for, then breaks the connection; with `ranges`, from where it is asked to. */
export const cutAfter =
  (bytes: number, ranges: boolean): Answer =>
  (response, asked, body) => {
    const start = ranges ? startOf(asked) : 0;
    const isPart = ranges && asked.range !== undefined;
    response.writeHead(isPart ? 206 : 200, {
      "content-length": body.length - start,
      ...(isPart && { "content-range": `bytes ${start}-${body.length - 1}/${body.length}` }),
    });
    // A reader that has not taken the bytes yet loses them when the connection breaks.
    response.write(body.subarray(start, start + bytes), () => setTimeout(() => response.destroy(), 60));
  };

/** Writes again and again, for as long as somebody listens. */
export const endless =
  (piece: Buffer, headers: Record<string, string> = {}): Answer =>
  (response) => {
    response.writeHead(200, headers);
    const more = (): void => void response.write(piece, (failed) => failed ?? setImmediate(more));
    more();
  };

export const drip: Answer = (response, _, body) => {
  response.writeHead(200, { "content-length": body.length || 100_000 });
  let at = 0;
  const timer = setInterval(() => {
    if (response.destroyed) clearInterval(timer);
    else response.write(body.length === 0 ? " " : body.subarray(at++, at));
  }, 20);
};

/** The first call is answered by one, later ones by the other. */
export const followed =
  (first: Answer, second: (asked: Asked) => boolean, later: Answer) => (): Interference => {
    const [one, two] = [answering(isWeights, first, 1)(), answering(second, later)()];
    return (asked, response, body) => one(asked, response, body) || two(asked, response, body);
  };
export const isPartOfWeights = (asked: Asked): boolean => isWeights(asked) && asked.range !== undefined;

/** A listing in which entries are changed. */
export const relisted = (change: (entry: Record<string, unknown>) => unknown): (() => Interference) =>
  answering(isListing, (response) => {
    const entries = Object.entries(smallFiles()).map(([path, bytes]) => {
      const oid = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
      const lfs = { oid: createHash("sha256").update(bytes).digest("hex"), size: bytes.length };
      return { type: "file", path, size: bytes.length, oid, ...(isLarge(path) && { lfs }) };
    });
    response.end(JSON.stringify(entries.map(change)));
  });

export const withIndex = (index: Buffer) => (): Record<string, Buffer> => {
  const { [weightsName]: _, ...files } = smallFiles();
  return { ...files, "model.safetensors.index.json": index };
};
