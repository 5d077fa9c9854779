# SPDX-License-Identifier: Apache-2.0
"""Expected values and gradients of every activation, from PyTorch in double.

Run: python3 tests/reference/activations.py   (writes fixtures/activations.txt)

PolyCom after Zhuo et al., ICLR 2025, arXiv:2411.03884, with PolyNorm normalised by the root mean
square as in the authors' code.
"""
import torch
import torch.nn.functional as F

from fixture import write_fixture

ROWS, WIDTH, EPSILON = 6, 19, 1e-6
GATED = ["swiglu"]
PLAIN = ["relu", "leaky_relu", "prelu", "relu2", "gelu", "silu", *GATED]
WITH_ORDER = ["polyrelu", "polyprelu", "polynorm", "polyrelunorm", "polynomial"]


def normalised(u):
    return u * torch.rsqrt(u.pow(2).mean(-1, keepdim=True) + EPSILON)


def series(a, order, term):
    return a[0] + sum(a[p] * term(p) for p in range(1, order + 1))


def activation(kind, order, x, a):
    if kind == "relu":
        return F.relu(x)
    if kind == "leaky_relu":
        return F.leaky_relu(x, 0.01)
    if kind == "prelu":
        return F.prelu(x, a)
    if kind == "relu2":
        return F.relu(x).square()
    if kind == "gelu":
        return F.gelu(x)
    if kind == "silu":
        return F.silu(x)
    if kind == "swiglu":
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
    if kind == "polyrelu":
        return series(a, order, lambda p: F.relu(x).pow(p))
    if kind == "polyprelu":
        return series(a, order, lambda p: F.prelu(x, a[order + 1:]).pow(p))
    if kind == "polynorm":
        return series(a, order, lambda p: normalised(x.pow(p)))
    if kind == "polyrelunorm":
        return series(a, order, lambda p: normalised(F.relu(x).pow(p)))
    if kind == "polynomial":
        return series(a, order, lambda p: x.pow(p))
    raise ValueError(kind)


def coefficient_count(kind, order):
    return {"prelu": 1, "polyprelu": order + 2}.get(kind, order + 1 if kind in WITH_ORDER else 0)


def main():
    torch.manual_seed(20240711)
    x = torch.randn(ROWS, 2 * WIDTH, dtype=torch.float64)
    # Powers up to the eighth are taken: rows of small, usual and large magnitude.
    x *= torch.tensor([1.0, 0.01, 3.0, 10.0, 1.0, 1e-4], dtype=torch.float64)[:, None]
    x[3, 5], x[3, 7], x[4, 0] = 30.0, -30.0, 0.0
    d_y = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    entries = {"x": x, "d_y": d_y}
    for kind in PLAIN + WITH_ORDER:
        for order in (2, 3, 4) if kind in WITH_ORDER else (3,):
            name = f"{kind}.{order}"
            inputs = (x if kind in GATED else x[:, :WIDTH]).clone().requires_grad_()
            a = torch.randn(coefficient_count(kind, order), dtype=torch.float64, requires_grad=True)
            y = activation(kind, order, inputs, a)
            y.backward(d_y)
            entries |= {f"{name}.y": y, f"{name}.d_x": inputs.grad}
            if a.numel() > 0:
                entries |= {f"{name}.a": a, f"{name}.d_a": a.grad}
    write_fixture("activations.txt", entries)


if __name__ == "__main__":
    main()
