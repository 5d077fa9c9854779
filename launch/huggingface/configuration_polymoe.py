# SPDX-License-Identifier: Apache-2.0
"""Configuration of the models that polymoe exports where transformers has no class of its own."""
from transformers import PretrainedConfig


class PolymoeConfig(PretrainedConfig):
    """Fields as in config.json:

    hidden_act            the feed-forward's activation, one of modeling_polymoe.ACTIVATIONS and GATES
    activation_order      r of the polynomial ones
    intermediate_size     width of the dense feed-forwards
    qk_norm               RMSNorm of the whole q and k vectors before the split into heads
    num_experts           0 = a dense model; dense_layers lists the layers without experts
    num_shared_experts    experts that see every token, held as one wide feed-forward
    router_scores         softmax or sigmoid
    router_bias_rate      not 0: experts are chosen by score + bias, weighted by score alone
    coefficients_per_expert   one set of activation coefficients per expert, or per layer
    """

    model_type = "polymoe"

    def __init__(self, vocab_size=32000, hidden_size=2048, intermediate_size=8256, num_hidden_layers=24,
                 num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=4096,
                 rms_norm_eps=1e-5, rope_theta=10000.0, initializer_range=0.02, hidden_act="polynorm",
                 activation_order=3, activation_epsilon=1e-6, qk_norm=False, num_experts=0,
                 num_experts_per_tok=1, moe_intermediate_size=0, num_shared_experts=0,
                 dense_layers=(), router_scores="softmax", norm_topk_prob=False, router_bias_rate=0.0,
                 router_aux_loss_coef=0.01, router_z_loss_coef=0.001, coefficients_per_expert=False,
                 use_cache=True, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.initializer_range = initializer_range
        self.hidden_act = hidden_act
        self.activation_order = activation_order
        self.activation_epsilon = activation_epsilon
        self.qk_norm = qk_norm
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.num_shared_experts = num_shared_experts
        self.dense_layers = list(dense_layers)
        self.router_scores = router_scores
        self.norm_topk_prob = norm_topk_prob
        self.router_bias_rate = router_bias_rate
        self.router_aux_loss_coef = router_aux_loss_coef
        self.router_z_loss_coef = router_z_loss_coef
        self.coefficients_per_expert = coefficients_per_expert
        self.use_cache = use_cache
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)
