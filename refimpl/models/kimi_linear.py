"""Kimi Linear: Kimi Delta Attention with latent attention without positions between, routed experts as in DeepSeek-V3.

Source: Kimi Linear, arXiv:2510.26692; its release; its configuration class in transformers.
Pitfalls: layer numbers in `linear_attn_config`, which count from 1; a rotation of the shared part of the keys, which has no
positions; a bias of the decay a channel read as one a head (kda-dt-bias-read-per-head); SiLU for the sigmoid of the gated norm
(gated-norm-sigmoid-vs-silu).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from refimpl.blocks import KimiDeltaAttention, MoE, RMSNorm
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.deepseek_like import (
    LATENT_PARTS,
    MLP_TYPES,
    channel_mixers,
    latent_attention,
    routed_and_shared,
    sigmoid_router,
)
from refimpl.models.disk import Disk, Recipe, convolution, squeezed
from refimpl.models.llama_like import ACTIVATIONS, assemble, layer_list, norm_eps, pre_norm_layers
from refimpl.models.moe_like import moe_disks

LAYER_TYPES = ("linear_attention", "full_attention")
# A_log is stored as [1, 1, H, 1].
A_LOG_AXES = (-4, -3, -1)

PARTS: dict[str, str | Recipe] = {
    **LATENT_PARTS,
    "mixer.norm": "self_attn.o_norm",
}
PUBLISHED: dict[str, str | Recipe] = {
    **PARTS,
    "mixer.conv1d.weight": convolution(*(f"self_attn.{name}_conv1d.weight" for name in "qkv")),
    "mixer.a_log": squeezed("self_attn.A_log", axes=A_LOG_AXES),
    "mlp.router.weight": "block_sparse_moe.gate.weight",
    "mlp.router.correction_bias": "block_sparse_moe.gate.e_score_correction_bias",
    "mlp.shared": "block_sparse_moe.shared_experts",
}
HELD: dict[str, str | Recipe] = {
    **PARTS,
    "mixer.conv1d.weight": convolution("self_attn.conv1d.weight"),
    "mixer.a_log": squeezed("self_attn.forget_gate.A_log", axes=A_LOG_AXES),
    "mixer.dt_bias": "self_attn.forget_gate.dt_bias",
    "mixer.f_a_proj": "self_attn.forget_gate.f_a_proj",
    "mixer.f_b_proj": "self_attn.forget_gate.f_b_proj",
}

# Switches of the release's own code with the only value that it has.
FIXED: dict[str, Any] = {
    "mla_use_nope": True,
    "moe_layer_freq": 1,
    "moe_router_activation_func": "sigmoid",
    "use_grouped_topk": True,
    "num_nextn_predict_layers": 0,
}


def kimi_linear(config: Config) -> Blueprint:
    """Keys beside the common ones:

    linear_attn_config      published: num_heads, head_dim, short_conv_kernel_size; kda_layers and full_attn_layers, numbers of
                            layers from 1
    linear_num_heads, linear_head_dim, linear_conv_kernel_dim, layer_types (linear_attention or full_attention)
                            the same as transformers writes them; default 32, 128, 4 and full_attention where 4 divides i > 0
    those of latent attention (`refimpl.models.deepseek_like`), but q_lora_rank is null where it is absent
    first_k_dense_replace   default 1; mlp_layer_types in its place: dense or sparse for each layer
    num_experts, num_experts_per_token, num_shared_experts, num_expert_group, moe_renormalize: also under the names that
                            DeepSeek-V3 has for them
    routed_scaling_factor   default 2.446
    mla_use_nope, moe_layer_freq, moe_router_activation_func, use_grouped_topk, num_nextn_predict_layers: as released
    tie_word_embeddings

    Nothing rotates, so that rope_theta and rope_scaling mean nothing.
    """
    config.assume(q_lora_rank=None, routed_scaling_factor=2.446)
    for key, value in FIXED.items():
        found = config.take(key, type(value), value)
        if found != value:
            raise ValueError(f"config: {key} is {found!r} but {config.name!r} supports {value!r}")
    config.ignore("rope_theta", "rope_scaling", "rope_parameters", "model_max_length", "max_position_embeddings")
    config.ignore("output_router_logits")
    count = config.count("num_hidden_layers")
    norm = RMSNorm(size=config.positive("hidden_size"), eps=norm_eps(config, default=1e-5))
    kinds, linear = _linear_attention(config, count, norm.eps)
    full = latent_attention(config, rotation=None)
    moe = _moe(config)
    mixers = [full if kind == "full_attention" else linear for kind in kinds]
    mlps = channel_mixers(config, moe, count, layer_list(config, "mlp_layer_types", MLP_TYPES))
    layers = pre_norm_layers(config, mixers, mlps, norm=norm)
    tied = config.take("tie_word_embeddings", bool, False)
    return assemble(config, layers, tied=tied, final_norm=norm, disks=_disks(moe))


def _linear_attention(config: Config, count: int, eps: float) -> tuple[list[str], KimiDeltaAttention]:
    """The kind of each layer, and the mixer of those that are linear."""
    if ACTIVATIONS.get(config.take("hidden_act", str, "silu")) != "silu":
        raise ValueError(f"config: hidden_act is {config.taken['hidden_act']!r} but {config.name!r} supports 'silu'")
    published = Config({"model_type": config.name, **(config.optional("linear_attn_config", dict) or {})})
    mixer = KimiDeltaAttention(
        hidden_size=config.positive("hidden_size"),
        heads=_either(config, "linear_num_heads", published, "num_heads", 32),
        head_dim=_either(config, "linear_head_dim", published, "head_dim", 128),
        conv_width=_either(config, "linear_conv_kernel_dim", published, "short_conv_kernel_size", 4),
        norm_eps=eps,
    )
    named, listed = layer_list(config, "layer_types", LAYER_TYPES), _listed(published, count)
    published.finish()
    if named and listed and named != listed:
        raise ValueError("config: layer_types and linear_attn_config name other layers; one of them must go")
    derived = ["full_attention" if index and index % 4 == 0 else "linear_attention" for index in range(count)]
    return named or listed or derived, mixer


def _listed(published: Config, count: int) -> list[str] | None:
    """The kind of each layer from the two lists of numbers, which count from 1; None where there are none."""
    linear, full = (published.optional(key, list) for key in ("kda_layers", "full_attn_layers"))
    if linear is None and full is None:
        return None
    numbers = [*(linear or ()), *(full or ())]
    if any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(1, count + 1)):
        raise ValueError(
            f"config: kda_layers is {linear} and full_attn_layers is {full} but they must name each of 1 to {count} once"
        )
    return ["full_attention" if number in (full or ()) else "linear_attention" for number in range(1, count + 1)]


def _moe(config: Config) -> MoE:
    router = sigmoid_router(
        config,
        count=_present(config, "num_experts", "num_local_experts"),
        per_token=_present(config, "num_experts_per_token", "num_experts_per_tok"),
        group_count=_present(config, "num_expert_group", "n_group"),
        renormalise=_present(config, "moe_renormalize", "norm_topk_prob"),
    )
    return routed_and_shared(config, router, count=_present(config, "num_shared_experts", "n_shared_experts"))


def _present(config: Config, published: str, renamed: str) -> str:
    """Under which of its two names a key is there; under both it must say the same."""
    if renamed not in config.values:
        return published
    if published not in config.values:
        return renamed
    if config.values[published] != config.values[renamed]:
        raise ValueError(
            f"config: {published} is {config.values[published]} but {renamed} is {config.values[renamed]}; one of them must go"
        )
    config.ignore(renamed)
    return published


def _either(config: Config, key: str, published: Config, inner: str, default: int) -> int:
    """A size at the top level or among the published keys; in both places it must be the same."""
    outer_size, size = config.optional_positive(key), published.optional_positive(inner)
    if outer_size and size and outer_size != size:
        raise ValueError(f"config: {key} is {outer_size} but linear_attn_config has {inner} = {size}; one of them must go")
    return size or outer_size or default


def _disks(moe: MoE) -> tuple[Disk, ...]:
    """The names as published, as transformers 5 holds them, and as it writes them: the dense layers beside the experts."""
    experts, matrices = "block_sparse_moe.experts", ("w1", "w3", "w2")
    # Where there is no shared expert, transformers writes one of width 0.
    ignored = () if moe.shared else ("model.layers.*.shared_experts.*",)
    published, held = moe_disks(PUBLISHED, HELD, experts=experts, matrices=matrices, ignored=ignored)
    written = replace(published, layer_parts={**published.layer_parts, "mlp": "block_sparse_moe"})
    return published, held, written
