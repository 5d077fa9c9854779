# SPDX-License-Identifier: Apache-2.0
"""A small mixture-of-experts layer by PyTorch in double, expert by expert and token by token, from
arXiv:2409.02060 (section 2, equations 2 to 4), arXiv:2408.15664 (bias) and arXiv:2411.03884
(PolyNorm). Writes fixtures/moe_layer.txt: inputs, parameters by name, outputs, losses, gradients.
"""

import math

import torch

from fixture import write_fixture

torch.manual_seed(3)
HIDDEN, EXPERTS, TOP_K, WIDTH, SHARED = 6, 4, 2, 5, 10
SEQUENCES, LENGTH = 3, 5
TOKENS = SEQUENCES * LENGTH
BALANCE, Z = 0.7, 0.05  # per layer, before the mean over LAYERS
LAYERS = 2


def poly_norm(x, a):
    y = a[0].expand_as(x)
    for p in range(1, len(a)):
        u = x**p
        y = y + a[p] * u / torch.sqrt((u * u).mean() + 1e-6)
    return y


def swiglu(x, _):
    gate, up = x[: len(x) // 2], x[len(x) // 2 :]
    return gate * torch.sigmoid(gate) * up


def random(*shape, scale=1.0):
    return (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


def layer(case, *, scores, normalize, bias, activation, per_expert, shared, capacity, drop, scope):
    rows = 2 if activation is swiglu else 1
    parameters = {"router.weight": random(EXPERTS, HIDDEN, scale=0.8)}
    for e in range(EXPERTS):
        parameters[f"experts.{e}.up.weight"] = random(rows * WIDTH, HIDDEN, scale=0.5)
        parameters[f"experts.{e}.down.weight"] = random(HIDDEN, WIDTH, scale=0.5)
    if activation is poly_norm:
        if per_expert:
            for e in range(EXPERTS):
                parameters[f"experts.{e}.coefficients"] = random(4, scale=0.5)
        else:
            parameters["experts.coefficients"] = random(4, scale=0.5)
    if shared:
        parameters["shared.up.weight"] = random(rows * SHARED, HIDDEN, scale=0.5)
        parameters["shared.down.weight"] = random(HIDDEN, SHARED, scale=0.5)
        if activation is poly_norm:
            parameters["shared.coefficients"] = random(4, scale=0.5)
    x, d_y = random(TOKENS, HIDDEN), torch.randn(TOKENS, HIDDEN, dtype=torch.float64)

    def feed_forward(name, coefficients, row):
        pre = parameters[name + ".up.weight"] @ row
        return parameters[name + ".down.weight"] @ activation(pre, parameters.get(coefficients))

    logits = x @ parameters["router.weight"].T
    if scores == "softmax":
        s = probabilities = torch.softmax(logits, 1)
    else:
        s = torch.sigmoid(logits)
        probabilities = s / s.sum(1, keepdim=True)

    # Choices (token, weight) of each expert, per sequence, dropped beyond the capacity.
    slots = math.ceil(capacity * LENGTH * TOP_K / EXPERTS) if capacity else TOKENS * TOP_K
    chosen = torch.zeros(TOKENS, EXPERTS, dtype=torch.float64)
    outputs = [torch.zeros(HIDDEN, dtype=torch.float64) for _ in range(TOKENS)]
    dropped = 0
    for sequence in range(SEQUENCES):
        takers = {e: [] for e in range(EXPERTS)}
        for t in range(sequence * LENGTH, (sequence + 1) * LENGTH):
            ids = torch.topk((s[t] + bias).detach(), TOP_K).indices.tolist()
            total = sum(s[t, e] for e in ids) if normalize else 1.0
            for e in ids:
                chosen[t, e] = 1.0
                takers[e].append((t, s[t, e] / total))
        for e, choices in takers.items():
            if drop == "probability":
                choices = sorted(choices, key=lambda c: -c[1].item())  # stable: earlier first
            dropped += max(0, len(choices) - slots)
            for t, weight in choices[:slots]:
                name = f"experts.{e}"
                shared_set = "experts.coefficients"
                row = feed_forward(name, name + ".coefficients" if per_expert else shared_set, x[t])
                outputs[t] = outputs[t] + weight * row
    if shared:
        for t in range(TOKENS):
            outputs[t] = outputs[t] + feed_forward("shared", "shared.coefficients", x[t])
    y = torch.stack(outputs)

    def balance_of(begin, end):
        f = chosen[begin:end].sum(0) / ((end - begin) * TOP_K)
        return EXPERTS * (f * probabilities[begin:end].mean(0)).sum()

    if scope == "sequence":
        balance = sum(balance_of(i * LENGTH, (i + 1) * LENGTH) for i in range(SEQUENCES))
        balance = balance / SEQUENCES
    else:  # one micro-batch of one rank
        balance = balance_of(0, TOKENS)
    balance = BALANCE / LAYERS * balance
    z = Z / LAYERS * (torch.logsumexp(logits, 1) ** 2).mean()
    ((y * d_y).sum() + balance + z).backward()

    entries = {"x": x, "d_y": d_y, "y": y, "d_x": x.grad, "balance": balance, "z": z}
    entries |= {"counts": torch.cat([chosen.sum(0), torch.tensor([float(dropped)])])}
    for name, value in parameters.items():
        entries["value/layers.0." + name] = value
        entries["gradient/layers.0." + name] = value.grad
    return {f"{case}/{name}": value for name, value in entries.items()}


zero = torch.zeros(EXPERTS, dtype=torch.float64)
bias = torch.tensor([0.25, -0.125, 0.0, 0.0625], dtype=torch.float64)
entries = {"bias": bias, "balance_loss": BALANCE, "z_loss": Z}
entries |= layer(
    "softmax", scores="softmax", normalize=False, bias=zero, activation=poly_norm,
    per_expert=False, shared=False, capacity=0, drop="position", scope="sequence")
entries |= layer(
    "sigmoid", scores="sigmoid", normalize=True, bias=bias, activation=poly_norm,
    per_expert=True, shared=True, capacity=0.8, drop="probability", scope="rank")
entries |= layer(
    "swiglu", scores="softmax", normalize=True, bias=zero, activation=swiglu,
    per_expert=False, shared=True, capacity=1.0, drop="position", scope="global")
write_fixture("moe_layer.txt", entries)
