/** Changes of good files: what a cut transfer, a bad disk or a stranger makes of them. */
import type { Random } from "../../src/random.js";

export interface Changed {
  readonly what: string;
  readonly bytes: Buffer;
}

type Change = (bytes: Buffer, random: Random) => Buffer;

const place = (bytes: Buffer, random: Random): number => random.between(0, Math.max(0, bytes.length - 1));

const changes: Readonly<Record<string, Change>> = {
  "bits turned": (bytes, random) => {
    const result = Buffer.from(bytes);
    for (let i = random.between(1, 8); i > 0; i--) result[place(bytes, random)]! ^= 1 << random.between(0, 7);
    return result;
  },
  "bytes replaced": (bytes, random) => {
    const result = Buffer.from(bytes);
    const odd = [0, 1, 0x7f, 0x80, 0xff];
    for (let i = random.between(1, 16); i > 0; i--) result[place(bytes, random)] = random.pick(odd);
    return result;
  },
  "cut short": (bytes, random) => bytes.subarray(0, place(bytes, random)),
  "bytes left out": (bytes, random) => {
    const at = place(bytes, random);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random.between(1, 64))]);
  },
  "bytes put in": (bytes, random) => {
    const at = place(bytes, random);
    return Buffer.concat([
      bytes.subarray(0, at),
      randomBytes(random, random.between(1, 64)),
      bytes.subarray(at),
    ]);
  },
  "a part twice": (bytes, random) => {
    const [at, length] = [place(bytes, random), random.between(1, 200)];
    return Buffer.concat([bytes.subarray(0, at + length), bytes.subarray(at)]);
  },
  "a part of another place": (bytes, random) => {
    const result = Buffer.from(bytes);
    const [from, to, length] = [place(bytes, random), place(bytes, random), random.between(1, 64)];
    bytes.copy(result, to, from, Math.min(bytes.length, from + length));
    return result;
  },
  "a number made huge": (bytes, random) => {
    const result = Buffer.from(bytes);
    const at = random.between(0, Math.max(0, Math.min(bytes.length, 512) - 4));
    if (bytes.length >= 4) result.writeInt32LE(random.pick([-1, 0x7fffffff, -0x80000000, 0x10000]), at);
    return result;
  },
};

export function changed(bytes: Buffer, random: Random): Changed {
  const what = random.pick(Object.keys(changes));
  return { what, bytes: changes[what]!(bytes, random) };
}

export function randomBytes(random: Random, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => random.between(0, 255)));
}

/** Values of every kind that JSON has, and of sizes that nobody means. */
const oddValues: readonly unknown[] = [
  [null, true, false, 0, -1, 1, 0.5, 1e9, 2 ** 31, 2 ** 53, 1e308, -1e308],
  ["", "x", "1", "__proto__", "../../etc/passwd", "\u0000", "😀", "x".repeat(10_000)],
  [[], {}, [[]], [null], { a: 1 }, Array.from({ length: 2000 }, (_, i) => i)],
].flat();

/** A copy in which one value is another, is gone, or has company; and what was done. */
export function changedJson(
  json: unknown,
  random: Random,
): { readonly what: string; readonly json: unknown } {
  const copy = structuredClone(json);
  const holders: (Record<string, unknown> | unknown[])[] = [];
  const visit = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return;
    holders.push(value as Record<string, unknown>);
    // Long lists hold much of the same.
    for (const item of Object.values(value).slice(0, 40)) visit(item);
  };
  visit(copy);
  const holder = random.pick(holders) as Record<string, unknown>;
  const keys = Object.keys(holder);
  const way =
    keys.length === 0 ? "added" : random.pick(["replaced", "replaced", "replaced", "removed", "added"]);
  if (way === "added") holder[random.pick(["extra", "__proto__x", "dropout", "0"])] = random.pick(oddValues);
  else {
    const key = random.pick(keys);
    if (way === "removed") delete holder[key];
    else holder[key] = nearTo(holder[key], random);
  }
  return { what: `a value ${way}`, json: copy };
}

/** Something odd, or of the same type and another size. */
function nearTo(value: unknown, random: Random): unknown {
  if (typeof value === "number" && random.chance(0.5))
    return random.pick([value + 1, value - 1, -value, value * 1000, value / 3, value + 0.5]);
  if (Array.isArray(value) && random.chance(0.5))
    return random.chance(0.5) ? [...value, ...value] : value.slice(1);
  return random.pick(oddValues);
}

/** What files hold that were not fetched as they should. */
export const notTheFile: Readonly<Record<string, Buffer>> = {
  nothing: Buffer.alloc(0),
  "a web page": Buffer.from("<!doctype html><html><head><title>Sign in</title></head><body></body></html>\n"),
  "a Git LFS pointer": Buffer.from(
    `version https://git-lfs.github.com/spec/v1\noid sha256:${"ab".repeat(32)}\nsize 4000000000\n`,
  ),
  zeros: Buffer.alloc(4096),
  "a zip": Buffer.from("PK\u0005\u0006" + "\0".repeat(18), "latin1"),
};
