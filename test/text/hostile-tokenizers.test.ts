import { execFileSync } from "node:child_process";
import {
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Random } from "../../src/random.js";
import { UserError } from "../../src/errors.js";
import { bertTokenizerFiles } from "../../src/text/bert-tokenizer.js";
import { buildBpeTokenizer } from "../../src/text/build-bpe.js";
import { buildWordPieceTokenizer } from "../../src/text/build-wordpiece.js";
import { readTokenizerFiles } from "../../src/text/tokenizer-files.js";
import { loadTokenizer } from "../../src/text/tokenizer.js";

const legacy = "test/golden/text/legacy";
/** A file of each kind, with the set that holds it. */
const kinds = [
  ["opt", "vocab.json"],
  ["opt", "merges.txt"],
  ["bert", "vocab.txt"],
  ["t5", "spiece.model"],
  ["bert", "tokenizer_config.json"],
] as const;

let folder: string;
let outside: string;
beforeEach(async () => {
  const root = await mkdtemp(join(tmpdir(), "blip2-text-"));
  [folder, outside] = [join(root, "model"), join(root, "secret")];
  await mkdir(folder);
  await writeFile(outside, '"the secret of another file"\n');
});
afterEach(() => rm(join(folder, ".."), { recursive: true }));

const fill = async (set: string): Promise<void> => {
  for (const name of await readdir(join(legacy, set)))
    await copyFile(join(legacy, set, name), join(folder, name));
};

async function refusal(load: () => Promise<unknown> = () => loadTokenizer(folder)): Promise<string> {
  const error = await load().then(
    () => new Error("was accepted"),
    (thrown: unknown) => thrown as Error,
  );
  expect(error).toBeInstanceOf(UserError);
  expect(error.message).not.toContain("secret of another");
  expect(error.message.length).toBeLessThan(1500);
  return error.message.replaceAll(join(folder, ".."), "DIR");
}

describe("in the place of a tokenizer file", () => {
  describe.each(kinds)("%s/%s", (set, name) => {
    const path = (): string => join(folder, name);
    beforeEach(async () => {
      await fill(set);
      await rm(path());
    });

    it("a link out of the folder is not followed", async () => {
      await symlink(outside, path());
      expect(await refusal()).toMatch(`DIR/model/${name}: this is a link to`);
      await rm(path());
      await symlink("/dev/zero", path());
      expect(await refusal()).toMatch(`DIR/model/${name}: this is a link to`);
      expect(await refusal(() => readTokenizerFiles(folder))).toMatch(`DIR/model/${name}: this is a link to`);
    });

    it("a pipe is not waited for, a folder not read", async () => {
      execFileSync("mkfifo", [path()]);
      expect(await refusal()).toBe(`DIR/model/${name}: a file is required, this is none`);
      await rm(path());
      await mkdir(path());
      expect(await refusal()).toBe(`DIR/model/${name}: a file is required, this is none`);
    });

    it("an endless file is not read", async () => {
      await writeFile(path(), "");
      await truncate(path(), 1e12);
      expect(await refusal()).toBe(
        `DIR/model/${name}: has 1000000000000 bytes; a file of a tokenizer has at most 64000000`,
      );
    });

    it("a pointer of Git LFS and a web page are named", async () => {
      await writeFile(path(), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n");
      expect(await refusal()).toBe(
        `DIR/model/${name}: is a pointer of Git LFS, not the file itself; run "git lfs pull" in DIR/model to fetch it`,
      );
      for (const page of ["<!DOCTYPE html><html>", "\ufeff\n <HTML lang='en'>", "<html>"]) {
        await writeFile(path(), page);
        expect(await refusal()).toContain(`DIR/model/${name}: is a web page (HTML), not the file itself`);
      }
    });
  });

  it("BERT's vocabulary for a training has the same guards", async () => {
    await symlink(outside, join(folder, "vocab.txt"));
    expect(await refusal(() => bertTokenizerFiles(folder))).toMatch("DIR/model/vocab.txt: this is a link to");
    await rm(join(folder, "vocab.txt"));
    const words = { "[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 2 ** 31 };
    await writeFile(
      join(folder, "tokenizer.json"),
      JSON.stringify({ model: { type: "WordPiece", vocab: words } }),
    );
    expect(await refusal(() => bertTokenizerFiles(folder))).toBe(
      'DIR/model/tokenizer.json: model.vocab: an id of at most 10000000 is required for "[MASK]", got 2147483648',
    );
    words["[MASK]"] = 9_000_000;
    await writeFile(
      join(folder, "tokenizer.json"),
      JSON.stringify({ model: { type: "WordPiece", vocab: words } }),
    );
    expect(await refusal(() => bertTokenizerFiles(folder))).toBe(
      "DIR/model/tokenizer.json: its vocabulary has no word with the id 4",
    );
  });

  it("texts that are no UTF-8, too many lines, too deep or too full JSON are refused before they are taken apart", async () => {
    await fill("bert");
    await writeFile(join(folder, "vocab.txt"), Buffer.from([0x61, 0xff, 0x0a]));
    expect(await refusal()).toBe("DIR/model/vocab.txt: is not a text in UTF-8; fetch the file again");
    await writeFile(join(folder, "vocab.txt"), "\n".repeat(2_000_000));
    expect(await refusal()).toBe("DIR/model/vocab.txt: has 2000000 lines; at most 1000000 are read");
    await writeFile(join(folder, "tokenizer.json"), "[".repeat(5_000_000));
    expect(await refusal()).toBe("DIR/model/tokenizer.json: is nested more than 100 levels deep");
    await writeFile(join(folder, "tokenizer.json"), `{"a": [${"{},".repeat(4_000_000)}0]}`);
    expect(await refusal()).toMatch(
      /^DIR\/model\/tokenizer\.json: holds 8000002 values; .* at most 3000000$/,
    );
    await rm(join(folder, "tokenizer.json"));
    await rm(join(folder, "vocab.txt"));
    await writeFile(join(folder, "spiece.model"), Buffer.alloc(4_000_000, Buffer.from([0x0a, 0])));
    expect(await refusal()).toBe("DIR/model/spiece.model: has more than 1000000 pieces");
  });
});

type Json = Record<string, unknown>;

const built = {
  bpe: buildBpeTokenizer(["a red star"]),
  wordpiece: buildWordPieceTokenizer(["a red star"]),
};

describe("ids", () => {
  const changed = async (change: (json: Json, config: Json) => void): Promise<void> => {
    const [json, config] = [
      structuredClone(built.bpe["tokenizer.json"]),
      structuredClone(built.bpe["tokenizer_config.json"]),
    ];
    change(json, config);
    await writeFile(join(folder, "tokenizer.json"), JSON.stringify(json));
    await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify(config));
  };

  it.each([2 ** 31, 2 ** 32, 2 ** 53, -1, 0.5, "7", null])("%s is refused wherever it stands", async (id) => {
    const required = /: an id of (?:at most 10000000|0 or more) is required for /;
    await changed((json) => Object.assign((json["model"] as { vocab: Json }).vocab, { zzz: id }));
    expect(await refusal()).toMatch(required);
    await changed((json) => Object.assign((json["added_tokens"] as Json[])[0]!, { id }));
    expect(await refusal()).toMatch(required);
    if (id !== null && id !== "7") {
      await changed((_, config) => (config["added_tokens_decoder"] = { [String(id)]: { content: "<new>" } }));
      expect(await refusal()).toMatch(required);
    }
    await changed((json) => {
      const { special_tokens: special } = json["post_processor"] as { special_tokens: Record<string, Json> };
      special["</s>"]!["ids"] = [id];
    });
    expect(await refusal()).toMatch(required);
  });

  it("that two tokens share, or that no token has, are refused", async () => {
    await changed((json) => Object.assign((json["model"] as { vocab: Json }).vocab, { zzz: 0 }));
    expect(await refusal()).toBe('DIR/model/tokenizer.json: model.vocab: "<s>" and "zzz" both have the id 0');
    await changed((json) => Object.assign((json["added_tokens"] as Json[]).at(-1)!, { id: 0 }));
    expect(await refusal()).toBe(
      'DIR/model/tokenizer.json: added_tokens: "<image>" has the id 0, which is that of "<s>"',
    );
    await changed((json) => {
      const { special_tokens: special } = json["post_processor"] as { special_tokens: Record<string, Json> };
      special["</s>"]!["ids"] = [9_999_999];
    });
    expect(await refusal()).toBe(
      "DIR/model/tokenizer.json: post_processor puts the id 9999999 around texts, which no token has",
    );
  });

  it("of tokens with the names of an object's own members are found", async () => {
    await changed((json) => {
      const { vocab } = json["model"] as { vocab: Json };
      const next = Object.keys(vocab).length + 1;
      for (const [i, name] of ["constructor", "__proto__", "toString"].entries())
        Object.defineProperty(vocab, name, { value: next + i, enumerable: true });
    });
    const tokenizer = await loadTokenizer(folder);
    const ids = ["constructor", "__proto__", "toString"].map((name) => tokenizer.idOf(name));
    expect(tokenizer.decode(ids)).toBe("constructor__proto__toString");
    expect(tokenizer.has("hasOwnProperty")).toBe(false);
  });
});

it("a role without a token puts nothing around a text", async () => {
  await fill("opt");
  const config = JSON.parse(await readFile(join(folder, "tokenizer_config.json"), "utf8")) as Json;
  await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify({ ...config, bos_token: "" }));
  const tokenizer = await loadTokenizer(folder);
  expect(tokenizer.encode("red")).toEqual(tokenizer.encode("red", { addSpecialTokens: false }));
});

describe("damaged sets", () => {
  const values: unknown[] = [
    null,
    true,
    -1,
    2 ** 31,
    1e308,
    "",
    "x".repeat(100_000),
    "__proto__",
    "\ud800",
    [],
    {},
    [["a"]],
    ["a", "b"],
    { type: "Sequence", normalizers: null },
    { type: "Sequence", pretokenizers: [{ type: "Sequence", pretokenizers: [{}] }] },
    { type: "Replace", pattern: { Regex: "(a+)+$" }, content: "b" },
    { type: "Strip", content: "a", start: 1e9, stop: 1e9 },
  ];

  /** Puts a value that does not belong there somewhere into `json`. */
  const damage = (json: Json, random: Random): void => {
    let place: Json = json;
    for (;;) {
      const key = random.pick(Object.keys(place));
      const inner = place[key];
      if (
        typeof inner === "object" &&
        inner !== null &&
        Object.keys(inner).length > 0 &&
        random.next() < 0.6
      ) {
        place = inner as Json;
      } else {
        const value = structuredClone(random.pick(values));
        const name = random.next() < 0.1 ? "__proto__" : key;
        if (random.next() < 0.2) delete place[key];
        else
          Object.defineProperty(place, name, { value, enumerable: true, configurable: true, writable: true });
        return;
      }
    }
  };

  it.each(["bpe", "wordpiece", "opt", "bert", "t5"])(
    "of %s work or are refused as the user's",
    async (kind) => {
      const random = new Random(7, kind);
      const own = kind in built ? built[kind as keyof typeof built] : undefined;
      const names =
        own === undefined ? await readdir(join(legacy, kind)) : ["tokenizer.json", "tokenizer_config.json"];
      const originals = new Map<string, Buffer>();
      for (const name of names) {
        const bytes =
          own === undefined
            ? await readFile(join(legacy, kind, name))
            : Buffer.from(JSON.stringify(own[name]));
        originals.set(name, bytes);
      }
      let refused = 0;
      for (let i = 0; i < 150; i++) {
        const target = random.pick(names);
        for (const [name, original] of originals) {
          let bytes: Buffer = Buffer.from(original);
          if (name === target && name.endsWith(".json") && random.next() < 0.8) {
            const json = JSON.parse(bytes.toString()) as Json;
            if (Object.keys(json).length > 0) damage(json, random);
            bytes = Buffer.from(JSON.stringify(json));
          } else if (name === target && random.next() < 0.4) {
            bytes = bytes.subarray(0, Math.floor(random.next() * bytes.length));
          } else if (name === target) {
            for (let k = 0; k < 4; k++)
              bytes[Math.floor(random.next() * bytes.length)] = Math.floor(random.next() * 256);
          }
          await writeFile(join(folder, name), bytes);
        }
        try {
          const tokenizer = await loadTokenizer(folder);
          const ids = tokenizer.encode(
            `Hello \u00e9 \u4e1c it's <x> ${"a".repeat(300)}! ${"red star ".repeat(100)}`,
          );
          expect(ids.every((id) => id >= 0 && id < tokenizer.vocabularySize)).toBe(true);
          tokenizer.decode(ids);
        } catch (error) {
          expect(error).toBeInstanceOf(UserError);
          expect((error as Error).message.length).toBeLessThan(1500);
          refused++;
        }
      }
      expect(refused).toBeGreaterThan(20);
    },
  );
});
