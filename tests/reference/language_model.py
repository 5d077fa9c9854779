# SPDX-License-Identifier: Apache-2.0
"""Loss, loss terms and all gradients of small whole models:
python3 tests/reference/language_model.py writes fixtures/language_model_*.txt."""
import torch

from fixture import write_fixture
from hashed_values import integers
from transformer import Parameters, language_model

BASE = dict(
    layers=2, hidden=16, heads=4, kv_heads=2, vocab=19, norm_epsilon=1e-5, rope_theta=1e4,
    qk_norm=True, tied=False, activation="polynorm", order=3, experts=0, dense_layers=[],
    shared_experts=0, scores="softmax", normalize=False, coefficients_per_expert=False,
    balance_loss=0.05, balance_scope="sequence", z_loss=0.02)

CASES = {
    "moe": dict(BASE, experts=4, top_k=2, expert_ffn=8),
    "shared": dict(BASE, hidden=8, heads=2, kv_heads=2, ffn=10, dense_layers=[0], order=2,
                   qk_norm=False, experts=4, top_k=3, expert_ffn=6, shared_experts=2,
                   scores="sigmoid", normalize=True, coefficients_per_expert=True,
                   balance_scope="rank"),
    "dense": dict(BASE, hidden=8, heads=2, kv_heads=2, ffn=12, qk_norm=False, tied=True, activation="swiglu"),
}
SEQUENCES, LENGTH = 4, 7

# Windows of several documents and of padding behind them: for each, where its documents begin and
# where the last one ends.
DOCUMENTS = [[0, 7], [0, 3, 7], [0, 1, 4, 6], [0, 2, 4]]


def write(file, case, tokens, targets):
    parameters = Parameters()
    cross_entropy, balance, z, losses = language_model(parameters, case, tokens, targets)
    (cross_entropy + balance + z).backward()
    entries = {"tensors": len(parameters), "cross_entropy": cross_entropy, "balance": torch.as_tensor(balance),
               "z": torch.as_tensor(z), "token_losses": losses}
    for parameter_name, value in parameters.items():
        gradient = torch.zeros_like(value) if value.grad is None else value.grad
        entries["d_" + parameter_name] = gradient
    write_fixture(file, entries)


def documents_of(values, last_counts):
    """The documents as sequences of their own. The last token of one that ends within its window
    predicts nothing."""
    parts = []
    for row, ends in zip(values, DOCUMENTS):
        for begin, end in zip(ends, ends[1:]):
            part = row[begin:end].clone()
            if not last_counts and end < LENGTH:
                part[-1] = -1
            parts.append(part)
    return parts


for name, case in CASES.items():
    tokens = integers(f"{name}.tokens", SEQUENCES * LENGTH, case["vocab"]).reshape(SEQUENCES, LENGTH)
    targets = integers(f"{name}.targets", SEQUENCES * LENGTH, case["vocab"]).reshape(SEQUENCES, LENGTH)
    if name == "dense":
        targets[1, 3:] = -1  # padding: not predicted
    write(f"language_model_{name}.txt", case, tokens, targets)
    if name != "dense":
        windows = [w for w, ends in enumerate(DOCUMENTS) for _ in ends[1:]]
        write(f"language_model_{name}_documents.txt", dict(case, windows=windows),
              documents_of(tokens, True), documents_of(targets, False))
