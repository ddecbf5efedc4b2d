"""src/text/unicode-classes.ts: the classes of characters that Python's tokenizers goes by, asked of it character by character.

Run from the repository root: python reference/unicode_classes.py
The library's parts bring tables of different versions of Unicode (8 for punctuation and accents, 9 for normal forms, 16 for letters),
and JavaScript's own follow the version of Node. Node is asked which characters the old normal forms do not know.
"""

import json
import pathlib
import subprocess

from tokenizers import normalizers, pre_tokenizers

OUT = pathlib.Path("src/text/unicode-classes.ts")
POINTS = [point for point in range(1, 0x110000) if not 0xD800 <= point <= 0xDFFF]

# Of every character: its decompositions, and whether it changes places with marks of a high and a low combining class.
ASK_NODE = """
const rows = [];
for (let point = 1; point < 0x110000; point++) {
  if (point >= 0xd800 && point <= 0xdfff) continue;
  const c = String.fromCodePoint(point);
  const order = (form) => [("\\u0345" + c).normalize(form) !== "\\u0345" + c.normalize(form), (c + "\\u0334").normalize(form) !== c.normalize(form) + "\\u0334"];
  const row = [c.normalize("NFD"), c.normalize("NFKD"), ...order("NFD")];
  if (row[0] !== c || row[1] !== c || row[2] || row[3]) rows.push([c, row]);
}
process.stdout.write(JSON.stringify(rows));
"""


def ranges(points):
    found = []
    for point in points:
        if found and found[-1][1] == point - 1:
            found[-1][1] = point
        else:
            found.append([point, point])
    return found


def packed(points):
    """Distance from the end of the range before, and length, in base 36."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    def base36(number):
        text = ""
        while True:
            number, digit = divmod(number, 36)
            text = digits[digit] + text
            if number == 0:
                return text
    end, parts = 0, []
    for first, last in ranges(sorted(points)):
        length = "" if first == last else f".{base36(last - first)}"
        parts.append(base36(first - end) + length)
        end = last
    return " ".join(parts)


def cut_out(tokenizer, between="a"):
    return [p for p in POINTS if len(tokenizer.pre_tokenize_str(between + chr(p) + between)) == 3]


def kept_together(tokenizer, beside):
    return [p for p in POINTS if len(tokenizer.pre_tokenize_str(beside + chr(p) + beside)) == 1]


def removed(normalizer):
    return [p for p in POINTS if normalizer.normalize_str(chr(p)) == ""]


def bert(**options):
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**{**off, **options})


def unknown_to_normal_forms():
    node = dict(json.loads(subprocess.run(["node", "-e", ASK_NODE], check=True, capture_output=True).stdout))
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    found = set()
    for point in POINTS:
        c = chr(point)
        canonical = nfd.normalize_str(c)
        ours = [
            canonical,
            nfkd.normalize_str(c),
            nfd.normalize_str("\u0345" + c) != "\u0345" + canonical,
            nfd.normalize_str(c + "\u0334") != canonical + "\u0334",
        ]
        theirs = node.get(c, [c, c, False, False])
        if ours != theirs:
            found.add(point)
            # What it is composed of would be put together.
            if theirs[0] != c:
                found.add(ord(theirs[0][0]))
    return found


def main():
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    classes = {
        "control": ("What BERT's normaliser takes out, beside U+0000: control and format characters, private use, U+FFFD.", removed(bert(clean_text=True))),
        "nonspacingMark": ("The accents that BERT's normaliser takes off.", removed(bert(strip_accents=True))),
        "mark": ("What StripAccents takes out.", removed(normalizers.StripAccents())),
        "punctuation": ("ASCII's signs, and what Unicode 8 calls punctuation.", cut_out(pre_tokenizers.BertPreTokenizer())),
        "word": ("`\\\\w` of its expressions.", kept_together(pre_tokenizers.Whitespace(), "a")),
        "letter": ("`\\\\p{L}` of its expressions.", kept_together(byte_level, "a")),
        "number": ("`\\\\p{N}` of its expressions.", [p for p in kept_together(byte_level, "1")]),
        "modern": ("Characters that its normal forms do not know, of those that Unicode 17 decomposes, composes or reorders.", unknown_to_normal_forms()),
    }
    assert cut_out(pre_tokenizers.Punctuation()) == classes["punctuation"][1]
    lines = [
        "/** Classes of characters as Python's tokenizers has them, which differ from those of Node. Made by reference/unicode_classes.py. */",
        "",
    ]
    for name, (comment, points) in classes.items():
        lines += [f"/** {comment} */".replace("\\\\", "\\"), f"export const {name} = ranges(", f'  "{packed(points)}",', ");", ""]
    lines += [
        "/** As the inside of a character class of an expression with the flag u: distances from the range before, and lengths, in base 36. */",
        "function ranges(packed: string): string {",
        "  let end = 0;",
        '  const escaped = (point: number): string => `\\\\u{${point.toString(16)}}`;',
        "  return packed",
        '    .split(" ")',
        "    .map((range) => {",
        '      const [distance = 0, length = 0] = range.split(".").map((number) => Number.parseInt(number, 36));',
        "      const first = end + distance;",
        "      end = first + length;",
        "      return length === 0 ? escaped(first) : `${escaped(first)}-${escaped(end)}`;",
        "    })",
        '    .join("");',
        "}",
        "",
    ]
    OUT.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
