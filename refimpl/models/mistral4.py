"""Mistral 4 as transformers has it: the architecture of Mistral Large 3 (`refimpl.models.mistral_large3`) under a config.json.

The keys are those of DeepSeek-V3; what differs is the softmax in place of sigmoids and the temperature of the queries, whose
constants stand among the rotary keys. YaRN's m² multiplies the scale of the softmax wherever `mscale_all_dim` is set, and the
class sets it to 1: a config.json of a release whose params.json has `apply_scale: false` must leave it out, and write
`attention_factor: 1.0`.

Source: the configuration class of mistral4 in transformers.
Pitfalls: the scale without m² (mla-v2-mscale-all-dim-lost-in-refactor); a temperature that counts columns and not positions;
`partial_rotary_factor` taken as a share of the rotated part, of which it is one of the whole head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from refimpl.blocks import LogFloor, RMSNorm, Rope, SoftmaxTopK, Yarn
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.deepseek_like import LATENT_PARTS, channel_mixers, latent_attention, routed_and_shared, shared_disks
from refimpl.models.llama_like import assemble, norm_eps, pre_norm_layers
from refimpl.models.moe_like import experts_per_token
from refimpl.models.quantized import quantized
from refimpl.models.rope_config import read_rope

# The rotary keys of the class, where a file has none.
CLASS_ROPE: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 128.0,
    "original_max_position_embeddings": 8192,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
# Switches of the router with the only value that a release has.
FIXED: dict[str, Any] = {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0}


def mistral4(config: Config) -> Blueprint:
    """Keys beside the common ones:

    those of latent attention and of the experts (`refimpl.models.deepseek_like`), but that absent keys mean q_lora_rank 1024,
    kv_lora_rank 256, qk_nope_head_dim 64, num_experts_per_tok 4 and first_k_dense_replace 0, as in the class
    n_routed_experts, num_experts_per_tok, norm_topk_prob (default yes); n_group, topk_group, routed_scaling_factor: as released
    rope_parameters      of YaRN; among them llama_4_scaling_beta, which with original_max_position_embeddings makes the
                         `log_floor_temperature` of every layer, and partial_rotary_factor, which follows from the widths
    quantization_config  how the weights are stored (`refimpl.models.quantized`)
    tie_word_embeddings
    """
    config.assume(q_lora_rank=1024, kv_lora_rank=256, qk_nope_head_dim=64, first_k_dense_replace=0)
    config.assume(max_position_embeddings=1048576)
    for key, value in FIXED.items():
        if config.take(key, type(value), value) != value:
            raise ValueError(f"config: {key} is {config.taken[key]!r} but {config.name!r} supports {value!r}")
    config.ignore("output_router_logits")
    count = config.count("num_hidden_layers")
    norm = RMSNorm(size=config.positive("hidden_size"), eps=norm_eps(config))
    attention = latent_attention(config, rotation=_rope)
    attention = replace(attention, temperature=_temperature(config, attention.rope))
    moe = routed_and_shared(config, _router(config))
    layers = pre_norm_layers(config, [attention] * count, channel_mixers(config, moe, count), norm=norm)
    # Transformers reads the experts of this architecture in one tensor alone.
    own, held = shared_disks(LATENT_PARTS, moe)
    tied = config.take("tie_word_embeddings", bool, False)
    return assemble(config, layers, tied=tied, final_norm=norm, disks=(held, *quantized(config, own)))


def _rope(config: Config, rotated: int, head_dim: int) -> Rope:
    rope = read_rope(
        config,
        head_dim=head_dim,
        default_theta=1e4,
        partial=True,
        default_dim=rotated,
        default_scaling=CLASS_ROPE,
        beside=("llama_4_scaling_beta", "max_position_embeddings"),
    )
    if rope.rotary_dim != rotated:
        raise ValueError(
            f"config: partial_rotary_factor makes {rope.rotary_dim} of {head_dim} entries rotate "
            f"but qk_rope_head_dim is {rotated}"
        )
    return rope


def _temperature(config: Config, rope: Rope | None) -> LogFloor:
    """Of every layer, from the keys that `_rope` passes by."""
    given = config.optional("rope_parameters", dict) or config.optional("rope_scaling", dict) or CLASS_ROPE
    if rope is None or not isinstance(rope.scaling, Yarn):
        raise ValueError(f"config: rope_type is {given.get('rope_type')!r} but {config.name!r} supports 'yarn'")
    scale = Config(given, config.name).require("llama_4_scaling_beta", float)
    return LogFloor(scale=scale, floor=rope.scaling.original_max_position_embeddings, offset=0)


def _router(config: Config) -> SoftmaxTopK:
    experts = config.positive("n_routed_experts")
    return SoftmaxTopK(
        hidden_size=config.positive("hidden_size"),
        experts=experts,
        top_k=experts_per_token(config, experts, default=4),
        renormalise=config.take("norm_topk_prob", bool, True),
    )
