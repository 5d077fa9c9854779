# SPDX-License-Identifier: Apache-2.0
"""Expected values and gradients of grouped expert feed-forwards, from PyTorch in double.

Run: python3 tests/reference/feed_forward.py   (writes fixtures/feed_forward.txt)

y[r] = down_e (row_weight[r] * activation(up_e x[r])) for the rows r of expert e.
"""
import torch

from activations import activation, coefficient_count
from fixture import write_fixture

HIDDEN, FFN, ROWS = 9, 7, [4, 0, 1, 6]  # one expert gets nothing
CASES = [("polynorm", 3, True), ("polynorm", 2, False), ("swiglu", 3, False),
         ("polyprelu", 4, True), ("gelu", 3, False)]


def main():
    torch.manual_seed(20240712)
    rows, experts = sum(ROWS), len(ROWS)
    entries = {}
    for kind, order, per_expert in CASES:
        name = f"{kind}.{order}"
        factor = 2 if kind == "swiglu" else 1
        sets = experts if per_expert else 1
        shapes = {"x": (rows, HIDDEN), "row_weights": (rows,), "up": (experts, factor * FFN, HIDDEN),
                  "down": (experts, HIDDEN, FFN), "a": (sets, coefficient_count(kind, order))}
        tensors = {key: torch.randn(shape, dtype=torch.float64, requires_grad=True)
                   for key, shape in shapes.items()}
        d_y = torch.randn(rows, HIDDEN, dtype=torch.float64)
        parts, start = [], 0
        for e, count in enumerate(ROWS):
            x = tensors["x"][start:start + count]
            pre = x @ tensors["up"][e].T
            h = activation(kind, order, pre, tensors["a"][e if per_expert else 0])
            parts.append((tensors["row_weights"][start:start + count, None] * h)
                         @ tensors["down"][e].T)
            start += count
        y = torch.cat(parts)
        y.backward(d_y)
        entries |= {f"{name}.y": y, f"{name}.d_y": d_y}
        for key, tensor in tensors.items():
            if tensor.numel() == 0:
                continue
            entries |= {f"{name}.{key}": tensor, f"{name}.d_{key}": tensor.grad}
    write_fixture("feed_forward.txt", entries)


if __name__ == "__main__":
    main()
