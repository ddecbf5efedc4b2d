"""Golden token ids: what Python's transformers makes of the tokenizer files that src/text builds.

Run from the repository root: python reference/text.py
(Not called tokenizers.py: that name would hide the package of the same name from every script in this folder.)
"""

import json
import pathlib
import subprocess
import tempfile

from transformers import AutoTokenizer

OUT = pathlib.Path("test/golden/text/tokenizers.json")

WORLD = [
    "a large red star and a small blue fish on a green background",
    "Question: what is left of the house? Answer: a yellow cat",
    "there are two trees , one boat and 3 cups .",
    "is there a circle? yes, no",
]

TEXTS = [
    "",
    " ",
    "a red star",
    " a red star",
    "a red star , a fish",
    "Question: what is left of the house? Answer:",
    "a red star\n",
    "a red\nstar \n",
    "\n",
    "two trees, one boat.",
    "A RED Star",
    "redder starfish",
    "  two   spaces  ",
    "it's the cat's, don't they're",
    "r\u00e9sum\u00e9 na\u00efve \u00c5ngstr\u00f6m",
    "\u2605 star \U0001f41f fish \u6771\u4eac",
    "3 cups 42 1.5 a1b2",
    "<image> a red star",
    "<image><image>Question: yes",
    "</s>a fish</s>",
    "[DEC] a fish [SEP] cat",
    "(a) \"red\" - star! #1 @home 50% x_y",
    "tab\there\r\nnew",
    "unknownword " * 3,
]

BUILD = """
import { mkdirSync, writeFileSync } from "node:fs";
import { buildBpeTokenizer } from "./src/text/build-bpe.js";
import { buildWordPieceTokenizer } from "./src/text/build-wordpiece.js";
const [out, texts] = [process.argv.at(-2), JSON.parse(process.argv.at(-1))];
for (const [kind, build] of [["bpe", buildBpeTokenizer], ["wordpiece", buildWordPieceTokenizer]]) {
  mkdirSync(`${out}/${kind}`);
  for (const [name, value] of Object.entries(build(texts)))
    writeFileSync(`${out}/${kind}/${name}`, typeof value === "string" ? value : JSON.stringify(value));
}
"""


def main():
    golden = {"world": WORLD, "texts": TEXTS}
    with tempfile.TemporaryDirectory() as folder:
        command = ["node", "--import", "tsx", "--input-type=module", "-e", BUILD, "--", folder, json.dumps(WORLD)]
        subprocess.run(command, check=True)
        for kind in ("bpe", "wordpiece"):
            tokenizer = AutoTokenizer.from_pretrained(f"{folder}/{kind}")
            rows = tokenizer(TEXTS)["input_ids"]
            batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=6, padding_side="left")
            golden[kind] = {
                "class": type(tokenizer).__name__,
                "size": len(tokenizer),
                "ids": rows,
                "bare": tokenizer(TEXTS, add_special_tokens=False)["input_ids"],
                "decoded": [tokenizer.decode(row) for row in rows],
                "spoken": [tokenizer.decode(row, skip_special_tokens=True) for row in rows],
                "batch": {"ids": batch["input_ids"], "mask": batch["attention_mask"]},
                "special": {
                    role: tokenizer.convert_tokens_to_ids(getattr(tokenizer, f"{role}_token"))
                    for role in ("bos", "eos", "pad", "unk", "cls", "sep")
                    if getattr(tokenizer, f"{role}_token") is not None
                },
            }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
