"""Mistral: a Llama whose every layer has the same window; and Mistral Small 3.1, which has it inside a multimodal model.

Source: Mistral 7B, arXiv:2310.06825; the configuration classes of mistral and mistral3 in transformers.
Pitfalls: the window dropped (swa-window-dropped-on-sdpa) or one key too long (swa-window-plus-one-fa): absent it is 4096, and
null in the releases that have none; head_dim taken as hidden / heads (head-dim-derived-from-hidden), also for the frequencies
(rope-table-from-derived-head-dim).
"""

from __future__ import annotations

from refimpl.blocks import Attention
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.llama_like import assemble, gated_mlp, head_counts, pre_norm_layers
from refimpl.models.multimodal import language_part
from refimpl.models.rope_config import read_rope


def mistral(config: Config) -> Blueprint:
    """Keys beside the common ones: head_dim (default hidden_size / heads), sliding_window (of all layers; default 4096, null
    for none), tie_word_embeddings.
    """
    count = config.count("num_hidden_layers")
    hidden_size = config.positive("hidden_size")
    heads, kv_heads = head_counts(config, default_kv_heads=8)
    head_dim = config.optional_positive("head_dim") or hidden_size // heads
    mixer = Attention(
        hidden_size=hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(config, head_dim=head_dim, default_theta=1e4),
        window=config.optional_positive("sliding_window", 4096),
    )
    layers = pre_norm_layers(config, [mixer] * count, [gated_mlp(config)] * count)
    return assemble(config, layers, tied=config.take("tie_word_embeddings", bool, False))


def mistral3(config: Config) -> Blueprint:
    """`mistral` under `text_config`, beside a Pixtral vision tower."""
    return language_part(
        config,
        mistral,
        text_type="mistral",
        ignored=(
            "image_token_id",
            "multimodal_projector_bias",
            "projector_hidden_act",
            "spatial_merge_size",
            "vision_feature_layer",
        ),
    )
