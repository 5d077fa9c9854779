# SPDX-License-Identifier: Apache-2.0
"""A decoder language model, dense or mixture-of-experts, in PyTorch double, written from the
papers' formulas: the plainest form, one sequence, token and expert at a time where that is clearer.

PolyNorm: arXiv:2411.03884. OLMoE: arXiv:2409.02060. RoPE: arXiv:2104.09864. RMSNorm: 1910.07467.
"""
import math

import torch
import torch.nn.functional as F

from hashed_values import parameter


class Parameters(dict):
    """Parameters by name, made on first use."""

    def __call__(self, name, *shape):
        if name not in self:
            self[name] = parameter(name, shape)
        assert tuple(self[name].shape) == shape, name
        return self[name]


def rms_norm(x, weight, epsilon):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight


def rotary(x, theta):
    """x [length, heads, d]: pairs (i, i + d/2) turn by position * theta^(-2i/d)."""
    length, _, d = x.shape
    frequency = theta ** (-2.0 * torch.arange(d // 2, dtype=x.dtype) / d)
    angle = torch.arange(length, dtype=x.dtype)[:, None, None] * frequency
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


def attention(p, name, c, x):
    """x [length, hidden], one sequence."""
    length, hidden, heads, kv_heads = x.shape[0], c["hidden"], c["heads"], c["kv_heads"]
    d = hidden // heads
    q = x @ p(name + ".q.weight", hidden, hidden).T
    k = x @ p(name + ".k.weight", kv_heads * d, hidden).T
    v = x @ p(name + ".v.weight", kv_heads * d, hidden).T
    if c["qk_norm"]:
        q = rms_norm(q, p(name + ".q_norm.weight", hidden), c["norm_epsilon"])
        k = rms_norm(k, p(name + ".k_norm.weight", kv_heads * d), c["norm_epsilon"])
    q = rotary(q.reshape(length, heads, d), c["rope_theta"])
    k = rotary(k.reshape(length, kv_heads, d), c["rope_theta"])
    v = v.reshape(length, kv_heads, d)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    out = []
    for head in range(heads):
        kv = head // (heads // kv_heads)
        scores = (q[:, head] @ k[:, kv].T / math.sqrt(d)).masked_fill(future, -math.inf)
        out.append(torch.softmax(scores, -1) @ v[:, kv])
    return torch.cat(out, -1) @ p(name + ".o.weight", hidden, hidden).T


def coefficient_count(c):
    return {"swiglu": 0, "polynorm": c["order"] + 1}[c["activation"]]


def activation(c, pre, a):
    if c["activation"] == "swiglu":
        gate, up = pre.chunk(2, -1)
        return F.silu(gate) * up
    y = a[0]
    for power in range(1, c["order"] + 1):
        u = pre**power
        y = y + a[power] * u / torch.sqrt((u * u).mean(-1, keepdim=True) + 1e-6)
    return y


def feed_forward(p, name, c, width, x, coefficients=None):
    factor = 2 if c["activation"] == "swiglu" else 1
    n = coefficient_count(c)
    a = p(coefficients or name + ".coefficients", n) if n > 0 else None
    pre = x @ p(name + ".up.weight", factor * width, c["hidden"]).T
    return activation(c, pre, a) @ p(name + ".down.weight", c["hidden"], width).T


def moe(p, name, c, sequences):
    """Returns outputs per sequence, the balance loss and the z loss of this layer, without their
    coefficients: a mean over sequences or over all tokens together, and a mean over tokens. Sequences
    of one window, where c["windows"] says which belongs to which, are one for the balance loss."""
    experts, top_k, width = c["experts"], c["top_k"], c["expert_ffn"]
    outputs, statistics, z = [], [], []
    for x in sequences:
        logits = x @ p(name + ".router.weight", experts, c["hidden"]).T
        if c["scores"] == "softmax":
            scores = torch.softmax(logits, -1)
            probabilities = scores
        else:
            scores = torch.sigmoid(logits)
            probabilities = scores / scores.sum(-1, keepdim=True)
        z.append(torch.logsumexp(logits, -1) ** 2)
        chosen = scores.topk(top_k, -1).indices
        weights = scores.gather(-1, chosen)
        if c["normalize"]:
            weights = weights / weights.sum(-1, keepdim=True)
        rows = []
        for t in range(x.shape[0]):
            row = torch.zeros_like(x[t])
            for j in range(top_k):
                e = int(chosen[t, j])
                expert = f"{name}.experts.{e}"
                shared = None if c["coefficients_per_expert"] else f"{name}.experts.coefficients"
                row = row + weights[t, j] * feed_forward(p, expert, c, width, x[t : t + 1], shared)[0]
            rows.append(row)
        y = torch.stack(rows)
        if c["shared_experts"] > 0:
            y = y + feed_forward(p, name + ".shared", c, c["shared_experts"] * width, x)
        outputs.append(y)
        counts = F.one_hot(chosen, experts).sum((0, 1)).to(x.dtype)
        statistics.append((counts, probabilities.sum(0), x.shape[0]))
    if c["balance_scope"] == "sequence":
        windows = c.get("windows", range(len(statistics)))
        groups = [[s for s, w in zip(statistics, windows) if w == window] for window in sorted(set(windows))]
    else:
        groups = [statistics]
    balance = 0.0
    for group in groups:
        tokens = sum(s[2] for s in group)
        share = sum(s[0] for s in group) / (tokens * top_k)
        mean_probability = sum(s[1] for s in group) / tokens
        balance = balance + experts * (share * mean_probability).sum() / len(groups)
    return outputs, balance, torch.cat(z).mean()


def language_model(p, c, tokens, targets):
    """tokens, targets: per sequence, of any lengths; target -1 is not predicted. Returns the loss
    terms and the cross-entropy per token."""
    hidden, vocab, epsilon = c["hidden"], c["vocab"], c["norm_epsilon"]
    table = p("embedding.weight", vocab, hidden)
    streams = [table[row] for row in tokens]
    moe_layers = [l for l in range(c["layers"]) if c["experts"] > 0 and l not in c["dense_layers"]]
    balance, z = 0.0, 0.0
    for layer in range(c["layers"]):
        name = f"layers.{layer}"
        norm = p(name + ".attention_norm.weight", hidden)
        streams = [x + attention(p, name + ".attention", c, rms_norm(x, norm, epsilon)) for x in streams]
        norm = p(name + ".feed_forward_norm.weight", hidden)
        normed = [rms_norm(x, norm, epsilon) for x in streams]
        if layer in moe_layers:
            deltas, layer_balance, layer_z = moe(p, name, c, normed)
            balance = balance + c["balance_loss"] * layer_balance / len(moe_layers)
            z = z + c["z_loss"] * layer_z / len(moe_layers)
        else:
            deltas = [feed_forward(p, name + ".feed_forward", c, c["ffn"], x) for x in normed]
        streams = [x + delta for x, delta in zip(streams, deltas)]
    norm = p("final_norm.weight", hidden)
    projection = table if c["tied"] else p("output.weight", vocab, hidden)
    x = torch.cat([rms_norm(x, norm, epsilon) for x in streams])
    targets = torch.cat(list(targets))
    losses = F.cross_entropy(x @ projection.T, targets, ignore_index=-1, reduction="none")
    cross_entropy = losses.sum() / (targets >= 0).sum()
    return cross_entropy, balance, z, losses
