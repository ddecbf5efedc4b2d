/** Randomness that is a function of a key and a position, so that scene 7 never depends on scenes 0 to 6. */
import { InternalError } from "./errors.js";

const INCREMENT_A = 0x9e3779b9;
const INCREMENT_B = 0x85157af5;

/** A stream of numbers named by its key; equal keys give equal streams on every machine. */
export class Random {
  readonly #a: number;
  readonly #b: number;
  #position = 0;

  constructor(...key: readonly (string | number)[]) {
    const text = key.join("/");
    // Two lanes, because with one 32-bit key a hundred thousand streams would start to coincide.
    this.#a = hash(text, 0x51ed270b);
    this.#b = hash(text, 0x2c1b3c6d);
  }

  /** Uniform over the 32-bit whole numbers. */
  #word(): number {
    this.#position++;
    const a = mix(this.#a + Math.imul(this.#position, INCREMENT_A));
    return mix(a ^ (this.#b + Math.imul(this.#position, INCREMENT_B)));
  }

  /** Uniform in [0, 1). */
  next(): number {
    return this.#word() / 2 ** 32;
  }

  /** A whole number in [from, to], both included. */
  between(from: number, to: number): number {
    return from + Math.floor(this.next() * (to - from + 1));
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  /** One element of a list that is not empty. */
  pick<T>(list: readonly T[]): T {
    if (list.length === 0) throw new InternalError("Random.pick: the list is empty");
    return list[Math.floor(this.next() * list.length)] as T;
  }

  /** A copy of the list in random order. */
  shuffle<T>(list: readonly T[]): T[] {
    const keyed = list.map((item) => ({ item, key: this.next() }));
    return keyed.toSorted((left, right) => left.key - right.key).map(({ item }) => item);
  }
}

function hash(text: string, start: number): number {
  let value = start;
  for (let i = 0; i < text.length; i++) value = mix(Math.imul(value ^ text.charCodeAt(i), 0x01000193) + i);
  return value;
}

/** Spreads every input bit over all 32 output bits (the finaliser of MurmurHash3). */
function mix(value: number): number {
  let bits = value | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}
