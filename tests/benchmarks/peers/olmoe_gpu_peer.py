#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times training steps of PyTorch's OLMoE-1B-7B on GPUs: what moe-7b.ini is held against.

  python3 olmoe_gpu_peer.py --experts grouped_mm --micro-batch 4 --global-batch 32
  torchrun --nproc-per-node 2 olmoe_gpu_peer.py --experts grouped_mm --micro-batch 4 --global-batch 32

transformers' OlmoeForCausalLM with the sizes of launch/configs/moe-7b.ini (SwiGLU experts of the same
parameter count), random tokens, layers compiled, Liger's fused output loss, AdamW (fused), clipping
at 1. Experts: eager; grouped_mm; sonicmoe, SonicMoE's kernels, which refuse to be compiled and take
minutes of an H200 machine to choose among their own.
--state says in what masters, gradients and moments are kept; products are in bf16 either way. With
f32 one GPU keeps masters beside the bf16 values, and adds every pass's gradients to f32 ones as soon
as they are there; several run under FSDP2. Prints one JSON line from the first process:
tokens_per_second of all GPUs (the median step), spread, memory taken of a GPU, versions.

Needs torch, transformers, liger-kernel; for sonicmoe also sonic-moe.
"""
import argparse
import json
import os
import statistics
import time
import types

import torch
import torch.distributed as distributed
import transformers

CONTEXT, HIDDEN, EXPERTS, TOP_K, VOCAB = 4096, 2048, 64, 8, 50304


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", choices=["eager", "grouped_mm", "sonicmoe"], required=True)
    parser.add_argument("--state", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=4, help="sequences of a GPU's pass")
    parser.add_argument("--global-batch", type=int, default=32, help="sequences of a step")
    parser.add_argument("--steps", type=int, default=5, help="timed, after two others")
    return parser.parse_args()


def keep_uncompiled(name):
    """SonicMoE's experts as transformers calls them, left out of torch.compile."""
    import transformers.integrations.moe as integration
    from transformers.integrations.sonicmoe import sonicmoe_experts_forward

    integration.ExpertsInterface._global_mapping[name] = torch.compiler.disable(
        sonicmoe_experts_forward)


def build(args):
    config = transformers.OlmoeConfig(
        hidden_size=HIDDEN, intermediate_size=1024, num_hidden_layers=args.layers,
        num_attention_heads=16, num_key_value_heads=16, num_experts=EXPERTS,
        num_experts_per_tok=TOP_K, vocab_size=VOCAB, max_position_embeddings=CONTEXT,
        output_router_logits=True, use_cache=False)
    if args.experts == "sonicmoe":
        keep_uncompiled("sonicmoe")
    config._experts_implementation = args.experts
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    sharded_masters = args.state == "f32" and distributed.is_initialized()
    torch.set_default_dtype(torch.float32 if sharded_masters else torch.bfloat16)
    # f32 masters are sharded from host memory: a whole copy would not fit beside them.
    with torch.device("cpu" if sharded_masters else "cuda"):
        model = transformers.OlmoeForCausalLM(config).train()
    torch.set_default_dtype(torch.float32)
    return model


def use_fused_loss(model):
    """forward(input_ids, labels) that never forms the logits."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

    cross_entropy = LigerFusedLinearCrossEntropyLoss()

    def forward(self, input_ids, labels):
        output = self.model(input_ids=input_ids, output_router_logits=True)
        rows = output.last_hidden_state.reshape(-1, HIDDEN)
        loss = cross_entropy(self.lm_head.weight, rows, labels.reshape(-1))
        balance = load_balancing_loss_func(output.router_logits, EXPERTS, TOP_K, None)
        return loss + 0.01 * balance

    model.forward = types.MethodType(forward, model)


def shard(model, args):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    reduced = torch.float32 if args.state == "f32" else torch.bfloat16
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduced)
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mp_policy=policy)
    model.to("cuda")


class Masters:
    """f32 masters and gradients beside a model's bf16 values."""

    def __init__(self, model):
        self.values = list(model.parameters())
        self.masters = [value.detach().float() for value in self.values]
        for value, master in zip(self.values, self.masters):
            master.grad = torch.zeros_like(master)
            value.register_post_accumulate_grad_hook(self.adder(master))

    @staticmethod
    def adder(master):
        def add(value):
            master.grad.add_(value.grad)
            value.grad = None
        return add

    def written_back(self):
        with torch.no_grad():
            torch._foreach_copy_(self.values, self.masters)
        torch._foreach_zero_([master.grad for master in self.masters])


def main():
    args = arguments()
    rank, world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.cuda.set_device(rank)
    if args.global_batch % (args.micro_batch * world) != 0:
        raise SystemExit(f"--global-batch {args.global_batch}: must be a multiple of --micro-batch "
                         f"times processes, {args.micro_batch} x {world}")
    sharded = world > 1
    if sharded:
        distributed.init_process_group("nccl", device_id=torch.device("cuda", rank))
    model = build(args)
    for layer in model.model.layers:
        layer.compile()
    if sharded:
        shard(model, args)
    use_fused_loss(model)
    masters = Masters(model) if args.state == "f32" and not sharded else None
    updated = masters.masters if masters else list(model.parameters())
    optimizer = torch.optim.AdamW(updated, lr=1e-4, fused=True)
    passes = args.global_batch // (args.micro_batch * world)
    batches = [torch.randint(0, VOCAB, (args.micro_batch, CONTEXT), device="cuda")
               for _ in range(passes)]

    def step():
        for i, batch in enumerate(batches):
            if sharded:
                model.set_requires_gradient_sync(i == passes - 1)
            (model(input_ids=batch, labels=batch) / passes).backward()
        torch.nn.utils.clip_grad_norm_(updated, 1.0, foreach=True)
        optimizer.step()
        if masters:
            masters.written_back()
        else:
            optimizer.zero_grad(set_to_none=True)

    def all_there():
        torch.cuda.synchronize()
        if sharded:
            distributed.barrier()

    for _ in range(2):
        step()
    seconds = []
    for _ in range(args.steps):
        all_there()
        begin = time.monotonic()
        step()
        all_there()
        seconds.append(time.monotonic() - begin)
    median = statistics.median(seconds)
    if rank == 0:
        free, total = torch.cuda.mem_get_info()
        print(json.dumps({
            "experts": args.experts, "state": args.state, "gpus": world, "layers": args.layers,
            "micro_batch": args.micro_batch, "global_batch": args.global_batch,
            "tokens_per_second": round(args.global_batch * CONTEXT / median),
            "spread": round((max(seconds) - min(seconds)) / median, 3),
            "memory_gib": round((total - free) / 2**30, 1),
            "torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
    if sharded:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
