"""Gemma 3: four zero-centred norms a layer, five layers with a window for each without, and a rotation for each of the kinds.

Source: Gemma 3 technical report, arXiv:2503.19786; the configuration classes of gemma3_text and gemma3 in transformers.
The published files leave most keys to the classes, sizes among them, so that their defaults are part of the releases.

Pitfalls: norms without the one (gemma-norm-offset-missing) or with it twice (zero-centred-norm-double-shift); head_dim instead
of query_pre_attn_scalar in the scale (gemma-27b-query-scale), or derived (head-dim-derived-from-hidden); layer 0 taken for a
global one (gemma3-pattern-offset); the pattern read in two places (gemma3-mixed-pattern-sources); the global base or its
scaling on layers with a window (gemma3-local-rope-config-regression); the exact GELU (gelu-exact-for-gelu-new).
"""

from __future__ import annotations

from refimpl.blocks import Attention, GatedMLP, Layer, RMSNorm
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.disk import Disk
from refimpl.models.llama_like import assemble, gated_mlp, head_counts, layer_types, norm_eps, windows
from refimpl.models.multimodal import language_part
from refimpl.models.rope_config import read_ropes

DISK = Disk(
    layer_parts={
        "mixer_norm": "input_layernorm",
        "mixer": "self_attn",
        "mixer_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp": "mlp",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
)
# Of each kind of layer the top-level key of its rotary base, and the default of that.
THETAS = {"full_attention": ("rope_theta", 1e6), "sliding_attention": ("rope_local_base_freq", 1e4)}


def gemma3_text(config: Config) -> Blueprint:
    """Keys beside the common ones:

    query_pre_attn_scalar   the scale of the scores is one over its square root
    sliding_window, layer_types, or in their absence sliding_window_pattern: layers n - 1, 2n - 1, ... (from 0) see all
    rope_theta, rope_scaling of the layers that see all; rope_local_base_freq of the others; or rope_parameters by kind
    hidden_activation, attention_bias (on q, k, v and o), final_logit_softcapping, tie_word_embeddings
    """
    config.assume(
        vocab_size=262_208,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=131_072,
    )
    hidden_size = config.positive("hidden_size")
    norm = RMSNorm(size=hidden_size, eps=norm_eps(config), zero_centred=True)
    mlp = gated_mlp(config, activation="hidden_activation", default_activation="gelu_pytorch_tanh")
    layers = [_layer(mixer, mlp, norm) for mixer in _mixers(config)]
    softcap = config.optional("final_logit_softcapping", float)
    if softcap is not None:
        config.bounded("final_logit_softcapping", softcap, above=0)
    _refuse(config, "attn_logit_softcapping", "whether it applies is not agreed on and no release sets it")
    _refuse(config, "use_bidirectional_attention", "only causal attention is supported")
    return assemble(
        config,
        layers,
        tied=config.take("tie_word_embeddings", bool, True),
        final_norm=norm,
        disks=(DISK,),
        embedding_scale=hidden_size**0.5,
        logit_softcap=softcap,
    )


def gemma3(config: Config) -> Blueprint:
    """`gemma3_text` under `text_config`, beside a SigLIP vision tower."""
    blueprint = language_part(
        config,
        gemma3_text,
        text_type="gemma3_text",
        disks=(DISK,),
        ignored=("boi_token_index", "eoi_token_index", "mm_tokens_per_image"),
    )
    if blueprint.head.softcap is not None:
        raise ValueError(
            f"config: final_logit_softcapping is {blueprint.head.softcap} but must be null inside 'gemma3': whether it applies "
            "there is not agreed on and no release sets it"
        )
    return blueprint


def _layer(mixer: Attention, mlp: GatedMLP, norm: RMSNorm) -> Layer:
    return Layer(mixer_norm=norm, mixer=mixer, mixer_post_norm=norm, mlp_norm=norm, mlp=mlp, mlp_post_norm=norm)


def _mixers(config: Config) -> list[Attention]:
    heads, kv_heads = head_counts(config)
    head_dim = config.bounded("head_dim", config.take("head_dim", int, 256), at_least=1)
    scalar = config.take("query_pre_attn_scalar", float, 256.0)
    bias = config.take("attention_bias", bool, False)
    ropes = read_ropes(config, head_dim=head_dim, thetas=THETAS)
    kinds = _kinds(config)
    return [
        Attention(
            hidden_size=config.positive("hidden_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=config.bounded("query_pre_attn_scalar", scalar, above=0) ** -0.5,
            rope=ropes[kind],
            window=window,
            qk_norm=RMSNorm(size=head_dim, eps=norm_eps(config), zero_centred=True),
            qkv_bias=bias,
            output_bias=bias,
        )
        for kind, window in zip(kinds, windows(config, kinds, config.optional_positive("sliding_window", 4096)), strict=True)
    ]


def _kinds(config: Config) -> list[str]:
    """The kind of each layer."""
    pattern = config.bounded("sliding_window_pattern", config.take("sliding_window_pattern", int, 6), at_least=1)
    count = config.count("num_hidden_layers")
    kinds = layer_types(config, ["sliding_attention" if (index + 1) % pattern else "full_attention" for index in range(count)])
    # transformers writes it beside the layer types, and without them reads the key without the underscore alone.
    trace = config.take("_sliding_window_pattern", int, pattern)
    if trace != pattern and config.values.get("layer_types") is None:
        raise ValueError(
            f"config: _sliding_window_pattern is {trace} but sliding_window_pattern is {pattern}; "
            "without layer_types they must agree"
        )
    return kinds


def _refuse(config: Config, key: str, reason: str) -> None:
    """A switch that must be off: null, false or absent."""
    value = config.values.get(key)
    if value is not None and value is not False:
        raise ValueError(f"config: {key} is {value!r} but must be off for {config.name!r}: {reason}")
    config.ignore(key)
