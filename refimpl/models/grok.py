"""Grok 2.5: four norms a layer, few large experts beside an always-on gated MLP, caps on attention, router and logits.

Source: xai-org/grok-2, and SGLang, python/sglang/srt/models/grok.py, the engine that its model card names. Where engines
disagree this is SGLang's reading: rope_type "original" is no scaling, the weights of the chosen experts are not renormalised,
logits are scaled before their cap, GELU is the exact one.
Pitfalls: the sum of both branches not divided by the root of 2 (grok-rmoe-missing-sqrt2); the temperature left out, applied
before the cap or taken as a ratio of lengths (grok-temperature-reciprocal-vs-log); the experts' files of one rank read as all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from refimpl.blocks import (
    Attention,
    Experts,
    GatedMLP,
    GrokYarn,
    Layer,
    LogLength,
    MoE,
    RMSNorm,
    Rope,
    Router,
    SoftcappedSoftmax,
    SoftmaxTopK,
    ThetaScaled,
)
from refimpl.blocks.mlp import Activation
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.disk import Disk, Recipe
from refimpl.models.llama_like import assemble, head_counts
from refimpl.storage import Shape, Sharded, Stacked, Stored

# What SGLang registers for this code; the model_type of the release, "git", is also that of another model.
CLASSES = ("Grok1ForCausalLM", "Grok1ModelForCausalLM")
ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
SCALING_KEYS = ("original_max_position_embeddings", "scaling_factor", "extrapolation_factor", "beta_fast", "beta_slow")


def grok(config: Config) -> Blueprint:
    """Keys beside the common ones; absent ones mean what they do in SGLang:

    head_dim                         default 128
    embedding_multiplier_scale, output_multiplier_scale
    attn_logit_softcapping, router_logit_softcapping (default 30), final_logit_softcapping (default none); 0 or less is none
    attn_temperature_len             default none; 0 or less is none
    num_local_experts, num_experts_per_tok, moe_intermediate_size (default intermediate_size)
    residual_moe                     whether a gated MLP of intermediate_size stands beside the experts, default false
    rope_type                        absent, "" or original: no scaling; yarn = yarn_linear, yarn_log, theta_scale
    hidden_act                       gelu unless it says one of the tanh forms; the release has no such key
    """
    _require_grok(config)
    count = config.count("num_hidden_layers")
    eps = config.bounded("rms_norm_eps", config.require("rms_norm_eps", float), at_least=0)
    norm = RMSNorm(size=config.positive("hidden_size"), eps=eps)
    layer = Layer(
        mixer_norm=norm,
        mixer=_attention(config),
        mixer_post_norm=norm,
        mlp_norm=norm,
        mlp=_feed_forward(config),
        mlp_post_norm=norm,
    )
    blueprint = assemble(
        config,
        [layer] * count,
        tied=False,
        final_norm=norm,
        disks=(DISK,),
        embedding_scale=config.require("embedding_multiplier_scale", float),
        logit_scale=config.require("output_multiplier_scale", float),
        logit_softcap=_cap(config.optional("final_logit_softcapping", float)),
    )
    return replace(blueprint, architecture="grok")


def _require_grok(config: Config) -> None:
    """ValueError for another model of the same model_type, and for what the code of the release has and no release uses."""
    classes = config.optional("architectures", list) or []
    if not any(name in CLASSES for name in classes):
        raise ValueError(f"config: architectures is {classes} but model_type {config.name!r} needs {' or '.join(CLASSES)}")
    _only(config, "sliding_window_size", -1)
    _only(config, "global_attn_every_n", 1)
    _only(config, "rope_rotate_half_dims", False)
    _only(config, "attn_logit_softcapping_method", "tanh")
    _only(config, "tie_word_embeddings", False)


def _only(config: Config, key: str, value: Any) -> None:
    """A key that may be absent, null or `value`."""
    found = config.optional(key, type(value))
    if found not in (None, value):
        raise ValueError(f"config: {key} is {found!r} but only {value!r} is supported")


def _cap(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _attention(config: Config) -> Attention:
    config.positive("num_key_value_heads")
    heads, kv_heads = head_counts(config)
    head_dim = config.bounded("head_dim", config.take("head_dim", int, 128), at_least=1)
    length = config.take("attn_temperature_len", int, -1)
    if length > 0:
        config.bounded("attn_temperature_len", length, at_least=2)
    return Attention(
        hidden_size=config.positive("hidden_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=_rope(config, head_dim),
        softcap=_cap(config.take("attn_logit_softcapping", float, 30.0)),
        temperature=LogLength(length=length) if length > 0 else None,
    )


def _rope(config: Config, head_dim: int) -> Rope:
    if head_dim % 2:
        raise ValueError(f"config: head_dim is {head_dim} but needs an even number, for its entries are rotated in pairs")
    # SGLang takes the whole part of theta.
    theta = config.bounded("rope_theta", float(int(config.take("rope_theta", float, 10000.0))), above=1)
    # They bound tables and multiply a magnitude that SGLang computes and leaves unused.
    config.ignore("max_position_embeddings", "attn_factor")
    return Rope(rotary_dim=head_dim, theta=theta, scaling=_scaling(config))


def _scaling(config: Config) -> GrokYarn | ThetaScaled | None:
    match kind := config.optional("rope_type", str):
        case None | "" | "original":
            config.ignore(*SCALING_KEYS)
            return None
        case "yarn" | "yarn_linear" | "yarn_log":
            return GrokYarn(
                factor=_scaling_factor(config),
                original_max_position_embeddings=config.positive("original_max_position_embeddings"),
                beta_fast=config.bounded("beta_fast", config.take("beta_fast", float, 32.0), above=0),
                beta_slow=config.bounded("beta_slow", config.take("beta_slow", float, 1.0), above=0),
                extrapolation_factor=config.bounded(
                    "extrapolation_factor", config.take("extrapolation_factor", float, 1.0), at_least=0
                ),
                blend="log" if kind == "yarn_log" else "linear",
            )
        case "theta_scale":
            config.ignore("extrapolation_factor", "beta_fast", "beta_slow")
            length = config.bounded(
                "original_max_position_embeddings", config.require("original_max_position_embeddings", int), at_least=7
            )
            return ThetaScaled(factor=_scaling_factor(config), original_max_position_embeddings=length)
    kinds = "'original', 'yarn', 'yarn_linear', 'yarn_log', 'theta_scale'"
    raise ValueError(f"config: rope_type is {kind!r} but must be one of {kinds}")


def _scaling_factor(config: Config) -> float:
    return config.bounded("scaling_factor", config.require("scaling_factor", float), above=0)


def _feed_forward(config: Config) -> MoE:
    hidden_size, activation = config.positive("hidden_size"), config.choose("hidden_act", ACTIVATIONS, "gelu")
    width = config.optional_positive("moe_intermediate_size") or config.positive("intermediate_size")
    count, router = config.count("num_local_experts"), _router(config)
    experts = Experts(hidden_size=hidden_size, intermediate_size=width, experts=count, activation=activation)
    if not config.take("residual_moe", bool, False):
        config.ignore("intermediate_size")
        return MoE(router=router, experts=experts)
    dense = config.positive("intermediate_size")
    shared = GatedMLP(hidden_size=hidden_size, intermediate_size=dense, activation=activation)
    return MoE(router=router, experts=experts, shared=shared, factor=2**-0.5)


def _router(config: Config) -> Router:
    count, top_k = config.count("num_local_experts"), config.positive("num_experts_per_tok")
    if top_k > count:
        raise ValueError(f"config: num_experts_per_tok is {top_k} but num_local_experts is {count}")
    sizes: dict[str, Any] = {"hidden_size": config.positive("hidden_size"), "experts": count, "top_k": top_k}
    cap = _cap(config.take("router_logit_softcapping", float, 30.0))
    return SoftmaxTopK(**sizes, renormalise=False) if cap is None else SoftcappedSoftmax(**sizes, softcap=cap)


def _experts(name: str, *, axis: int) -> Recipe:
    """One tensor an expert, which the release splits along its own width, `axis`, over the ranks."""

    def recipe(prefix: str, shape: Shape) -> Stored:
        """The matrix of every expert, split over ranks."""
        names = (f"{prefix}block_sparse_moe.experts.{expert}.{name}.weight" for expert in range(shape[0]))
        return Stacked(tuple(Sharded(name, axis) for name in names))

    return recipe


DISK = Disk(
    layer_parts={
        "mixer_norm": "pre_attn_norm",
        "mixer": "self_attn",
        "mixer_post_norm": "post_attn_norm",
        "mlp_norm": "pre_moe_norm",
        "mlp.router": "block_sparse_moe.gate",
        "mlp.experts.gate_proj.weight": _experts("w1", axis=-2),
        "mlp.experts.up_proj.weight": _experts("w3", axis=-2),
        "mlp.experts.down_proj.weight": _experts("w2", axis=-1),
        "mlp.shared": "mlp",
        "mlp_post_norm": "post_moe_norm",
    }
)
