# SPDX-License-Identifier: Apache-2.0
"""Routing, its losses and their gradients, by PyTorch in double from the formulas of
arXiv:2409.02060 (equations 2 to 4) and arXiv:2408.15664. Writes fixtures/router.txt.
"""

import torch

from fixture import write_fixture

torch.manual_seed(7)
SEGMENTS, LENGTH, EXPERTS, TOP_K = 2, 5, 8, 3
TOKENS = SEGMENTS * LENGTH
BALANCE, Z = 0.3, 0.02

entries = {}
logits = 2.5 * torch.randn(TOKENS, EXPERTS, dtype=torch.float64)
d_weights = torch.randn(TOKENS, TOP_K, dtype=torch.float64)
# In steps that f32 holds exactly.
bias = torch.round(64 * 0.3 * torch.randn(EXPERTS, dtype=torch.float64)) / 64
entries |= {"logits": logits, "d_weights": d_weights, "bias": bias}

for scores_name in ("softmax", "sigmoid"):
    for normalize in (False, True):
        for with_bias in (False, True):
            z = logits.clone().requires_grad_()
            if scores_name == "softmax":
                scores = probabilities = torch.softmax(z, 1)
            else:
                scores = torch.sigmoid(z)
                probabilities = scores / scores.sum(1, keepdim=True)
            key = scores + bias if with_bias else scores
            ids = torch.topk(key.detach(), TOP_K, dim=1, sorted=True).indices
            weights = torch.gather(scores, 1, ids)
            if normalize:
                weights = weights / weights.sum(1, keepdim=True)

            chosen = torch.nn.functional.one_hot(ids, EXPERTS).sum(1).double()
            counts = chosen.view(SEGMENTS, LENGTH, EXPERTS).sum(1)
            share = counts / (LENGTH * TOP_K)
            mean = probabilities.view(SEGMENTS, LENGTH, EXPERTS).mean(1)
            balance_loss = BALANCE * (EXPERTS * (share * mean).sum(1)).sum()
            lse = torch.logsumexp(z, 1)
            z_loss = Z * (lse**2).sum()
            ((weights * d_weights).sum() + balance_loss + z_loss).backward()

            case = f"{scores_name}{'_normalized' * normalize}{'_biased' * with_bias}/"
            entries |= {
                case + "scores": scores,
                case + "log_sum_exp": lse,
                case + "ids": ids,
                case + "weights": weights,
                case + "counts": counts,
                case + "probability_sums": probabilities.view(SEGMENTS, LENGTH, EXPERTS).sum(1),
                case + "balance_loss": balance_loss,
                case + "z_loss": z_loss,
                case + "d_logits": z.grad,
            }

entries |= {"balance_scale": BALANCE, "z_scale": Z}
write_fixture("router.txt", entries)
