# SPDX-License-Identifier: Apache-2.0
"""Values and gradients of the transformer's operations from PyTorch in double.

    python3 tests/reference/transformer_kernels.py
"""
import torch
import torch.nn.functional as F

from fixture import write_fixture

torch.set_default_dtype(torch.float64)


def leaf(*shape, scale=1.0):
    return (scale * torch.randn(*shape)).requires_grad_()


def rms_norm():
    torch.manual_seed(1)
    x, weight, d_y = leaf(5, 37, scale=3.0), leaf(37), torch.randn(5, 37)
    y = F.rms_norm(x, (37,), weight, eps=1e-5) if hasattr(F, "rms_norm") else None
    if y is None:
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight
    y.backward(d_y)
    write_fixture(
        "rms_norm.txt",
        {"x": x, "weight": weight, "d_y": d_y, "y": y, "d_x": x.grad, "d_weight": weight.grad},
    )


def rotary():
    torch.manual_seed(2)
    length, heads, dim, first, theta = 7, 3, 10, 5, 1e4
    x, d_y = leaf(2 * length, heads, dim), torch.randn(2 * length, heads, dim)
    positions = torch.arange(first, first + length).repeat(2).to(torch.float64)
    frequencies = theta ** (-torch.arange(0, dim, 2).to(torch.float64) / dim)
    angles = torch.cat([positions[:, None] * frequencies] * 2, dim=-1)[:, None, :]
    half = torch.cat([-x[..., dim // 2 :], x[..., : dim // 2]], dim=-1)
    y = x * angles.cos() + half * angles.sin()
    y.backward(d_y)
    write_fixture("rotary.txt", {"x": x, "d_y": d_y, "y": y, "d_x": x.grad})


def attention():
    # name: batch, query_length, key_length, heads, kv_heads, head_dim
    cases = {
        "causal": (2, 9, 9, 2, 2, 6),
        "grouped": (1, 7, 7, 6, 2, 5),
        "longer_keys": (2, 3, 8, 4, 1, 4),
        "decoding": (2, 1, 11, 4, 2, 8),
    }
    entries = {}
    torch.manual_seed(3)
    for name, (batch, queries, keys, heads, kv_heads, dim) in cases.items():
        q, d_out = leaf(batch * queries, heads, dim), torch.randn(batch * queries, heads, dim)
        k, v = leaf(batch * keys, kv_heads, dim), leaf(batch * keys, kv_heads, dim)
        split = lambda t, n: t.view(batch, -1, n, dim).transpose(1, 2)
        group = heads // kv_heads
        visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        out = F.scaled_dot_product_attention(
            split(q, heads),
            split(k, kv_heads).repeat_interleave(group, 1),
            split(v, kv_heads).repeat_interleave(group, 1),
            attn_mask=visible,
        )
        out = out.transpose(1, 2).reshape(batch * queries, heads, dim)
        out.backward(d_out)
        scores = split(q, heads) @ split(k, kv_heads).repeat_interleave(group, 1).mT / dim**0.5
        log_sum_exp = scores.masked_fill(~visible, -torch.inf).logsumexp(-1)
        values = {"q": q, "k": k, "v": v, "d_out": d_out, "out": out, "log_sum_exp": log_sum_exp}
        values |= {"d_q": q.grad, "d_k": k.grad, "d_v": v.grad}
        values["shape"] = [batch, queries, keys, heads, kv_heads, dim]
        entries |= {f"{name}.{key}": value for key, value in values.items()}
    write_fixture("attention.txt", entries)


def output_loss():
    torch.manual_seed(4)
    x, weight = leaf(13, 8), leaf(29, 8)
    targets = torch.randint(0, 29, (13,))
    targets[3] = targets[12] = -1
    token_loss = F.cross_entropy(x @ weight.T, targets, ignore_index=-1, reduction="none")
    (0.125 * token_loss.sum()).backward()
    write_fixture(
        "output_loss.txt",
        {"x": x, "weight": weight, "targets": targets, "token_loss": token_loss}
        | {"d_x": x.grad, "d_weight": weight.grad},
    )


def adamw():
    torch.manual_seed(5)
    parameter = leaf(41)
    start = parameter.detach().clone()
    settings = dict(lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    optimizer = torch.optim.AdamW([parameter], **settings)
    entries = {"start": start}
    for step in (1, 2, 3):
        gradient = torch.randn(41) * 10.0 ** torch.randint(-6, 2, (41,))
        parameter.grad = 0.25 * gradient
        optimizer.step()
        entries |= {f"gradient.{step}": gradient, f"parameter.{step}": parameter.detach().clone()}
    state = optimizer.state[parameter]
    write_fixture("adamw.txt", entries | {"m": state["exp_avg"], "v": state["exp_avg_sq"]})


if __name__ == "__main__":
    rms_norm()
    rotary()
    attention()
    output_loss()
    adamw()
