# SPDX-License-Identifier: Apache-2.0
"""10,000 lines of mixed text by the `tokenizers` package: code, CJK, emoji, combining marks, runs of
blanks, digits, special tokens.

pip install tokenizers && python3 tests/reference/tokenizer_lines.py
    writes fixtures/tokenizers/lines.json: what the lines are made of, and of each family's small
    tokenizer beside it a hash of the ids and of the decoded text of every 250 lines.
python3 tests/reference/tokenizer_lines.py build/release/polymoe
    trains a tokenizer of 6,000 ids of each family on Python's own library and holds `polymoe tokenize`
    to its ids, line by line.
"""
import json
import pathlib
import struct
import subprocess
import sys
import sysconfig
import tempfile

from tokenizers import Tokenizer

import huggingface_tokenizers as families

LINES, BLOCK, SEED = 10000, 250, 20261128
PARTS = families.TEXTS + families.PLAIN.split("\n")[:7] + [
    # code
    "#include <vector>\n", "std::vector<int> v{1, 2, 3};", "if (x != nullptr && *x >= 0x7fff) {", "\t\treturn -1;\n",
    "def f(a, *args, **kw):\n    pass\n", "SELECT * FROM t WHERE id = 42;", "<div class=\"a b\">&nbsp;</div>",
    "λ x → x ∘ f", "$HOME/.config/*.json", "foo_bar.BazQux->operator[](i++)", "//////", "======", "\\n\\t\\\\", "'''", "\"\"\"",
    # languages
    "Der Weg zur Küste führt über Öl.", "L'été où j'ai vécu", "¿Qué pasó? ¡Nada!", "Здравствуйте", "Γειά σου Κόσμε",
    "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "Xin chào thế giới", "안녕하세요 세계", "こんにちは世界", "吾輩は猫である。",
    "我们把令牌发给专家", "繁體中文與標點「」", "Türkçe ığüşöç İI", "ქართული", "Հայերեն", "አማርኛ",
    # marks, emoji, signs
    "e\u0301e\u0300\u0323", "o\u0302\u0323", "a\u030a", "\u0915\u094d\u0937\u093f", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏿👍", "1️⃣", "🇫🇷🇯🇵", "☃️", "™®©",
    "∑∫√∞≠≤", "①②③", "㍿", "ﬀﬁﬂ", "½¼¾", "x²³", "…—–‐‑", "“quoted” ‘so’", "«guillemets»", "€£¥₿",
    # digits, blanks
    "0", "7", "42", "123", "1234", "12345678901234567890", "3.14e-10", "1,000,000", "2026-11-28T23:59", "٠١٢٣", "०१२",
    " ", "  ", "   ", "        ", " " * 25, "\t", "\t\t", "\n", "\n\n", "\r\n", " \n ", "\n    ", "\u00a0", "\u2003", "\u200b", "\u3000",
    # what contractions and special tokens look like
    "I'm you're he'd we'll they've it's can't", "I'M YOU'RE", "'s", "'S't're", "<s>", "</s>", "<unk>", "<|endoftext|>", "<mask>",
    "TOKEN", " TOKEN ", "か\u3099TAG", "Ⅷ", "<|endof", "text|>", "<0x0A>", "▁", "▁▁a", "Ġ", "ĠĊ", "##ing", "</w>",
]
# First and last code points of scripts, as old as the oldest tables in use.
RANGES = [[0x20, 0x7e], [0xa1, 0xff], [0x100, 0x17f], [0x300, 0x33f], [0x391, 0x3c9], [0x410, 0x44f], [0x5d0, 0x5ea],
          [0x627, 0x63a], [0x904, 0x939], [0xe01, 0xe30], [0x10d0, 0x10f0], [0x1100, 0x1112], [0x2010, 0x2027],
          [0x2190, 0x21ff], [0x2200, 0x22ff], [0x3041, 0x3096], [0x30a1, 0x30fa], [0x4e00, 0x9fa5], [0xac00, 0xd7a3],
          [0xff01, 0xff5e], [0x1d400, 0x1d433], [0x1f300, 0x1f5ff], [0x1f600, 0x1f64f], [0x20000, 0x2a6d6]]


def lines(parts):
    state = SEED

    def draw(count):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (state >> 33) % count

    for _ in range(LINES):
        text = ""
        for _ in range(1 + draw(8)):
            if draw(4) < 3:
                text += parts[draw(len(parts))]
            else:
                first, last = RANGES[draw(len(RANGES))]
                for _ in range(1 + draw(4)):
                    text += chr(first + draw(last - first + 1))
            if draw(3) == 0:
                text += " "
        yield text


def fnv(values, state):
    """FNV-1a, a value at a time."""
    for value in values:
        state = ((state ^ value) * 1099511628211) % (1 << 64)
    return state


def write_fixture():
    result = {"seed": SEED, "parts": PARTS, "ranges": RANGES, "families": {}}
    for path in sorted(families.OUT.glob("*.json")):
        if path.name == "lines.json":
            continue
        tokenizer = Tokenizer.from_file(str(path))
        ids, decoded = [], []
        for number, text in enumerate(lines(PARTS)):
            if number % BLOCK == 0:
                ids.append(14695981039346656037)
                decoded.append(14695981039346656037)
            found = tokenizer.encode(text, add_special_tokens=False).ids
            ids[-1] = fnv([*found, 1 << 32], ids[-1])
            back = tokenizer.decode(found, skip_special_tokens=True).encode()
            decoded[-1] = fnv([*back, 256], decoded[-1])
        result["families"][path.stem] = {"ids": [f"{value:016x}" for value in ids],
                                         "decoded": [f"{value:016x}" for value in decoded]}
        print(path.stem)
    (families.OUT / "lines.json").write_text(json.dumps(result, ensure_ascii=False) + "\n")


def documents(prefix):
    """The ids of each document of a Megatron file, without the one that ends it."""
    index = pathlib.Path(f"{prefix}.idx").read_bytes()
    count, = struct.unpack_from("<Q", index, 18)
    lengths = struct.unpack_from(f"<{count}i", index, 34)
    data = pathlib.Path(f"{prefix}.bin").read_bytes()
    code, size = ("H", 2) if index[17] == 8 else ("i", 4)
    ids, at = [], 0
    for length in lengths:
        ids.append(list(struct.unpack_from(f"<{length}{code}", data, at))[:-1])
        at += size * length
    return ids


def compare(program):
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    sources = [path.read_text(encoding="utf-8", errors="ignore") for path in sorted(library.glob("*.py"))[:60]]
    text = "\n".join(sources) + "\n".join(lines(PARTS))
    families.train_on(text.split("\n"), 6000)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for family, tokenizer in families.families().items():
            added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
            mixed = list(lines(PARTS + added)) + sources[:20]
            path = folder / f"{family}.json"
            tokenizer.save(str(path))
            with open(folder / "lines.jsonl", "w", encoding="utf-8") as out:
                for line in mixed:
                    print(json.dumps({"text": line}, ensure_ascii=False), file=out)
            result = subprocess.run([program, "tokenize", "--tokenizer", path, "--input", folder / "lines.jsonl",
                                     "--output", folder / family], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            mine = documents(folder / family)
            assert len(mine) == len(mixed)
            # What the tokenizer puts around a text comes too, but the end that each document has anyway.
            end = next(token for token in ("<|endoftext|>", "</s>") if tokenizer.token_to_id(token) is not None)
            tokens = differing = 0
            for line, ids in zip(mixed, mine):
                expected = tokenizer.encode(line).ids
                if expected and expected[-1] == tokenizer.token_to_id(end) and ids != expected:
                    expected = expected[:-1]
                tokens += len(ids)
                if ids != expected:
                    differing += 1
                    if differing <= 3:
                        print(f"{family}: {line!r}\n  {ids}\n  {expected}")
            print(f"{family}: {tokenizer.get_vocab_size()} ids, {len(mixed)} texts, {tokens} tokens, {differing} differ")
            assert differing == 0


if len(sys.argv) == 1:
    write_fixture()
else:
    compare(pathlib.Path(sys.argv[1]).resolve())
