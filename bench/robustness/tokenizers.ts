/** Tokenizer folders that were changed, and texts for those that were not. */
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Random } from "../../src/random.js";
import { loadTokenizer, type TextTokenizer } from "../../src/text/tokenizer.js";
import { inRepository } from "../repository.js";
import { changed, changedJson, notTheFile } from "./changes.js";
import { copyModel, replaceFile } from "./model-folders.js";
import type { Kind } from "./trial.js";

const bundled = ["scenes-opt", "scenes-t5", "scenes-retrieval"];
const texts = ["a red fish on sand", "Question: what is the background? Answer:", "", "  två  blå 😀\tx\n"];

function unsound(tokenizer: TextTokenizer, text: string): string | undefined {
  const ids = tokenizer.encode(text);
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= tokenizer.vocabularySize);
  if (bad !== undefined) return `the id ${bad} of ${tokenizer.vocabularySize}`;
  return typeof tokenizer.decode(ids) === "string" ? undefined : "no text comes back";
}

export const tokenizerFolders: Kind = {
  name: "tokenizer-folders",
  title: "tokenizer folders",
  rule:
    "The tokenizers of the bundled models, in the newer file and in the older sets, with values replaced, removed or added, files changed in some bytes, missing, or not what they should be; loaded, and given four texts. " +
    "Right: the ids of the unchanged tokenizer. Accepted: ids within the vocabulary.",
  count: 700,
  quick: 40,
  limit: 30_000,
  async prepare(folder) {
    const kinds = await Promise.all(
      bundled.map(async (name) => {
        const from = inRepository(join("models", name));
        const files: Record<string, Buffer> = {};
        for (const file of await readdir(from))
          if (/token|vocab|merges/.test(file)) files[file] = await readFile(join(from, file));
        const to = join(folder, name);
        await copyModel(from, to);
        const loaded = await loadTokenizer(to);
        return { to, files, ids: JSON.stringify(texts.map((text) => loaded.encode(text))) };
      }),
    );
    return (random, index) => {
      const { to, files, ids } = random.pick(kinds);
      const older = random.chance(0.4);
      const names = Object.keys(files).filter((name) => !older || name !== "tokenizer.json");
      const name = random.pick(names);
      const part = index % 10;
      let [form, content]: [string, string | Uint8Array] = ["whole", files[name]!];
      if (part === 1) [form, content] = random.pick(Object.entries(notTheFile));
      else if (part > 1 && (part < 5 || !name.endsWith(".json"))) {
        const { what, bytes } = changed(files[name]!, random);
        [form, content] = [what, bytes];
      } else if (part > 1) {
        const other = changedJson(JSON.parse(files[name]!.toString()), random);
        [form, content] = [other.what, JSON.stringify(other.json)];
      }
      return {
        form: `${older ? "older set" : "tokenizer.json"}, ${form}`,
        must: part === 0 ? "read" : "either",
        run: async () => {
          for (const [file, bytes] of Object.entries(files))
            await replaceFile(join(to, file), file === name ? content : bytes);
          if (older) await rm(join(to, "tokenizer.json"));
          const tokenizer = await loadTokenizer(to);
          for (const text of texts) {
            const fault = unsound(tokenizer, text);
            if (fault !== undefined) return fault;
          }
          const found = JSON.stringify(texts.map((text) => tokenizer.encode(text)));
          return part === 0 && !older && found !== ids ? `other ids: ${found}` : undefined;
        },
      };
    };
  },
};

const alphabets = [
  "abcdefghijklmnopqrstuvwxyz ",
  "ABC xyz 0123456789 .,;:!?'\"()[]{}<>|&%$#@*+-=_/\\",
  " \t\n\r\u00a0\u0085\u2028\u3000\ufeff\u200b\u00ad",
  "äöüßéñçøåÆŒİıſﬁΩΣσςдЖעבأسहिन्दी",
  "漢字仮名交じり文한국어𠀀𪛖",
  "😀👩‍👩‍👧🏳️‍🌈e\u0301\u0323\u1e69",
  "<s></s><pad><unk>[CLS][SEP]<extra_id_0>",
];

function randomText(random: Random): string {
  const parts = Array.from({ length: random.between(0, 40) }, () => {
    const letters = [...random.pick(alphabets)];
    return Array.from({ length: random.between(1, 8) }, () => random.pick(letters)).join("");
  });
  if (random.chance(0.1)) parts.push(String.fromCharCode(random.between(0xd800, 0xdfff)));
  return parts.join(random.chance(0.5) ? " " : "");
}

export const longTexts: Kind = {
  name: "texts",
  title: "texts through the bundled tokenizers",
  rule:
    "Words, numbers, signs, spaces of all sorts, six scripts, emoji, combining marks, half surrogates, spelled-out special tokens, and single characters repeated 20,000 times. " +
    "Right: ids within the vocabulary, the same ones a second time, and, from the byte-level tokenizers, the text that went in (behind the space that they put before it, half surrogates as U+FFFD, and not where it spells special tokens).",
  count: 3000,
  quick: 150,
  limit: 20_000,
  async prepare() {
    const loaded = await Promise.all(
      bundled.map(async (name) => ({
        name,
        tokenizer: await loadTokenizer(inRepository(join("models", name))),
      })),
    );
    return (random, index) => {
      const { name, tokenizer } = random.pick(loaded);
      const isLong = index % 100 === 0;
      const text = isLong ? random.pick([..."a ,漢\n\u0301"]).repeat(20_000) : randomText(random);
      return {
        form: `${name}, ${isLong ? "long" : "short"}`,
        must: "read",
        run: async () => {
          const fault = unsound(tokenizer, text);
          if (fault !== undefined) return fault;
          const ids = tokenizer.encode(text, { addSpecialTokens: false });
          if (tokenizer.encode(text, { addSpecialTokens: false }).join() !== ids.join())
            return "other ids the second time";
          if (name === "scenes-retrieval" || /[<[]/.test(text)) return undefined;
          const back = tokenizer.decode(ids, { skipSpecialTokens: false });
          const wanted = Buffer.from(text).toString();
          return [wanted, ` ${wanted}`].includes(back)
            ? undefined
            : `${JSON.stringify(wanted.slice(0, 80))} comes back as ${JSON.stringify(back.slice(0, 80))}`;
        },
      };
    };
  },
};
