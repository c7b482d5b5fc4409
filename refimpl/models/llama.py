"""Llama 3: pre-norm RMSNorm, grouped heads, rotary positions with Llama 3 scaling, SwiGLU.

Source: Llama 3 herd, arXiv:2407.21783; the release's configuration class in transformers.
Pitfalls: scaling ignored (llama3-scaling-ignored) or with other constants (llama3-scaling-wrong-factor-constants); head_dim
taken as hidden / heads where the configuration names it (head-dim-derived-from-hidden).
"""

from __future__ import annotations

from refimpl.blocks import Attention
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.llama_like import assemble, gated_mlp, head_counts, pre_norm_layers
from refimpl.models.rope_config import read_rope


def llama(config: Config) -> Blueprint:
    """Keys beside the common ones: head_dim (default hidden_size / heads), attention_bias (on q, k, v and o), mlp_bias,
    tie_word_embeddings.
    """
    count = config.count("num_hidden_layers")
    heads, kv_heads = head_counts(config)
    head_dim = config.optional_positive("head_dim") or config.positive("hidden_size") // heads
    bias = config.take("attention_bias", bool, False)
    mixer = Attention(
        hidden_size=config.positive("hidden_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(config, head_dim=head_dim, default_theta=1e4),
        qkv_bias=bias,
        output_bias=bias,
    )
    mlp = gated_mlp(config, bias=config.take("mlp_bias", bool, False))
    layers = pre_norm_layers(config, [mixer] * count, [mlp] * count)
    return assemble(config, layers, tied=config.take("tie_word_embeddings", bool, False))
