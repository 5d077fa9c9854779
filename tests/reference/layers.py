# SPDX-License-Identifier: Apache-2.0
"""Values and gradients of single layers: python3 tests/reference/layers.py writes
fixtures/layers.txt. The loss of a layer is <d_y, y>; inputs are hashed values."""
import torch
import torch.nn.functional as F

from fixture import write_fixture
from hashed_values import integers, real
from transformer import Parameters, attention, feed_forward, rms_norm

SEQUENCES, LENGTH, HIDDEN, WIDTH, VOCAB = 2, 5, 8, 6, 11
ROWS = SEQUENCES * LENGTH
BASE = dict(hidden=HIDDEN, heads=2, kv_heads=2, qk_norm=False, norm_epsilon=1e-5, rope_theta=1e4,
            activation="polynorm", order=3)
entries = {}


def record(name, parameters, inputs, y):
    """Differentiates <d_y, y> and adds y, d_x and the parameters' gradients."""
    (real(name + ".d_y", y.shape).detach() * y).sum().backward()
    entries[name + ".y"] = y
    for key, value in inputs.items():
        entries[f"{name}.d_{key}"] = value.grad
    for key, value in parameters.items():
        entries[f"{name}.d_{key}"] = value.grad


def by_sequence(function, x):
    return torch.cat([function(part) for part in x.split(LENGTH)])


def block(p, c, x):
    normed = rms_norm(x, p("layer.attention_norm.weight", HIDDEN), c["norm_epsilon"])
    x = x + by_sequence(lambda part: attention(p, "layer.attention", c, part), normed)
    normed = rms_norm(x, p("layer.feed_forward_norm.weight", HIDDEN), c["norm_epsilon"])
    return x + feed_forward(p, "layer.feed_forward", c, WIDTH, normed)


for name, case in {"attention": BASE, "attention_grouped": dict(BASE, kv_heads=1, qk_norm=True)}.items():
    p, x = Parameters(), real(name + ".x", (ROWS, HIDDEN))
    record(name, p, {"x": x}, by_sequence(lambda part: attention(p, "layer", case, part), x))

for name, case in {"swiglu": dict(BASE, activation="swiglu"), "polynorm": BASE}.items():
    p, x = Parameters(), real(name + ".x", (ROWS, HIDDEN))
    record(name, p, {"x": x}, feed_forward(p, "layer", case, WIDTH, x))

p, x = Parameters(), real("block.x", (ROWS, HIDDEN))
record("block", p, {"x": x}, block(p, dict(BASE, kv_heads=1, qk_norm=True), x))

p, x = Parameters(), real("norm.x", (ROWS, HIDDEN))
record("norm", p, {"x": x}, rms_norm(x, p("layer.weight", HIDDEN), 1e-5))

p, x = Parameters(), real("linear.x", (ROWS, HIDDEN))
record("linear", p, {"x": x}, x @ p("layer.weight", VOCAB, HIDDEN).T)

p = Parameters()
record("embedding", p, {}, p("embedding.weight", VOCAB, HIDDEN)[integers("embedding.tokens", ROWS, VOCAB)])

p, x = Parameters(), real("output.x", (ROWS, HIDDEN))
targets = integers("output.targets", ROWS, VOCAB)
targets[3] = -1
logits = rms_norm(x, p("final_norm.weight", HIDDEN), 1e-5) @ p("output.weight", VOCAB, HIDDEN).T
losses = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
(0.25 * losses.sum()).backward()
entries |= {"output.logits": logits, "output.token_losses": losses, "output.d_x": x.grad}
entries |= {f"output.d_{key}": value.grad for key, value in p.items()}

write_fixture("layers.txt", entries)
