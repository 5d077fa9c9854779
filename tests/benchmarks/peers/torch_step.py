#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times training steps of a PyTorch model of the same size as a polymoe configuration.

  python3 torch_step.py --model moe --variant eager --layers 4 --hidden 1024 ...

Models: `moe` is transformers' OlmoeForCausalLM (SwiGLU experts of 2/3 the width, so that the
parameter counts are equal), `dense` its LlamaForCausalLM. Variants: eager; compile (torch.compile);
grouped (transformers' grouped matrix products, moe only). Optimizer: torch.optim.AdamW (fused),
gradient clipping at 1. Prints one JSON line: tokens_per_second (median over the timed steps),
peak_bytes, parameters, versions.
"""
import argparse
import json
import resource
import statistics
import time


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["moe", "dense"], required=True)
    parser.add_argument("--variant", choices=["eager", "compile", "grouped", "batched"], required=True)
    for name, default in [("layers", 4), ("hidden", 1024), ("heads", 8), ("ffn", 512),
                          ("experts", 16), ("top_k", 4), ("vocab", 4096), ("context", 512),
                          ("batch", 4), ("steps", 5), ("warmup", 2), ("threads", 2)]:
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    return parser.parse_args()


def build(args):
    from transformers import LlamaConfig, LlamaForCausalLM, OlmoeConfig, OlmoeForCausalLM

    sizes = dict(vocab_size=args.vocab, hidden_size=args.hidden, intermediate_size=args.ffn,
                 num_hidden_layers=args.layers, num_attention_heads=args.heads,
                 num_key_value_heads=args.heads, max_position_embeddings=args.context,
                 rms_norm_eps=1e-5, tie_word_embeddings=False, use_cache=False,
                 attn_implementation="sdpa")
    if args.model == "dense":
        return LlamaForCausalLM(LlamaConfig(**sizes))
    if args.variant == "grouped":
        sizes["experts_implementation"] = "grouped_mm"
    if args.variant == "batched":
        sizes["experts_implementation"] = "batched_mm"
    if args.variant in ("eager", "compile"):
        sizes["experts_implementation"] = "eager"
    config = OlmoeConfig(num_experts=args.experts, num_experts_per_tok=args.top_k,
                         norm_topk_prob=False, output_router_logits=True, router_aux_loss_coef=0.01,
                         pad_token_id=None, bos_token_id=None, eos_token_id=None, **sizes)
    return OlmoeForCausalLM(config)


def main():
    args = arguments()
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = build(args).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1,
                                  fused=True)
    forward = torch.compile(model) if args.variant == "compile" else model

    def step():
        tokens = torch.randint(0, args.vocab, (args.batch, args.context))
        loss = forward(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    seconds = []
    for index in range(args.warmup + args.steps):
        start = time.perf_counter()
        step()
        if index >= args.warmup:
            seconds.append(time.perf_counter() - start)
    print(json.dumps({
        "tokens_per_second": args.batch * args.context / statistics.median(seconds),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }))


if __name__ == "__main__":
    main()
