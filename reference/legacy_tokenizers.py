"""Golden token ids for the older tokenizer file sets, and small tokenizers in them: test/golden/text/legacy/.

Run from the repository root, with sentencepiece and protobuf installed beside transformers:
    python reference/legacy_tokenizers.py

Each folder holds a small tokenizer that was made here (vocab.json with merges.txt, vocab.txt, or spiece.model) and its
tokenizer_config.json. golden.json holds what Python's transformers makes of the folders. A second run gives the same
bytes.
"""

import io
import json
import pathlib
import shutil

import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, GPT2Tokenizer, T5Tokenizer

from text import TEXTS, WORLD

OUT = pathlib.Path("test/golden/text/legacy")

CORPUS = WORLD + [
    "the quick brown fox jumps over the lazy dog",
    "Describe the image in one sentence: two people ride horses on the beach at sunset.",
    "How many cups are on the table? There are 12 cups; 3 of them are red!",
    "un caf\u00e9 pr\u00e8s de l'\u00e9glise, \u00c5ngstr\u00f6m and na\u00efve r\u00e9sum\u00e9",
    "it's what they've said, isn't it? I'm sure you'll see they're right",
    "what a day \u2014 \u201cwonderful\u201d \u2026 50% off (today) #1 @home x_y",
]

ODD = [
    "\ufb01ne \uff21\uff22\uff23 \u2460 \u00bd \u2122 \u3392",
    "e\u0301 combining, A\u030a, \u1e9b\u0323",
    "zero\u200bwidth no\u00a0break soft\u00adhyphen \ufeffbom",
    "control\u0001\u0007\u001b chars \u007f",
    "\u3053\u3093\u306b\u3061\u306f \uff76\uff9e \u6771\u4eac",
    "\ud55c\uae00 \u1112\u1161\u11ab\uad6d",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family \U0001f1e9\U0001f1ea flag \u2764\ufe0f",
    "\u0627\u0644\u0633\u0644\u0627\u0645 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "<extra_id_0> fish <extra_id_99><extra_id_1>",
    "<pad><unk></s> <s> [CLS][SEP] [MASK] [DEC]cat",
    "\u2581 meta \u2581space",
    "a\u3000b\u2003c\u2028d\u0085e\x0bf",
    "\uff5e tilde ~ \u301c",
    "I do n't know , he 's here . Really ?",
    "word" * 40,
    "x" * 120,
    "\u1e9e\u0130\u0131 CASE Stra\u00dfe",
]


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def train_bpe(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.model.save(str(folder))


def opt(folder):
    """As facebook/opt-*: GPT-2's tokenizer with </s> in front."""
    train_bpe(folder)
    token = lambda content: {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    write_json(folder / "tokenizer_config.json", {
        "errors": "replace",
        "unk_token": {"__type": "AddedToken", **token("</s>")},
        "bos_token": {"__type": "AddedToken", **token("</s>")},
        "eos_token": {"__type": "AddedToken", **token("</s>")},
        "pad_token": "<pad>",
        "add_prefix_space": False,
        "add_bos_token": True,
        "tokenizer_class": "GPT2Tokenizer",
    })
    write_json(folder / "special_tokens_map.json", {
        "bos_token": token("</s>"), "eos_token": token("</s>"), "unk_token": token("</s>"), "pad_token": "<pad>",
    })
    return GPT2Tokenizer


def gpt2(folder):
    """Without special tokens in the vocabulary: the end-of-text token is added behind it."""
    train_bpe(folder)
    write_json(folder / "tokenizer_config.json", {"add_prefix_space": True, "model_max_length": 1024})
    return GPT2Tokenizer


def wordpiece(folder):
    """Letters, beginnings and ends of words, and every other word. (The library's trainer differs from run to run.)"""
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = sorted({word for text in CORPUS for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))})
    letters = {letter for word in words for letter in word}
    pieces = letters | {f"##{letter}" for letter in letters}
    pieces |= set(words[::2]) | {word[:3] for word in words} | {f"##{word[-2:]}" for word in words if len(word) > 3}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(pieces)]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary))


def bert(folder):
    """As bert-base-uncased."""
    wordpiece(folder)
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True})
    return BertTokenizer


def bert_dec(folder):
    """As BLIP-2's first stage: [DEC] added behind BERT's vocabulary, case kept."""
    wordpiece(folder)
    count = len((folder / "vocab.txt").read_text().splitlines())
    token = {"content": "[DEC]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write_json(folder / "tokenizer_config.json", {
        "do_lower_case": False,
        "bos_token": "[DEC]",
        "added_tokens_decoder": {str(count): token},
        "tokenizer_class": "BertTokenizer",
    })
    return BertTokenizer


def train_unigram(folder, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_writer=model,
        model_type="unigram",
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())


def t5(folder):
    """As google/flan-t5-*."""
    train_unigram(folder, vocab_size=200, normalization_rule_name="nmt_nfkc")
    write_json(folder / "tokenizer_config.json", {
        "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 100,
        "additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)], "tokenizer_class": "T5Tokenizer",
    })
    return T5Tokenizer


def t5_plain(folder):
    """Another normalisation, a token of the user's, and nothing in the config."""
    train_unigram(
        folder, vocab_size=180, normalization_rule_name="nmt_nfkc_cf", user_defined_symbols=["<image>"], split_digits=True
    )
    write_json(folder / "tokenizer_config.json", {})
    return T5Tokenizer


def main():
    if OUT.exists():
        shutil.rmtree(OUT)
    texts = TEXTS + ODD
    golden = {"texts": texts, "tokenizers": {}}
    for make in (opt, gpt2, bert, bert_dec, t5, t5_plain):
        folder = OUT / make.__name__
        folder.mkdir(parents=True)
        tokenizer = make(folder).from_pretrained(folder)
        rows = [tokenizer(text)["input_ids"] for text in texts]
        golden["tokenizers"][make.__name__] = {
            "size": len(tokenizer),
            "ids": rows,
            "bare": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
            "decoded": [tokenizer.decode(row) for row in rows],
            "spoken": [tokenizer.decode(row, skip_special_tokens=True) for row in rows],
            "special": {
                role: tokenizer.convert_tokens_to_ids(getattr(tokenizer, f"{role}_token"))
                for role in ("bos", "eos", "pad", "unk", "cls", "sep")
                if getattr(tokenizer, f"{role}_token") is not None
            },
        }
    write_json(OUT / "golden.json", golden)


if __name__ == "__main__":
    main()
