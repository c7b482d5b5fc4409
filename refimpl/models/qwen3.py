"""Qwen3 (dense): a Llama with RMSNorm on every head of q and k, before the rotation.

Source: Qwen3 technical report, arXiv:2505.09388; its configuration class in transformers.
Pitfalls: the norm after the rotation or over the flat projection (qknorm-placement-three-variants); head_dim taken
as hidden / heads (head-dim-derived-from-hidden).
"""

from __future__ import annotations

from collections.abc import Sequence

from refimpl.blocks import Attention, RMSNorm
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.llama_like import assemble, gated_mlp, head_counts, layer_types, norm_eps, pre_norm_layers, windows
from refimpl.models.rope_config import read_rope


def qwen3(config: Config) -> Blueprint:
    """Keys beside the common ones:

    head_dim            default 128, whatever hidden_size and num_attention_heads are
    use_sliding_window, sliding_window, max_window_layers (the first layers, which stay full), layer_types
    attention_bias (on q, k, v and o), tie_word_embeddings
    """
    mixers = qwen3_attention(config, _windows(config, config.count("num_hidden_layers")))
    mlp = gated_mlp(config)
    layers = pre_norm_layers(config, mixers, [mlp] * len(mixers))
    return assemble(config, layers, tied=config.take("tie_word_embeddings", bool, False))


def qwen3_attention(
    config: Config,
    layer_windows: Sequence[int | None],
    *,
    default_kv_heads: int = 32,
    default_head_dim: int | None = 128,
) -> list[Attention]:
    """The token mixers of all layers, dense or MoE. default_head_dim: None where it is hidden_size / heads."""
    heads, kv_heads = head_counts(config, default_kv_heads=default_kv_heads)
    default_head_dim = default_head_dim or config.positive("hidden_size") // heads
    head_dim = config.bounded("head_dim", config.take("head_dim", int, default_head_dim), at_least=1)
    rope = read_rope(config, head_dim=head_dim, default_theta=1e4)
    bias = config.take("attention_bias", bool, False)
    eps = norm_eps(config)
    return [
        Attention(
            hidden_size=config.positive("hidden_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            rope=rope,
            window=window,
            qk_norm=RMSNorm(size=head_dim, eps=eps),
            qkv_bias=bias,
            output_bias=bias,
        )
        for window in layer_windows
    ]


def _windows(config: Config, count: int) -> list[int | None]:
    sliding_window = config.optional_positive("sliding_window", 4096)
    if not config.take("use_sliding_window", bool, False):
        sliding_window = None
    first = config.take("max_window_layers", int, 28)
    derived = [
        "sliding_attention" if sliding_window is not None and index >= first else "full_attention" for index in range(count)
    ]
    return windows(config, layer_types(config, derived), sliding_window)
