"""SmolLM3: a Llama whose every fourth layer has no position encoding (NoPE).

Source: HuggingFaceTB/SmolLM3-3B and its configuration class in transformers. NoPE: Yang et al., arXiv:2501.18795.
Pitfalls: the flag read the other way round (smollm3-nope-flag-inverted: 1 means that the layer *has* RoPE); the interval
ignored when the list is absent (smollm3-nope-config-field-unread).
"""

from __future__ import annotations

from refimpl.blocks import Attention
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.llama_like import assemble, gated_mlp, head_counts, layer_types, pre_norm_layers, rope_flags, windows
from refimpl.models.rope_config import read_rope


def smollm3(config: Config) -> Blueprint:
    """Keys beside the common ones:

    no_rope_layers          one entry a layer: 1 has RoPE, 0 has none
    no_rope_layer_interval  in its absence: layers interval - 1, 2 · interval - 1, ... (from 0) have none
    use_sliding_window, sliding_window, layer_types
    attention_bias (on q, k, v and o), mlp_bias, tie_word_embeddings
    """
    count = config.count("num_hidden_layers")
    heads, kv_heads = head_counts(config, default_kv_heads=4)
    hidden_size = config.positive("hidden_size")
    head_dim = config.optional_positive("head_dim") or hidden_size // heads
    rope = read_rope(config, head_dim=head_dim, default_theta=2e6)
    has_rope = rope_flags(config, config.optional("no_rope_layers", list))
    sliding_window = config.optional_positive("sliding_window")
    slides = config.take("use_sliding_window", bool, False) and sliding_window is not None
    derived = ["sliding_attention" if slides and not rotated else "full_attention" for rotated in has_rope]
    layer_windows = windows(config, layer_types(config, derived), sliding_window)
    bias = config.take("attention_bias", bool, False)
    mixers = [
        Attention(
            hidden_size=hidden_size,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            rope=rope if rotated else None,
            window=window,
            qkv_bias=bias,
            output_bias=bias,
        )
        for rotated, window in zip(has_rope, layer_windows, strict=True)
    ]
    config.ignore("max_window_layers")
    mlp = gated_mlp(config, bias=config.take("mlp_bias", bool, False))
    layers = pre_norm_layers(config, mixers, [mlp] * count)
    return assemble(config, layers, tied=config.take("tie_word_embeddings", bool, True))
