# SPDX-License-Identifier: Apache-2.0
"""Tiny random OLMoE and Llama models as transformers saves them, token ids, and the loss that
transformers computes on them:
python3 tests/reference/huggingface.py writes fixtures/huggingface/."""
import json
import pathlib
import shutil

import numpy
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, OlmoeConfig, OlmoeForCausalLM

FOLDER = pathlib.Path(__file__).parent / "fixtures" / "huggingface"
CONTEXT, WINDOWS, VOCAB = 12, 5, 61
BASE = dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=0, pad_token_id=None,
            initializer_range=0.3)
MODELS = {
    "olmoe": (OlmoeForCausalLM, torch.float32, "1GB", OlmoeConfig(
        **BASE, intermediate_size=8, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2)),
    "olmoe_bf16": (OlmoeForCausalLM, torch.bfloat16, "4kB", OlmoeConfig(
        **BASE, intermediate_size=12, num_key_value_heads=4, num_experts=3, num_experts_per_tok=2,
        norm_topk_prob=True)),
    "llama": (LlamaForCausalLM, torch.float32, "9kB", LlamaConfig(
        **BASE, intermediate_size=24, num_key_value_heads=2, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5})),
    "llama_f16": (LlamaForCausalLM, torch.float16, "1GB", LlamaConfig(
        **BASE, intermediate_size=20, num_key_value_heads=1, tie_word_embeddings=True)),
}


def write_types():
    """One tensor of each dtype that is read, and what its values are."""
    bits = torch.arange(0, 1 << 16, 97, dtype=torch.int32).to(torch.int16)
    tensors = {
        "f32": torch.tensor([[0.0, -1.5, 3.4e38], [1e-45, float("inf"), 0.1]]),
        "f16": bits.view(torch.float16).reshape(4, -1),
        "bf16": bits.clone().view(torch.bfloat16),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "integers": torch.arange(3),
    }
    save_file(tensors, FOLDER / "types.safetensors", metadata={"format": "pt"})
    with open(FOLDER / "types.txt", "w") as file:
        for name in ("f32", "f16", "bf16", "scalar"):
            values = tensors[name].float().reshape(-1).view(torch.int32).tolist()
            file.write(name + " " + " ".join(format(v & 0xffffffff, "08x") for v in values) + "\n")


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    write_types()
    rng = numpy.random.default_rng(7)
    tokens = rng.integers(0, VOCAB, CONTEXT * WINDOWS + 1).astype("<u2")
    tokens.tofile(FOLDER / "tokens.npy")  # raw, as OLMo's files are
    losses = {}
    for number, (name, (model_class, dtype, shard_size, config)) in enumerate(MODELS.items()):
        torch.manual_seed(number)
        model = model_class(config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "norm" in parameter_name:
                    parameter.uniform_(0.5, 1.5)
        model = model.to(dtype)
        model.save_pretrained(FOLDER / name, max_shard_size=shard_size)
        (FOLDER / name / "generation_config.json").unlink()
        model = model_class.from_pretrained(FOLDER / name, dtype=torch.float64).eval()
        model.config._experts_implementation = "eager"  # the others do not compute in double
        loss = 0.0
        with torch.no_grad():
            for window in range(WINDOWS):
                ids = torch.tensor(tokens[window * CONTEXT:window * CONTEXT + CONTEXT + 1].astype("int64"))
                loss += model(input_ids=ids[None], labels=ids[None]).loss.item() / WINDOWS
        losses[name] = loss
    (FOLDER / "losses.json").write_text(json.dumps(losses, indent=2) + "\n")


main()
