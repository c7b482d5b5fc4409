"""Mistral Large 3: latent attention with a temperature, dense first layers, routed experts beside a shared one.

The release has a params.json, whose keys and tensors have Mistral's own names; `refimpl.models.mistral4` reads what
transformers makes of the same architecture. They scale differently where YaRN is on. Here `yarn.apply_scale` decides: when it
is false, as released, neither cos and sin nor the softmax have a factor; when it is true the softmax has m², with
m = 0.1 ln(factor) + 1. In a config.json `mscale_all_dim` decides, and the default of its class is 1, so that a conversion that
drops the flag gains m².

Source: Mistral Large 3 release (its params.json) as the engines that load this format compute it.
Pitfalls: the factor of YaRN where `apply_scale` is false, or none in a class whose keys ask for it
(mla-v2-mscale-all-dim-lost-in-refactor); `alpha` and `beta` exchanged, which are beta_slow and beta_fast; the temperature on
the rotated part of a query alone, or counted from 1 as in Llama 4; sigmoid scores or a correction bias as in DeepSeek-V3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from refimpl.blocks import (
    ChannelMixer,
    Embedding,
    Experts,
    GatedMLP,
    Head,
    LatentAttention,
    Layer,
    LogFloor,
    MoE,
    RMSNorm,
    Rope,
    SoftmaxTopK,
    Yarn,
)
from refimpl.blocks.mlp import Activation
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.layers import yarn_softmax_factor
from refimpl.models.disk import Disk, stacked
from refimpl.models.quantized import quantized

MATRICES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
DISK = Disk(
    layer_parts={
        "mixer_norm": "attention_norm",
        "mixer": "attention",
        "mixer.q_a_proj": "attention.wq_a",
        "mixer.q_b_proj": "attention.wq_b",
        "mixer.kv_a_proj": "attention.wkv_a_with_mqa",
        "mixer.kv_b_proj": "attention.wkv_b",
        "mixer.o_proj": "attention.wo",
        "mlp_norm": "ffn_norm",
        "mlp.router": "gate",
        **{f"mlp.{name}": f"feed_forward.{stored}" for name, stored in MATRICES.items()},
        **{f"mlp.shared.{name}": f"shared_experts.{stored}" for name, stored in MATRICES.items()},
        **{f"mlp.experts.{name}.weight": stacked(f"experts.{{expert}}.{stored}.weight") for name, stored in MATRICES.items()},
    },
    embedding="tok_embeddings",
    layers="layers",
    final_norm="norm",
    head="output",
    ignored=("vision_encoder.*", "vision_language_adapter.*", "patch_merger.*", "pre_mm_projector_norm.*"),
)
# `ignore` of the release speaks of these modules by the names that engines give them.
PLAIN = (r".*\.wq_a$", r".*\.wkv_a_with_mqa$")
ACTIVATION: Activation = "silu"
# Switches of the mixture with the only value that a release has.
FIXED: dict[str, Any] = {
    "num_expert_groups": 1,
    "num_expert_groups_per_tok": 1,
    "route_every_n": 1,
    "routed_scale": 1.0,
}


def mistral_large3(config: Config) -> Blueprint:
    """Keys of the params.json:

    dim, n_layers, n_heads, vocab_size, norm_eps; n_kv_heads and head_dim, where they are, follow from the others
    hidden_dim           width of the dense layers
    q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim
    rope_theta, yarn     {factor, original_max_position_embeddings, beta (fast), alpha (slow), apply_scale (default yes)}
                         or null
    llama_4_scaling      {beta, original_max_position_embeddings} of `log_floor_temperature` on every layer, or null
    moe                  {num_experts, num_experts_per_tok, expert_hidden_dim, num_shared_experts, first_k_dense_replace};
                         its other switches as released
    tied_embeddings      default no
    activation           silu
    quantization_config  how the weights are stored (`refimpl.models.quantized`)

    norm_eps is that of the norms between the projections too, as in the engines. The vision encoder is not read.
    """
    norm = RMSNorm(size=config.positive("dim"), eps=_eps(config))
    mixer = _attention(config)
    layers = tuple(Layer(mixer_norm=norm, mixer=mixer, mlp_norm=norm, mlp=mlp) for mlp in _channel_mixers(config))
    vocab_size = config.positive("vocab_size")
    config.choose("activation", {ACTIVATION: None}, ACTIVATION)
    tied = config.take("tied_embeddings", bool, False)
    disks = quantized(config, DISK, plain=PLAIN)
    config.ignore("max_position_embeddings", "max_seq_len", "vision_encoder")
    config.finish()
    blueprint = Blueprint(
        architecture=config.name,
        embedding=Embedding(vocab_size=vocab_size, hidden_size=norm.size),
        layers=layers,
        final_norm=norm,
        head=Head(vocab_size=vocab_size, hidden_size=norm.size, tied=tied),
        layouts=(),
        config=config.values,
    )
    return replace(blueprint, layouts=tuple(disk.layout(blueprint) for disk in disks))


def _eps(config: Config) -> float:
    return config.bounded("norm_eps", config.require("norm_eps", float), at_least=0)


def _attention(config: Config) -> LatentAttention:
    heads = config.positive("n_heads")
    nope, rotated = config.positive("qk_nope_head_dim"), config.positive("qk_rope_head_dim")
    _follows(config, "n_kv_heads", heads)
    _follows(config, "head_dim", nope + rotated)
    rope = _rope(config, rotated)
    return LatentAttention(
        hidden_size=config.positive("dim"),
        heads=heads,
        q_lora_rank=config.positive("q_lora_rank"),
        kv_lora_rank=config.positive("kv_lora_rank"),
        nope_head_dim=nope,
        rope_head_dim=rotated,
        v_head_dim=config.positive("v_head_dim"),
        scale=(nope + rotated) ** -0.5 * rope.softmax_factor,
        rope=rope,
        norm_eps=_eps(config),
        temperature=_temperature(config),
    )


def _follows(config: Config, key: str, value: int) -> None:
    """ValueError where a key that says nothing new contradicts the others."""
    found = config.optional_positive(key, value)
    if found not in (None, value):
        raise ValueError(f"config: {key} is {found} but the other keys make it {value}")


def _rope(config: Config, rotated: int) -> Rope:
    theta = config.bounded("rope_theta", config.require("rope_theta", float), above=1)
    if rotated % 2:
        raise ValueError(f"config: qk_rope_head_dim is {rotated} but rotated entries go in pairs")
    if config.optional("yarn", dict) is None:
        return Rope(rotary_dim=rotated, theta=theta, interleaved=True)
    keys = config.nested("yarn", config.name)
    factor, fast, slow = (keys.bounded(key, keys.require(key, float), above=0) for key in ("factor", "beta", "alpha"))
    scaling = Yarn(
        factor=factor,
        original_max_position_embeddings=keys.positive("original_max_position_embeddings"),
        beta_fast=fast,
        beta_slow=slow,
        truncate=True,
        attention_factor=1.0,
        softmax_factor=yarn_softmax_factor(factor, mscale_all_dim=1.0) if keys.take("apply_scale", bool, True) else 1.0,
    )
    keys.finish()
    return Rope(rotary_dim=rotated, theta=theta, scaling=scaling, interleaved=True)


def _temperature(config: Config) -> LogFloor | None:
    if config.optional("llama_4_scaling", dict) is None:
        return None
    keys = config.nested("llama_4_scaling", config.name)
    scale, floor = keys.require("beta", float), keys.positive("original_max_position_embeddings")
    keys.finish()
    return LogFloor(scale=scale, floor=floor, offset=0)


def _channel_mixers(config: Config) -> list[ChannelMixer]:
    count = config.count("n_layers")
    keys = config.nested("moe", config.name)
    dense = keys.bounded("first_k_dense_replace", keys.require("first_k_dense_replace", int), at_least=0)
    moe = _moe(keys, config.positive("dim"))
    keys.finish()
    mlp = GatedMLP(hidden_size=config.positive("dim"), intermediate_size=config.positive("hidden_dim"), activation=ACTIVATION)
    return [mlp if index < dense else moe for index in range(count)]


def _moe(keys: Config, hidden_size: int) -> MoE:
    """The mixture that the object under `moe` describes."""
    for key, value in FIXED.items():
        if keys.take(key, type(value), value) != value:
            raise ValueError(f"config: {key} is {keys.taken[key]!r} but {keys.name!r} supports {value!r}")
    keys.ignore("expert_parallel", "expert_model_parallel")
    experts, top_k, width = (keys.positive(key) for key in ("num_experts", "num_experts_per_tok", "expert_hidden_dim"))
    if top_k > experts:
        raise ValueError(f"config: num_experts_per_tok is {top_k} but there are {experts} experts")
    shared = keys.bounded("num_shared_experts", keys.require("num_shared_experts", int), at_least=0)
    network = GatedMLP(hidden_size=hidden_size, intermediate_size=shared * width, activation=ACTIVATION)
    return MoE(
        router=SoftmaxTopK(hidden_size=hidden_size, experts=experts, top_k=top_k, renormalise=True),
        experts=Experts(hidden_size=hidden_size, intermediate_size=width, experts=experts, activation=ACTIVATION),
        shared=network if shared else None,
    )
