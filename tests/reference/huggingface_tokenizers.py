# SPDX-License-Identifier: Apache-2.0
"""Trains a small tokenizer of each family with the `tokenizers` package and writes it and what it
makes of some texts to tests/reference/fixtures/tokenizers/: NAME.json, and NAME.cases.jsonl with
one object a line: text, ids, decoded (special tokens left out).

    pip install tokenizers && tests/reference/huggingface_tokenizers.py
"""
import json
import pathlib
import random

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

OUT = pathlib.Path(__file__).parent / "fixtures" / "tokenizers"

PLAIN = """The ranks that hold an expert receive its tokens, and send them back when they are done.
A gradient is the sum over all tokens of the batch; it doesn't depend on how many ranks there are.
We'll see that the router's choice isn't fixed: it learns, as they've learned, what I'd call a plan.
for (int i = 0; i < 128; ++i) {\n    values[i] = weight * (i + 1);\n\tif (i % 16 == 0) break;\n}
def forward(self, x):\n    return self.out(self.act(self.up(x)))  # 3.14159 + 2718\n
Straße, naïve, café, Ångström, coöperate; Привет, мир! Ελληνικά. 你好世界,東京都の夜。한국어 문장.
""" * 4
TEXTS = [
    "", " ", "   ", "\n", "\n\n  \t\r\n", "a", " a", "a ", "Hello world", "it's we'LL they'Ve I'd",
    "1234567 12 3 ١٢٣ ½ Ⅷ", "    return x;\n\n\n", "x=1;y = 2 ;;; != --> {}[]", "café cafe\u0301",
    "\u1112\u1161\u11ab 한", "你好,世界。東京", "😀👩‍👩‍👧🇩🇪👍🏽", "क्षि मराठी", "\u00a0\u3000\u2028x\x0b\x85", "ﬁ Ω Å ﷺ",
    "İſKß", "\ufeffzero\u200bwidth", "\x00\x01\x7f", "a" * 70, " " * 33 + "end", "<s> </s> <unk>",
    "<|endoftext|>", "x<|endoftext|>y", "  <|endoftext|>  tail", "<|endoftext|><|endoftext|>",
    "<mask> in   <mask>   out", "wordTOKENword TOKEN. TOKEN", "がTAG か\u3099TAG", "▁▁ x▁y ▁",
    "a  b   c    d", "<0x41><0x0A>", "Łódź żółw", "𐍈𝔘𝔫", "\u0344\u0300", "don't   'tis 's 'S",
]


def texts():
    """TEXTS, and random mixtures of their parts."""
    draw = random.Random(7)
    parts = TEXTS + PLAIN.split("\n")[:10] + ["TOKEN", "<mask>", "<|endoftext|>", "  ", "\n", "'ll"]
    mixed = ["".join(draw.choice(parts) for _ in range(draw.randint(2, 6))) for _ in range(60)]
    return TEXTS + mixed


GPT4_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")
ONE_DIGIT_WORDS = GPT4_WORDS.replace("{1,3}", "")
ADDED = [AddedToken("<mask>", lstrip=True, special=True), AddedToken("TOKEN", single_word=True),
         AddedToken("か\u3099TAG", normalized=True), AddedToken("Ⅷ", rstrip=True, normalized=False)]


CORPUS = {"lines": PLAIN.split("\n"), "more": 0}  # what to train on, and how many more ids


def train_on(lines, more):
    """Larger vocabularies than those of the fixtures."""
    CORPUS.update(lines=lines, more=more)


def byte_pairs(tokenizer, vocabulary=420, special=("<|endoftext|>",), byte_level=True):
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(vocab_size=vocabulary + CORPUS["more"], special_tokens=list(special),
                                  initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS["lines"], trainer)
    return tokenizer


def byte_level(words, normalizer=None, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    byte_pairs(tokenizer)
    tokenizer.add_tokens(ADDED)
    return tokenizer


def gpt2():
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))


def gpt_neox():
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC())
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    tokenizer.post_processor = processors.ByteLevel()
    return tokenizer


def llama3():
    words = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(GPT4_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer = byte_level(words, ignore_merges=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        "<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    return tokenizer


def qwen2():
    return byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(ONE_DIGIT_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), normalizers.NFC())


def digits():
    """The pre-tokenizers that the others do not have."""
    return byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Split("x", "merged_with_next"),
        pre_tokenizers.Split(Regex(r"[;,]"), "merged_with_previous"),
        pre_tokenizers.Split(" ", "contiguous"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Punctuation(),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]),
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
                              normalizers.Replace(Regex(r"\s{3,}"), "\n"), normalizers.Strip()]))


def llama2():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.normalizer = None
    byte_pairs(tokenizer, 620, ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)], False)
    plain = json.loads(tokenizer.to_str())
    # Bytes are pieces of the model, not added tokens; text is one word.
    plain["added_tokens"] = plain["added_tokens"][:3]
    plain["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(content=" ", left=1, right=0)])
    tokenizer.add_tokens([AddedToken("TOKEN", single_word=True, normalized=False)])
    return tokenizer


def mistral():
    tokenizer = llama2()
    tokenizer.normalizer = None
    plain = json.loads(tokenizer.to_str())
    plain["normalizer"] = None
    plain["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first",
                              "split": False}
    return Tokenizer.from_str(json.dumps(plain))


def unknown():
    """Byte pairs over characters with an unknown token, word ends marked, decoded by words."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(vocab_size=300 + CORPUS["more"], special_tokens=["<unk>", "</s>"],
                                  end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS["lines"] if CORPUS["more"] else CORPUS["lines"][:3], trainer)
    return tokenizer


def unigram(byte_fallback):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=240 + CORPUS["more"], special_tokens=special, unk_token="<unk>",
                                      show_progress=False)
    tokenizer.train_from_iterator(CORPUS["lines"] if CORPUS["more"] else CORPUS["lines"][:5], trainer)
    if byte_fallback:
        plain = json.loads(tokenizer.to_str())
        plain["model"]["vocab"] += [[f"<0x{b:02X}>", 0.0] for b in range(256)]
        plain["model"]["byte_fallback"] = True
        plain["decoder"] = {"type": "Sequence", "decoders": [
            {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁",
                                       "prepend_scheme": "always", "split": True}]}
        tokenizer = Tokenizer.from_str(json.dumps(plain))
    return tokenizer


def families():
    return {"gpt2": gpt2(), "gpt_neox": gpt_neox(), "llama3": llama3(), "qwen2": qwen2(),
            "digits": digits(), "llama2": llama2(), "mistral": mistral(), "unknown": unknown(),
            "unigram": unigram(False), "unigram_bytes": unigram(True)}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, tokenizer in families().items():
        (OUT / f"{name}.json").write_text(tokenizer.to_str() + "\n")
        with open(OUT / f"{name}.cases.jsonl", "w") as out:
            for text in texts():
                ids = tokenizer.encode(text, add_special_tokens=False).ids
                decoded = tokenizer.decode(ids, skip_special_tokens=True)
                print(json.dumps({"text": text, "ids": ids, "decoded": decoded}), file=out)


if __name__ == "__main__":
    main()
