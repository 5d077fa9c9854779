# SPDX-License-Identifier: Apache-2.0
"""The models that polymoe trains, in plain PyTorch, for AutoModelForCausalLM with trust_remote_code.

What transformers' Trainer, generate() and data collators pass is honoured: labels with
num_items_in_batch, padding on either side, position_ids that begin anew within a row (then attention
does not cross from one piece to the next), a key/value cache, gradient checkpointing, router logits.
Anything else is refused by name. The losses that balance the experts' loads are polymoe's own and no
part of `loss`.
"""
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_polymoe import PolymoeConfig


def normalized(u, epsilon):
    """n(u) = u / rms(u) over the last dimension."""
    return u * torch.rsqrt(u.pow(2).mean(-1, keepdim=True) + epsilon)


def power_sum(u, coefficients):
    """a_0 + a_1 u + ... + a_r u^r."""
    total = torch.zeros_like(u)
    for a in reversed(coefficients):
        total = total * u + a
    return total


def norm_sum(u, coefficients, epsilon):
    """a_0 + sum over p >= 1 of a_p n(u^p)."""
    total = torch.zeros_like(u) + coefficients[0]
    for p in range(1, len(coefficients)):
        total = total + coefficients[p] * normalized(u.pow(p), epsilon)
    return total


def prelu(u, slope):
    return torch.where(u > 0, u, slope * u)


# (x, coefficients a_0 ... , epsilon) -> y. The poly* family: Zhuo et al., arXiv:2411.03884.
ACTIVATIONS = {
    "relu": lambda x, a, epsilon: F.relu(x),
    "leaky_relu": lambda x, a, epsilon: F.leaky_relu(x, 0.01),
    "prelu": lambda x, a, epsilon: prelu(x, a[0]),
    "relu2": lambda x, a, epsilon: F.relu(x).pow(2),
    "gelu": lambda x, a, epsilon: F.gelu(x),
    "silu": lambda x, a, epsilon: F.silu(x),
    "polyrelu": lambda x, a, epsilon: power_sum(F.relu(x), a),
    "polyprelu": lambda x, a, epsilon: power_sum(prelu(x, a[-1]), a[:-1]),
    "polynorm": norm_sum,
    "polyrelunorm": lambda x, a, epsilon: norm_sum(F.relu(x), a, epsilon),
    "polynomial": lambda x, a, epsilon: power_sum(x, a),
}
# Of the gated ones what is taken of the gate.
GATES = {"swiglu": F.silu}


def coefficient_count(config):
    counts = {"prelu": 1, "polyprelu": config.activation_order + 2}
    polynomial = ("polyrelu", "polynorm", "polyrelunorm", "polynomial")
    return counts.get(config.hidden_act, config.activation_order + 1 if config.hidden_act in polynomial else 0)


def accurate(x):
    """Powers overflow and sums drown in 16 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class RmsNorm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return normalized(accurate(x), self.epsilon).to(x.dtype) * self.weight


class FeedForward(nn.Module):
    """down(activation(up x)); where gated down(GATES[activation](gate x) * up x)."""

    def __init__(self, config, width, own_coefficients):
        super().__init__()
        self.activation = config.hidden_act
        self.epsilon = config.activation_epsilon
        if self.activation in GATES:
            self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)
        count = coefficient_count(config)
        self.coefficients = nn.Parameter(torch.zeros(count)) if own_coefficients and count else None

    def forward(self, x, coefficients=None):
        if self.activation in GATES:
            return self.down_proj(GATES[self.activation](self.gate_proj(x)) * self.up_proj(x))
        a = self.coefficients if coefficients is None else coefficients
        a = None if a is None else accurate(a)
        y = ACTIVATIONS[self.activation](accurate(self.up_proj(x)), a, self.epsilon)
        return self.down_proj(y.to(x.dtype))


class Router(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.num_experts, config.hidden_size))
        with_bias = config.router_bias_rate != 0
        self.selection_bias = nn.Parameter(torch.zeros(config.num_experts)) if with_bias else None
        self.top_k = config.num_experts_per_tok
        self.scores = config.router_scores
        self.normalize = config.norm_topk_prob

    def forward(self, x):
        """Ids and weights of the chosen experts, [tokens, top_k] each, and the logits of all."""
        logits = F.linear(accurate(x), accurate(self.weight))
        scores = logits.softmax(-1) if self.scores == "softmax" else logits.sigmoid()
        bias = 0 if self.selection_bias is None else accurate(self.selection_bias)
        ids = torch.topk(scores + bias, self.top_k, dim=-1).indices
        weights = scores.gather(-1, ids)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        return ids, weights.to(x.dtype), logits


class Experts(nn.ModuleList):
    def __init__(self, config):
        own = config.coefficients_per_expert
        super().__init__(FeedForward(config, config.moe_intermediate_size, own) for _ in range(config.num_experts))
        count = 0 if own else coefficient_count(config)
        self.coefficients = nn.Parameter(torch.zeros(count)) if count else None

    def forward(self, x, ids, weights):
        y = torch.zeros_like(x)
        for number, expert in enumerate(self):
            tokens, choice = torch.where(ids == number)
            if len(tokens) > 0:
                out = expert(x[tokens], self.coefficients) * weights[tokens, choice, None]
                y.index_add_(0, tokens, out)
        return y


class MoeLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        width = config.num_shared_experts * config.moe_intermediate_size
        self.shared_expert = FeedForward(config, width, True) if width else None

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        ids, weights, logits = self.gate(rows)
        y = self.experts(rows, ids, weights)
        if self.shared_expert is not None:
            y = y + self.shared_expert(rows)
        return y.reshape(x.shape), logits


class Attention(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        hidden = config.hidden_size
        self.number = number
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = hidden // self.heads
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.q_norm = RmsNorm(hidden, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = (RmsNorm(self.kv_heads * self.head_dim, config.rms_norm_eps)
                       if config.qk_norm else nn.Identity())

    def forward(self, x, rotate, mask, cache):
        batch, length, hidden = x.shape

        def split(u, heads):
            return u.view(batch, length, heads, self.head_dim).transpose(1, 2)

        q = rotate(split(self.q_norm(self.q_proj(x)), self.heads))
        k = rotate(split(self.k_norm(self.k_proj(x)), self.kv_heads))
        v = split(self.v_proj(x), self.kv_heads)
        if cache is not None:
            k, v = cache.update(k, v, self.number)
        repeats = self.heads // self.kv_heads
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, hidden))


class Block(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, number)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        if config.num_experts > 0 and number not in config.dense_layers:
            self.mlp = MoeLayer(config)
        else:
            self.mlp = FeedForward(config, config.intermediate_size, True)

    def forward(self, x, rotate, mask, cache):
        """The block's output, and the router's logits [tokens, experts] where it has one."""
        x = x + self.self_attn(self.input_layernorm(x), rotate, mask, cache)
        y = self.mlp(self.post_attention_layernorm(x))
        y, logits = y if isinstance(y, tuple) else (y, None)
        return x + y, logits


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, number) for number in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False  # set by gradient_checkpointing_enable()

    def forward(self, x, rotate, mask, cache):
        """The normalised output, the residual stream before each block, and the routers' logits."""
        streams, router_logits = [], []
        for layer in self.layers:
            streams.append(x)
            if self.gradient_checkpointing and self.training:
                x, logits = self._gradient_checkpointing_func(layer.__call__, x, rotate, mask, None)
            else:
                x, logits = layer(x, rotate, mask, cache)
            if logits is not None:
                router_logits.append(logits)
        x = self.norm(x)
        return x, (*streams, x), tuple(router_logits)


@dataclass
class PolymoeOutput(CausalLMOutputWithPast):
    router_logits: Optional[tuple] = None  # [tokens, experts] of each MoE layer


def visible_keys(attention_mask, positions, past, length):
    """Which of the past + length keys each of the last `length` positions sees, [batch, 1, length, keys]."""
    keys = past + length
    device = positions.device
    mask = torch.ones(keys, keys, dtype=torch.bool, device=device).tril()[past:]
    mask = mask[None, None]
    if attention_mask is not None:
        # A padded position sees itself, so that no row is empty.
        itself = torch.eye(keys, dtype=torch.bool, device=device)[past:]
        mask = mask & attention_mask.bool()[:, None, None, :] | itself
    elif past == 0:
        # Rows of several pieces: positions begin anew with each.
        pieces = F.pad(positions[:, 1:] != positions[:, :-1] + 1, (1, 0)).cumsum(-1)
        mask = mask & (pieces[:, None, :, None] == pieces[:, None, None, :])
    return mask


def rotation(positions, head_dim, theta, dtype):
    """Rotates each pair (i, i + head_dim / 2) of a head by position * theta^(-2 i / head_dim)."""
    i = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu")
    frequencies = (theta ** (-i / head_dim)).to(positions.device)
    angles = positions[:, None, :, None].double() * frequencies
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def rotate(x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    return rotate


class PolymoeForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = PolymoeConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # num_items_in_batch

    def __init__(self, config):
        super().__init__(config)
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, embedding):
        self.model.embed_tokens = embedding

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None,
                inputs_embeds=None, labels=None, use_cache=None, num_items_in_batch=None,
                logits_to_keep=0, output_router_logits=None, output_hidden_states=None,
                return_dict=None, cache_position=None, cache=None, **others):
        """attention_mask [batch, keys]: 0 where there is padding, to the left or to the right.
        labels as input_ids; -100 is not predicted. The loss is the mean over what is, or their sum
        over num_items_in_batch. `cache` is past_key_values by its newer name; cache_position says
        nothing that the cache does not know."""
        # Collators that lay pieces behind one another give their lengths beside position_ids.
        lengths = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
        for name, value in others.items():
            if value is None or value is False or (name in lengths and position_ids is not None):
                continue
            raise TypeError(f"PolymoeForCausalLM.forward: {name} is not supported")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("PolymoeForCausalLM.forward: give input_ids or inputs_embeds")
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("PolymoeForCausalLM.forward: attention_mask must be [batch, keys]")
        config = self.config
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = x.shape[:2]
        use_cache = config.use_cache if use_cache is None else use_cache
        checkpointing = self.model.gradient_checkpointing and self.training
        cache = past_key_values if cache is None else cache
        if cache is None and use_cache and not self.training:
            cache = DynamicCache()
        if checkpointing:
            if cache is not None and cache.get_seq_length() > 0:
                raise ValueError("PolymoeForCausalLM.forward: a filled cache under gradient checkpointing")
            cache = None
        past = 0 if cache is None else cache.get_seq_length()
        positions = position_ids
        if positions is None:
            positions = torch.arange(past, past + length, device=x.device)[None]
            if attention_mask is not None:
                positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        positions = positions.expand(batch, length)
        mask = visible_keys(attention_mask, positions, past, length)
        rotate = rotation(positions, config.hidden_size // config.num_attention_heads, config.rope_theta, x.dtype)
        x, streams, router_logits = self.model(x, rotate, mask, cache)
        kept = logits_to_keep if isinstance(logits_to_keep, torch.Tensor) else slice(-logits_to_keep or None, None)
        if labels is not None:
            kept = slice(None)
        x = x[:, kept]
        logits = F.linear(x, self.model.embed_tokens.weight) if config.tie_word_embeddings else self.lm_head(x)
        loss = None
        if labels is not None:
            reduction = "mean" if num_items_in_batch is None else "sum"
            loss = F.cross_entropy(accurate(logits[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(),
                                   reduction=reduction)
            if num_items_in_batch is not None:
                loss = loss / torch.as_tensor(num_items_in_batch, device=loss.device)
        wanted = getattr(config, "output_router_logits", False) if output_router_logits is None else output_router_logits
        output = PolymoeOutput(loss=loss, logits=logits, past_key_values=cache,
                               hidden_states=streams if output_hidden_states else None,
                               router_logits=router_logits if wanted else None)
        return output.to_tuple() if return_dict is False else output
