# SPDX-License-Identifier: Apache-2.0
"""Holds import-hf and export-hf to transformers itself, live:
python3 tests/reference/compare_huggingface.py build/release/polymoe

1. Models that transformers made: imported, their loss by `polymoe eval` is that of transformers;
   exported, transformers loads them and finds the same loss; imported again and exported, the same
   bytes.
2. Models that polymoe trained, with every activation and kind of router: exported, transformers
   finds the loss of `polymoe eval`; import and export give the same bytes; the same in bf16 within
   its rounding. generate() runs.
3. A tokenizer that polymoe trained: AutoTokenizer finds the ids of `polymoe tokenize`. Needs
   Python's sentencepiece and protobuf.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import types

import numpy
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

exported = types.ModuleType("exported")  # the folder as a package
exported.__path__ = [str(pathlib.Path(__file__).resolve().parents[2] / "launch" / "huggingface")]
sys.modules["exported"] = exported
from exported.modeling_polymoe import ACTIVATIONS, GATES

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "huggingface"
PROGRAM = pathlib.Path(sys.argv[1]).resolve()
CONTEXT, VOCAB = 12, 61
TOKENS = FIXTURES / "tokens.npy"
MOE = {"model.qk_norm": "true", "moe.experts": 6, "moe.top_k": 2, "moe.expert_ffn": 10}
TRAINED = {
    **{kind: {"model.activation": kind} for kind in (*ACTIVATIONS, *GATES)},
    "llama": {"model.activation": "swiglu", "model.kv_heads": 2},
    "llama tied": {"model.activation": "swiglu", "model.tied": "true"},
    "swiglu with q/k norm": {"model.activation": "swiglu", "model.qk_norm": "true"},
    "polynorm order 4, tied": {"model.order": 4, "model.tied": "true", "model.kv_heads": 1},
    "olmoe": {**MOE, "model.activation": "swiglu", "model.kv_heads": 2},
    "moe polynorm": MOE,
    "moe swiglu without q/k norm": {**MOE, "model.activation": "swiglu", "model.qk_norm": "false"},
    "moe coefficients per expert": {**MOE, "moe.coefficients": "expert", "moe.normalize": "true"},
    "moe all options": {**MOE, "moe.scores": "sigmoid", "moe.bias_rate": 0.05, "moe.shared_experts": 2,
                        "moe.dense_layers": 0, "moe.normalize": "true", "model.activation": "polyrelu"},
}


def polymoe(*arguments):
    result = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"polymoe {' '.join(map(str, arguments))}: exit code {result.returncode}: {result.stderr}")


def polymoe_loss(checkpoint, folder):
    polymoe("eval", "--checkpoint", checkpoint, "--tokens", TOKENS, "--threads", 1, "--json", folder / "loss.json")
    return json.loads((folder / "loss.json").read_text())["loss"]


def load(model_folder, dtype=torch.float32):
    config = AutoConfig.from_pretrained(model_folder, trust_remote_code=True)
    config._experts_implementation = "eager"
    model, report = AutoModelForCausalLM.from_pretrained(
        model_folder, config=config, trust_remote_code=True, dtype=dtype, output_loading_info=True)
    wrong = {key: value for key, value in report.items() if value}
    if wrong:
        sys.exit(f"{model_folder}: transformers reports {wrong}")
    return model.eval()


def transformers_loss(model):
    tokens = torch.from_numpy(numpy.fromfile(TOKENS, "<u2").astype("int64"))
    windows = (len(tokens) - 1) // CONTEXT
    with torch.no_grad():
        return sum(model(input_ids=ids[None], labels=ids[None]).loss.item()
                   for ids in (tokens[w * CONTEXT:w * CONTEXT + CONTEXT + 1] for w in range(windows))) / windows


def same(what, a, b, tolerance=1e-5):
    print(f"  {what}: {a:.9f} {b:.9f}  difference {abs(a - b):.1e}")
    if not abs(a - b) <= tolerance:
        sys.exit(f"{what}: {a} and {b} differ by more than {tolerance}")


def round_trip(checkpoint, folder):
    """Exports; imports and exports again: the same bytes. Returns the first export."""
    first, again, second = folder / "first", folder / "again", folder / "second"
    polymoe("checkpoint", "export-hf", checkpoint, first)
    polymoe("checkpoint", "import-hf", first, again, "--ranks", 3)
    polymoe("checkpoint", "export-hf", again, second)
    if (first / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes():
        sys.exit(f"{checkpoint}: an export that was imported is exported with other bytes")
    same("loss of the round trip", polymoe_loss(checkpoint, folder), polymoe_loss(again, folder), 0.0)
    return first


def check_made_by_transformers(name, folder):
    polymoe("checkpoint", "import-hf", FIXTURES / name, folder / "imported", "--ranks", 2)
    loss = polymoe_loss(folder / "imported", folder)
    same("imported", loss, transformers_loss(load(FIXTURES / name, torch.float64)))
    model = load(round_trip(folder / "imported", folder))
    print(f"  loaded as {type(model).__name__}")
    same("exported", loss, transformers_loss(model))


def check_trained(options, folder):
    keys = {"model.layers": 2, "model.hidden": 16, "model.heads": 4, "model.ffn": 24, "model.vocab": VOCAB,
            "model.context": CONTEXT, "model.init_std": 0.3, "data.train": TOKENS, "train.steps": 5,
            "train.global_batch": 4, "optimizer.lr": 0.03, "run.dir": folder / "run", "run.threads": 1, **options}
    polymoe("train", *(f"--{key}={value}" for key, value in keys.items()))
    loss = polymoe_loss(folder / "run", folder)
    exported = round_trip(folder / "run", folder)
    model = load(exported)
    print(f"  loaded as {type(model).__name__}")
    same("exported", loss, transformers_loss(model))
    same("exported, in double", loss, transformers_loss(load(exported, torch.float64)))
    prompt = torch.tensor([[3, 1, 4], [7, 1, 5]])
    generated = model.generate(prompt, max_new_tokens=4, do_sample=False, attention_mask=torch.ones_like(prompt))
    longer = model.generate(prompt[1:], max_new_tokens=4, do_sample=False,
                            attention_mask=torch.ones_like(prompt[1:]))
    if generated.shape != (2, 7) or not torch.equal(generated[1:], longer):
        sys.exit(f"generate: {generated} and alone {longer}")
    polymoe("checkpoint", "export-hf", folder / "run", folder / "bf16", "--dtype", "bf16")
    same("exported as bf16", loss, transformers_loss(load(folder / "bf16")), 0.1)


def check_tokenizer(folder):
    text = "\n".join(f"Line {i} has the square  {i * i}\tand a caf\u00e9." for i in range(500)) + "\n"
    (folder / "text.txt").write_text(text)
    polymoe("tokenize", "--train-vocabulary", 320, "--input", folder / "text.txt", "--output", folder / "tokens")
    polymoe("train", *(f"--{key}={value}" for key, value in {
        "model.layers": 1, "model.hidden": 16, "model.vocab": 320, "model.context": 16, "train.steps": 1,
        "model.activation": "swiglu", "data.train": folder / "tokens", "run.dir": folder / "run",
        "run.threads": 1}.items()))
    polymoe("checkpoint", "export-hf", folder / "run", folder / "out")
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    expected = numpy.fromfile(folder / "tokens.bin", "<u2").tolist()
    ids = tokenizer.encode(text) + [tokenizer.eos_token_id]
    print(f"  {type(tokenizer).__name__}: {len(ids)} ids")
    if ids != expected or tokenizer.decode(ids[:-1]) != text:
        sys.exit("AutoTokenizer does not find the ids of polymoe tokenize")


def main():
    with tempfile.TemporaryDirectory() as temporary:
        number = 0
        for check, cases in ((check_made_by_transformers, {name: name for name in json.loads(
                (FIXTURES / "losses.json").read_text())}), (check_trained, TRAINED)):
            for name, case in cases.items():
                print(name)
                number += 1
                folder = pathlib.Path(temporary) / str(number)
                folder.mkdir()
                check(case, folder)
        print("tokenizer")
        (pathlib.Path(temporary) / "tokenizer").mkdir()
        check_tokenizer(pathlib.Path(temporary) / "tokenizer")
    print("all agree")


if __name__ == "__main__":
    main()
