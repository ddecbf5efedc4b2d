"""Golden token ids for the parts of a tokenizer.json, on texts of odd characters: test/golden/text/parts.json.

Run from the repository root, with sentencepiece and protobuf installed beside transformers:
    python reference/tokenizer_parts.py

Every kind of normaliser and pre-tokenizer stands before a model that hides nothing: each byte is a token, and each piece ends with a mark. The
older file sets of test/golden/text/legacy get texts of the same characters. A second run gives the same bytes.
"""

import json
import pathlib
import random

from tokenizers import Tokenizer
from transformers import BertTokenizer, GPT2Tokenizer, T5Tokenizer

OUT = pathlib.Path("test/golden/text/parts.json")
LEGACY = pathlib.Path("test/golden/text/legacy")

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

BYTES = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": "</w>",
    "fuse_unk": False, "byte_fallback": True, "ignore_merges": False,
    "vocab": {f"<0x{byte:02X}>": byte for byte in range(256)}, "merges": [],
}

ODD = """
0 1 7 9 a b c d 1c 1d 1e 1f 20 20 20 7f 80 85 a0 ad aa b2 bc 130 131 17f 1c5 300 301 307 323 345 34f 3a3 3c2 3c3 587 5b0 61c 660 7fd 900 93c 94d 915
9fe e33 eba 1100 1161 11a8 ac00 1680 180e 1734 1cf2 1e9e 1f80 2000 200b 200c 200d 200e 2010 2028 2029 202e 202f 2044 205f 2060 2126 212a 212b 2160 2460 2581
2e43 2e80 3000 3001 3007 3042 3099 30ab 32ff 3400 4e00 6771 9fff a000 ab69 e000 f900 fa0e fb01 fdfa fe0f feff ff10 ff21 ff5e ff76 ff9e fff9 fffc fffd ffff
10000 105c9 105d2 10400 11938 11935 11930 16b50 1d15e 1d400 1e900 1f1e6 1f1e7 1f3fb 1f468 1f469 1f600 2764 20000 2a6df 2a700 2b740 2b81f 2b820 2b91f
2b920 2ceaf 2ceb0 2f800 30000 e0001 e0100 f0000 10ffff
""".split()

WORDS = [
    "a", "b", "A", "ab", "Ab", "aB", "AB", "x", "1", "23", "4567", ".", ",", "'s", "'S", "'\u017f", "'re", "'LL", "n't", "\u00e9", "\u00c9", "e\u0301",
    "\u0391\u03a3", "\u03a3", "\u039f\u0394\u039f\u03a3 ", "the", "red ", " ", "  ", "   ", "\n", "\r\n", "\n\n", "_", "-", "#", "$", "<x>", "<sw>", "<l>", "<r>", "<lr>", "<x><x>", "<x",
    "\u1100\u1161", "\u304b\u3099", "\u0915\u094d\u0937", "\U0001f468\u200d\U0001f469", "\U0001f1e9\U0001f1ea", "\u260e\ufe0f", "\u1e9e", "\u2581a", "don't", "I'm",
]


def added(number, content, **flags):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **flags}


ADDED = [
    added(256, "<x>"), added(257, "<sw>", single_word=True), added(258, "<l>", lstrip=True), added(259, "<r>", rstrip=True),
    added(260, "<lr>", lstrip=True, rstrip=True, special=False), added(261, "Ab", normalized=True, special=False),
    added(262, "<x><x>"), added(263, "\u00e9", normalized=True, special=False, rstrip=True),
]


def bert(clean, apart, accents, lower):
    return {"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": apart, "strip_accents": accents, "lowercase": lower}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def metaspace(scheme, split=True):
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}


def split(pattern, behaviour, invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behaviour, "invert": invert}


def byte_level(prefix, regex):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


WHITE = {"type": "WhitespaceSplit"}
BERT = {"type": "BertPreTokenizer"}
BEHAVIOURS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]

NORMALIZERS = [
    *({"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")),
    *({"type": "Strip", "strip_left": left, "strip_right": right} for left, right in ((True, True), (True, False), (False, True))),
    sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
    sequence("normalizers", {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}),
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581$&"},
    *(bert(clean, apart, accents, lower) for clean in (True, False) for apart in (True, False) for accents in (None, True, False) for lower in (True, False)),
]

PRE_TOKENIZERS = [
    BERT, {"type": "Whitespace"},
    *({"type": "Punctuation", "behavior": behaviour} for behaviour in BEHAVIOURS),
    *({"type": "Digits", "individual_digits": single} for single in (True, False)),
    *(byte_level(prefix, regex) for prefix, regex in ((False, True), (True, True), (True, False))),
    metaspace("always"), metaspace("first"), metaspace("never"), metaspace("always", False), sequence("pretokenizers", WHITE, metaspace("always")),
    sequence("pretokenizers", WHITE, metaspace("first")),
    *(split({"Regex": r"\s+"}, behaviour, invert) for behaviour in BEHAVIOURS for invert in (False, True)),
    *(split({"String": "a"}, behaviour) for behaviour in BEHAVIOURS),
    *(split({"Regex": regex}, "Isolated") for regex in (GPT2, GPT4, GPT4.replace("{1,3}", ""), r"\p{L}{2,3}", r"[^\s\p{N}]+", "[a-z0-9]", r"[^\p{L}]{2}", r"[\r\n]+")),
]

PIPELINES = [
    *((normalizer, WHITE, []) for normalizer in NORMALIZERS),
    *((None, splitter, []) for splitter in PRE_TOKENIZERS),
    (None, None, ADDED), ({"type": "Lowercase"}, WHITE, ADDED), (bert(True, True, None, True), BERT, ADDED), ({"type": "NFKC"}, metaspace("first"), ADDED),
    (NORMALIZERS[10], None, ADDED),
]


def random_text(random):
    parts = []
    for _ in range(random.choice([1, 2, 3, 5, 8, 13, 30])):
        choice = random.random()
        if choice < 0.45:
            parts.append(chr(int(random.choice(ODD), 16)))
        elif choice < 0.85:
            parts.append(random.choice(WORDS))
        else:
            first, last = random.choice([(0x21, 0x500), (0x500, 0x3000), (0xA000, 0xD800), (0xF900, 0x10000), (0x10000, 0x20000), (0x1E000, 0x32000)])
            parts.append(chr(random.randrange(first, last)))
    return "".join(parts)


def main():
    source = random.Random(11)
    golden = {"model": BYTES, "pipelines": [], "legacy": {}}
    for normalizer, splitter, tokens in PIPELINES:
        parts = {"normalizer": normalizer, "pre_tokenizer": splitter, "added_tokens": tokens}
        whole = {"version": "1.0", "truncation": None, "padding": None, **parts, "post_processor": None, "decoder": None, "model": BYTES}
        tokenizer = Tokenizer.from_str(json.dumps(whole))
        texts = [random_text(source) for _ in range(8)]
        golden["pipelines"].append({**parts, "cases": [[text, tokenizer.encode(text).ids] for text in texts]})
    kinds = {"opt": GPT2Tokenizer, "gpt2": GPT2Tokenizer, "bert": BertTokenizer, "bert_dec": BertTokenizer, "t5": T5Tokenizer, "t5_plain": T5Tokenizer}
    for name, kind in kinds.items():
        tokenizer = kind.from_pretrained(LEGACY / name)
        texts = [random_text(source) for _ in range(40)]
        rows = [[source.randrange(len(tokenizer) + 5) for _ in range(source.choice([1, 2, 5, 10]))] for _ in range(40)]
        golden["legacy"][name] = {
            "texts": [[text, tokenizer(text)["input_ids"]] for text in texts],
            "rows": [[row, tokenizer.decode(row), tokenizer.decode(row, skip_special_tokens=True)] for row in rows],
        }
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
