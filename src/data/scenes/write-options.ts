/** What `writeScenes` can be told, checked. */
import { UserError } from "../../errors.js";

export interface WriteScenesOptions {
  /** The folder to make. It must not exist, or be empty. */
  readonly out: string;
  readonly seed: number;
  /** Training pictures. */
  readonly count: number;
  /** Pictures of the other splits: 1000, 1000 and 500 from 20,000 training pictures on, fewer below. */
  readonly validation?: number;
  readonly test?: number;
  readonly compositional?: number;
  /** Lines of text_train.jsonl; five times `count` if not given. */
  readonly textCount?: number;
  /** Lines of text_test.jsonl; 1000 from 20,000 training pictures on, fewer below. */
  readonly textTestCount?: number;
  readonly format?: "png" | "jpg";
}

export interface WriteScenesControl {
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { readonly done: number; readonly total: number }) => void;
}

export type CheckedOptions = Required<WriteScenesOptions>;

const KEYS = [
  "out",
  "seed",
  "count",
  "validation",
  "test",
  "compositional",
  "textCount",
  "textTestCount",
  "format",
] as const satisfies readonly (keyof WriteScenesOptions)[];

/** From this many training pictures on, the other splits have their full size. */
const FULL_COUNT = 20_000;
/** File names have six digits, and ids leave room for the captions and questions of each picture. */
const MAX_COUNT = 1_000_000;

/** The options with their defaults; refuses unknown names and impossible values. */
export function checkOptions(options: WriteScenesOptions): CheckedOptions {
  for (const name of Object.keys(options)) {
    if (!(KEYS as readonly string[]).includes(name)) {
      throw wrong(name, `one of ${KEYS.join(", ")}`, "an unknown option", "check its spelling");
    }
  }
  if (typeof options.out !== "string" || options.out.trim() === "") {
    throw wrong("out", "the path of a folder to make", shown(options.out), "name a new folder");
  }
  const { out, seed, format = "png" } = options;
  if (format !== "png" && format !== "jpg") {
    throw wrong("format", '"png" or "jpg"', shown(format), "leave it out for png");
  }
  const count = whole("count", options.count, 1, MAX_COUNT);
  const share = (full: number): number => Math.min(full, Math.max(1, Math.ceil((full * count) / FULL_COUNT)));
  return {
    out,
    seed: whole("seed", seed, 0, Number.MAX_SAFE_INTEGER),
    count,
    validation: whole("validation", options.validation ?? share(1000), 0, MAX_COUNT),
    test: whole("test", options.test ?? share(1000), 0, MAX_COUNT),
    compositional: whole("compositional", options.compositional ?? share(500), 0, MAX_COUNT),
    textCount: whole("textCount", options.textCount ?? 5 * count, 0, 100 * MAX_COUNT),
    textTestCount: whole("textTestCount", options.textTestCount ?? share(1000), 0, MAX_COUNT),
    format,
  };
}

function whole(name: string, value: number, low: number, high: number): number {
  if (Number.isInteger(value) && value >= low && value <= high) return value;
  throw wrong(name, `a whole number from ${low} to ${high}`, shown(value), `give ${name} such a number`);
}

function shown(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

function wrong(name: string, required: string, got: string, remedy: string): UserError {
  return new UserError(`scenes, option ${name}: required ${required}, got ${got}; ${remedy}`, {
    exitCode: 2,
  });
}
