/** The parts of a tokenizer.json: every value is checked by name and type before it is used. */
import { quoted } from "../quoted.js";
import { UserError } from "../errors.js";

export type JsonObject = Record<string, unknown>;

/** Published tokenizers have at most a few hundred thousand ids. */
const largestId = 10_000_000;

/** Published ones have at most two levels. */
const deepestPart = 8;

/** One object of a file. */
export class Part {
  constructor(
    readonly file: string,
    private readonly value: JsonObject,
    private readonly path: readonly string[] = [],
  ) {}

  /** The file and the place in it, for errors. */
  get where(): string {
    return this.path.length === 0 ? this.file : `${this.file}: ${this.path.join(".")}`;
  }

  /** The same for the value of a key. */
  at(key: string): string {
    return `${this.file}: ${[...this.path, key].join(".")}`;
  }

  /** The kind of a normaliser, a model and so on. */
  get type(): string {
    return this.string("type");
  }

  /** Whether the key is there and not null. */
  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  get(key: string): unknown {
    return Object.hasOwn(this.value, key) ? (this.value[key] ?? undefined) : undefined;
  }

  string(key: string, fallback?: string): string {
    return this.read(key, "a string", (value) => typeof value === "string", fallback);
  }

  boolean(key: string, fallback?: boolean): boolean {
    return this.read(key, "true or false", (value) => typeof value === "boolean", fallback);
  }

  /** A number of things, from 0. */
  count(key: string, fallback?: number): number {
    return this.read(key, "a whole number from 0", (value) => isCount(value), fallback);
  }

  id(key: string): number {
    return checkedId(this.get(key), key, this.where);
  }

  list(key: string, fallback?: readonly unknown[]): readonly unknown[] {
    return this.read(key, "a list", Array.isArray, fallback);
  }

  object(key: string): JsonObject {
    return this.read(key, "an object", isObject);
  }

  part(key: string): Part {
    return this.inner(key, this.get(key));
  }

  parts(key: string): Part[] {
    return this.list(key).map((value, i) => this.inner(`${key}.${i}`, value));
  }

  /** The error for what cannot be used here. */
  refuse(problem: string): UserError {
    return new UserError(`${this.where}: ${problem}`);
  }

  /** The error for a type that is none of `known`. */
  unknownType(known: string): UserError {
    return this.refuse(`the type ${quoted(this.type)} is not supported; ${known} are`);
  }

  private inner(key: string, value: unknown): Part {
    if (!isObject(value)) throw this.refuse(`an object is required for ${key}, got ${show(value)}`);
    if (this.path.length < deepestPart) return new Part(this.file, value, [...this.path, key]);
    throw this.refuse(`${key} is nested more than ${deepestPart} levels deep`);
  }

  private read<T>(key: string, required: string, fits: (value: unknown) => boolean, fallback?: T): T {
    const value = this.get(key);
    if (value === undefined && fallback !== undefined) return fallback;
    if (fits(value)) return value as T;
    throw this.refuse(`${required} is required for ${key}, got ${show(value)}`);
  }
}

/** `value` as the id of `token`. `where` names the place in errors. */
export function checkedId(value: unknown, token: string, where: string): number {
  if (isCount(value) && value <= largestId) return value;
  const required = isCount(value) ? `of at most ${largestId}` : "of 0 or more";
  throw new UserError(`${where}: an id ${required} is required for ${quoted(token)}, got ${show(value)}`);
}

function show(value: unknown): string {
  return value === undefined ? "none" : quoted(value);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
