"""Llama 4: chunked attention with rotation on most layers, full attention without positions on the others, routed experts.

Source: Llama 4 release and its configuration class in transformers. Temperature: Nakanishi, arXiv:2501.19399.
Pitfalls: the flag of the rotation read the other way round (smollm3-nope-flag-inverted); chunks on the layers without
positions (llama4-chunked-layers-swapped), or counted in columns with padding (chunked-mask-left-padding); QK-norm before the
rotation, or no temperature (llama4-qknorm-before-rope-and-no-temperature), or one that counts padding; router weights on the
output of an expert, or on both ends (llama4-router-weight-after-expert, llama4-router-weight-input-and-output), or of
another token (llama4-router-scores-not-transposed).
"""

from __future__ import annotations

from dataclasses import replace

from refimpl.blocks import Attention, ChannelMixer, GatedMLP, LogFloor, MoE, RMSNorm, TopKSigmoid
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.disk import LAYER_PARTS, Disk, fused_columns, transposed
from refimpl.models.llama_like import (
    assemble,
    gated_mlp,
    head_counts,
    layer_types,
    norm_eps,
    pre_norm_layers,
    rope_flags,
    windows,
)
from refimpl.models.moe_like import experts_per_token, gated_experts
from refimpl.models.multimodal import language_part
from refimpl.models.rope_config import read_rope

DISK = Disk(
    layer_parts={
        **LAYER_PARTS,
        "mlp": "feed_forward",
        "mlp.shared": "feed_forward.shared_expert",
        "mlp.experts.gate_proj.weight": fused_columns("feed_forward.experts.gate_up_proj", first=0),
        "mlp.experts.up_proj.weight": fused_columns("feed_forward.experts.gate_up_proj", first=1),
        "mlp.experts.down_proj.weight": transposed("feed_forward.experts.down_proj"),
    }
)


def llama4(config: Config) -> Blueprint:
    """The language model of the multimodal configuration, `llama4_text` under text_config."""
    ignored = ("boi_token_index", "eoi_token_index", "boi_token_id", "eoi_token_id", "image_token_id")
    return language_part(config, llama4_text, text_type="llama4_text", disks=(DISK,), ignored=ignored)


def llama4_text(config: Config) -> Blueprint:
    """Keys beside the common ones:

    no_rope_layers            one entry a layer: 1 rotates, 0 has no positions; null or empty follows the interval
    no_rope_layer_interval    layers interval - 1, 2 · interval - 1, ... (from 0) have no positions; default 4
    attention_chunk_size      default 8192; null is full attention everywhere
    layer_types               full_attention or chunked_attention; by default the layers that rotate are chunked
    use_qk_norm               RMSNorm without weight on q and k after the rotation, where there is one; default true
    attn_temperature_tuning   on layers without positions; default true, and files of transformers 4 have a number for it
    attn_scale, floor_scale   of `log_floor_temperature`; default 0.1 and 8192
    moe_layers                their indices; null is every `interleave_moe_layer_step`-th one (default 1: all)
    intermediate_size         of each expert and of the shared one; intermediate_size_mlp (default 16384): of dense layers
    num_local_experts, num_experts_per_tok (default 1)
    head_dim (default 128), attention_bias (on q, k, v and o), tie_word_embeddings

    The router's noise and its loss concern training.
    """
    norm = RMSNorm(size=config.positive("hidden_size"), eps=norm_eps(config, default=1e-5))
    mixers = _mixers(config, norm.eps)
    layers = pre_norm_layers(config, mixers, _mlps(config), norm=norm)
    config.ignore("router_jitter_noise", "router_aux_loss_coef", "output_router_logits", "for_llm_compressor")
    tied = config.take("tie_word_embeddings", bool, False)
    return assemble(config, layers, tied=tied, final_norm=norm, disks=(DISK,))


def _mixers(config: Config, eps: float) -> list[Attention]:
    hidden_size = config.positive("hidden_size")
    heads, kv_heads = head_counts(config, default_kv_heads=8)
    head_dim = config.optional_positive("head_dim", 128) or hidden_size // heads
    rope = replace(read_rope(config, head_dim=head_dim, default_theta=500000.0), interleaved=True)
    norm = RMSNorm(size=head_dim, eps=eps, weightless=True) if config.take("use_qk_norm", bool, True) else None
    bias = config.take("attention_bias", bool, False)
    temperature = _temperature(config)
    rotates = rope_flags(config, config.optional("no_rope_layers", list) or None)
    return [
        Attention(
            hidden_size=hidden_size,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            rope=rope if rotated else None,
            chunk=chunk,
            qk_norm=norm if rotated else None,
            qk_norm_over="rotated_head",
            qkv_bias=bias,
            output_bias=bias,
            temperature=None if rotated else temperature,
        )
        for rotated, chunk in zip(rotates, _chunks(config, rotates), strict=True)
    ]


def _chunks(config: Config, rotates: list[bool]) -> list[int | None]:
    chunk = config.optional_positive("attention_chunk_size", 8192)
    derived = ["chunked_attention" if rotated and chunk is not None else "full_attention" for rotated in rotates]
    return windows(config, layer_types(config, derived), chunk, kind="chunked_attention", key="attention_chunk_size")


def _temperature(config: Config) -> LogFloor | None:
    key = "attn_temperature_tuning"
    tuned = config.take(key, int if type(config.values.get(key)) is int else bool, True)
    scale = config.take("attn_scale", float, 0.1)
    floor = config.bounded("floor_scale", config.take("floor_scale", int, 8192), at_least=1)
    return LogFloor(scale=scale, floor=floor) if tuned else None


def _mlps(config: Config) -> list[ChannelMixer]:
    count = config.count("num_hidden_layers")
    sparse = _moe_layers(config, count)
    dense_width = config.bounded("intermediate_size_mlp", config.take("intermediate_size_mlp", int, 16384), at_least=1)
    shared = gated_mlp(config)
    moe, dense = _moe(config, shared), replace(shared, intermediate_size=dense_width)
    return [moe if index in sparse else dense for index in range(count)]


def _moe(config: Config, shared: GatedMLP) -> MoE:
    experts = config.count("num_local_experts")
    top_k = experts_per_token(config, experts, default=1)
    return MoE(
        router=TopKSigmoid(hidden_size=shared.hidden_size, experts=experts, top_k=top_k),
        experts=replace(gated_experts(config, experts, width="intermediate_size"), scale_input=True),
        shared=shared,
    )


def _moe_layers(config: Config, count: int) -> list[int]:
    step = config.bounded("interleave_moe_layer_step", config.take("interleave_moe_layer_step", int, 1), at_least=1)
    given = config.optional("moe_layers", list)
    if given is None:
        return list(range(step - 1, count, step))
    if any(type(index) is not int or not 0 <= index < count for index in given):
        raise ValueError(f"config: moe_layers is {given} but needs indices of the {count} layers, from 0")
    return given
