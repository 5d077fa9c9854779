# SPDX-License-Identifier: Apache-2.0
"""Scores on tasks by transformers, independent of polymoe's:

python3 tests/reference/score_tasks.py
    writes fixtures/tasks/: a tiny random OLMoE model as transformers saves it, request files, and in
    scores.jsonl the log-likelihoods that transformers finds in double, item by item.
python3 tests/reference/score_tasks.py build/release/polymoe
    holds `polymoe eval --tasks` of models that polymoe trained to transformers' scores of their
    exports: 1e-4 relative, the same choice on every item.
python3 tests/reference/score_tasks.py MODEL TASK...
    scores request files by an exported model; MODEL is the export's directory.
"""
import gzip
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, OlmoeConfig, OlmoeForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
FOLDER, TOKENIZER = FIXTURES / "tasks", FIXTURES / "tokenizers" / "qwen2.json"
CONTEXT = 48


def load(folder, dtype):
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    config._experts_implementation = "eager"
    return AutoModelForCausalLM.from_pretrained(
        folder, config=config, trust_remote_code=True, dtype=dtype).eval()


def requests(path):
    """[item][choice] -> (context, continuation, gold) of a request file, items in the order of their ids."""
    opened = gzip.open(path, "rt") if str(path).endswith(".gz") else open(path, encoding="utf-8")
    items = {}
    with opened as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            if "request" in row:
                request = row["request"]
                items.setdefault(row["doc_id"], {})[row["idx"]] = (
                    request["context"], request["continuation"], row["label"])
            else:
                items[number] = {i: (row["context"], choice, row["gold"])
                                 for i, choice in enumerate(row["choices"])}
    return [[choices[i] for i in sorted(choices)] for _, choices in sorted(items.items())]


def before_text(tokenizer):
    """What the tokenizer's post-processor puts before every text."""
    text, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    return next(whole[:i] for i in range(len(whole)) if whole[i:i + len(text)] == text)


def log_likelihood(model, tokenizer, end, window, context, continuation):
    """log p(continuation | context), one sequence at a time, nothing shared and nothing padded."""
    blanks = len(context) - len(context.rstrip(" "))
    context, continuation = context[:len(context) - blanks], " " * blanks + continuation
    front, ids = (before_text(tokenizer) + tokenizer.encode(text, add_special_tokens=False).ids
                  for text in (context, context + continuation))
    if not front:
        front, ids = [end], [end] + ids
    predicted = len(ids) - len(front)
    ids = ids[-(window + 1):]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0]
    scores = torch.log_softmax(logits.double(), -1)[-predicted:]
    return scores.gather(1, torch.tensor(ids[-predicted:])[:, None]).sum().item()


def score(model, tokenizer, end, window, path):
    rows = []
    for choices in requests(path):
        values = [log_likelihood(model, tokenizer, end, window, context, continuation)
                  for context, continuation, _ in choices]
        rows.append({"log_likelihoods": values, "choice": values.index(max(values)), "gold": choices[0][2]})
    return rows


def write_tasks(folder):
    """Contexts that are shared, empty, blank at their end, and longer than the window."""
    draw = random.Random(11)
    words = ("the router of a layer sends every token to experts and they send rows back when we're done "
             "12 345 return x; café 你好 Привет don't I'll   plan\n").split(" ")

    def text(count):
        return " ".join(draw.choice(words) for _ in range(count))

    with open(folder / "quiz.jsonl", "w", encoding="utf-8") as out:
        for item in range(30):
            context = ["", "Q: " + text(5) + "\nA:", text(60), text(8) + " "][item % 4 if item % 7 else 1]
            choices = [" " + text(draw.randint(1, 6)) for _ in range(draw.randint(2, 5))]
            print(json.dumps({"context": context, "choices": choices, "gold": draw.randrange(len(choices))},
                             ensure_ascii=False), file=out)
    with open(folder / "lines.jsonl", "w", encoding="utf-8") as out:
        for item in range(12):
            context, label = "Question: " + text(6) + "\nAnswer:", draw.randrange(4)
            for choice in range(4):
                # Contexts of one item may differ, lines repeat.
                own = context if item % 3 else context + " " + words[choice]
                line = json.dumps({"doc_id": item, "idx": choice, "label": label,
                                   "request": {"context": own, "continuation": " " + text(3)}})
                for _ in range(1 + (item == 4)):
                    print(line, file=out)


def write_fixtures():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    torch.manual_seed(5)
    model = OlmoeForCausalLM(OlmoeConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, intermediate_size=8, num_experts=4, num_experts_per_tok=2,
        max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=0, pad_token_id=None,
        initializer_range=0.4))
    model.save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink()
    write_tasks(FOLDER)
    model, end = load(FOLDER, torch.float64), tokenizer.token_to_id("<|endoftext|>")
    with open(FOLDER / "scores.jsonl", "w") as out:
        for task in ("quiz", "lines"):
            for row in score(model, tokenizer, end, CONTEXT, FOLDER / f"{task}.jsonl"):
                print(json.dumps({"task": task, **row}), file=out)


MODELS = {
    "MoE polynorm": ["--model.activation=polynorm", "--moe.experts=4", "--moe.top_k=2", "--moe.expert_ffn=24"],
    "MoE polynorm, experts apart, shared, sigmoid, tied": [
        "--model.activation=polynorm", "--moe.experts=6", "--moe.top_k=2", "--moe.expert_ffn=24",
        "--moe.coefficients=expert", "--moe.shared_experts=1", "--moe.scores=sigmoid",
        "--moe.normalize=true", "--model.tied=true", "--moe.dense_layers=0"],
    "MoE swiglu, tied": ["--model.activation=swiglu", "--moe.experts=4", "--moe.top_k=2",
                         "--moe.expert_ffn=16", "--model.tied=true"],
    "MoE swiglu with norms of queries and keys": [
        "--model.activation=swiglu", "--moe.experts=4", "--moe.top_k=2", "--moe.expert_ffn=16",
        "--model.qk_norm=true"],
    "dense swiglu": ["--model.activation=swiglu", "--model.ffn=64", "--model.kv_heads=2"],
    "dense swiglu, tied": ["--model.activation=swiglu", "--model.ffn=64", "--model.tied=true"],
    "dense polyrelu": ["--model.activation=polyrelu", "--model.ffn=64", "--model.qk_norm=true"],
}


def compare(program):
    """Models trained for a few steps and exported."""
    def polymoe(*arguments):
        result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
        if result.returncode != 0:
            sys.exit(f"polymoe {' '.join(map(str, arguments))}: exit code {result.returncode}: {result.stderr}")

    begins = FIXTURES / "tokenizers" / "llama3.json"  # that puts a mark before every text
    with tempfile.TemporaryDirectory() as name:
        write_tasks(pathlib.Path(name))
        compare_models(polymoe, pathlib.Path(name), TOKENIZER, MODELS)
        compare_models(polymoe, pathlib.Path(name), begins,
                       {"MoE polynorm, a mark of the begin": MODELS["MoE polynorm"]})


def compare_models(polymoe, folder, tokenizer_file, models):
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    end = tokenizer.token_to_id("<|endoftext|>")
    text = "\n".join("".join(part for choice in item for part in choice[:2])
                     for item in requests(folder / "quiz.jsonl"))
    (folder / "text").write_text(text * 20)
    polymoe("tokenize", "--tokenizer", tokenizer_file, "--force", "--output", folder / "data",
            "--input", folder / "text")
    for number, (kind, model_options) in enumerate(models.items()):
        run, export = (folder / f"{tokenizer_file.stem}_{number}{form}" for form in ("", "_hf"))
        polymoe("train", f"--data.train={folder / 'data'}", f"--run.dir={run}", "--train.steps=30",
                "--model.layers=2", "--model.hidden=32", "--model.heads=4", f"--model.context={CONTEXT}",
                f"--model.vocab={tokenizer.get_vocab_size()}", "--optimizer.lr=0.01", "--run.threads=1",
                *model_options)
        polymoe("checkpoint", "export-hf", run, export)
        polymoe("eval", "--checkpoint", run, "--tasks", folder / "quiz.jsonl", folder / "lines.jsonl",
                "--items", folder / "items", "--threads", 1)
        mine = [json.loads(line) for line in (folder / "items").read_text().splitlines()]
        model = load(export, torch.float32)
        theirs = [row for task in ("quiz", "lines")
                  for row in score(model, tokenizer, end, CONTEXT, folder / f"{task}.jsonl")]
        assert len(mine) == len(theirs)
        worst = 0.0
        for a, b in zip(mine, theirs):
            assert a["choice"] == b["choice"] and a["gold"] == b["gold"], (kind, a, b)
            assert len(a["log_likelihoods"]) == len(b["log_likelihoods"])
            worst = max([worst, *(abs(x - y) / abs(y) for x, y in
                                  zip(a["log_likelihoods"], b["log_likelihoods"]))])
        print(f"{kind} ({type(model).__name__}): {len(mine)} items, the same choices, "
              f"log-likelihoods within {worst:.1e}", flush=True)
        assert worst < 1e-4


def main():
    if len(sys.argv) == 1:
        write_fixtures()
    elif len(sys.argv) == 2:
        compare(pathlib.Path(sys.argv[1]).resolve())
    else:
        folder = pathlib.Path(sys.argv[1])
        model, tokenizer = load(folder, torch.float32), Tokenizer.from_file(str(folder / "tokenizer.json"))
        end = model.config.eos_token_id
        for task in sys.argv[2:]:
            rows = score(model, tokenizer, end, model.config.max_position_embeddings, task)
            for row in rows:
                print(json.dumps(row))
            right = sum(row["choice"] == row["gold"] for row in rows)
            print(f"{task}: acc {right / len(rows):.4f} of {len(rows)} items", file=sys.stderr)


main()
