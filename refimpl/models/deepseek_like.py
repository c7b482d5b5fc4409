"""What DeepSeek-V3 and its descendants share: latent attention, dense first layers, routed experts beside a shared network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from refimpl.blocks import ChannelMixer, GatedMLP, LatentAttention, MoE, Rope, Router, SigmoidTopK
from refimpl.config import Config
from refimpl.models.disk import Disk
from refimpl.models.llama_like import ACTIVATIONS, gated_mlp
from refimpl.models.moe_like import experts_per_token, gated_experts, moe_disks
from refimpl.models.rope_config import read_rope

MLP_TYPES = ("dense", "sparse")
# The eps that its class gives to the norms between the projections of latent attention, whatever `rms_norm_eps` says.
LATENT_EPS = 1e-6

MOE_PARTS = {
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.correction_bias": "mlp.gate.e_score_correction_bias",
    "mlp.shared": "mlp.shared_experts",
}
LATENT_PARTS = {
    **MOE_PARTS,
    "mixer.q_a_norm": "self_attn.q_a_layernorm",
    "mixer.kv_a_proj": "self_attn.kv_a_proj_with_mqa",
    "mixer.kv_a_norm": "self_attn.kv_a_layernorm",
}


def plain_rotation(config: Config, rotated: int, head_dim: int) -> Rope:
    """All of the rotated entries turn."""
    return read_rope(config, head_dim=rotated, default_theta=1e4)


Rotation = Callable[[Config, int, int], Rope]


def latent_attention(config: Config, *, rotation: Rotation | None = plain_rotation) -> LatentAttention:
    """rotation: reads the rotary keys, given the width of the rotated part and of a whole head; None: no positions.

    Keys beside these:

    q_lora_rank       null: queries without a latent; default 1536
    kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim: default 512, 128, 64, 128
    rope_interleave   whether the rotated pairs are neighbours; default yes
    attention_bias    on the projections to the latents and on o_proj; default no
    num_key_value_heads  no other than the heads; head_dim, qk_head_dim follow from the others and are not read
    """
    heads = config.positive("num_attention_heads")
    if config.optional_positive("num_key_value_heads", heads) not in (None, heads):
        raise ValueError(
            f"config: num_key_value_heads is {config.taken['num_key_value_heads']} but latent attention has as many as "
            f"num_attention_heads = {heads}"
        )
    config.ignore("head_dim", "qk_head_dim")
    nope, rotated = _width(config, "qk_nope_head_dim", 128), _width(config, "qk_rope_head_dim", 64)
    rope = None if rotation is None else _rope(config, rotation, nope, rotated)
    return LatentAttention(
        hidden_size=config.positive("hidden_size"),
        heads=heads,
        q_lora_rank=config.optional_positive("q_lora_rank", 1536),
        kv_lora_rank=_width(config, "kv_lora_rank", 512),
        nope_head_dim=nope,
        rope_head_dim=rotated,
        v_head_dim=_width(config, "v_head_dim", 128),
        scale=(nope + rotated) ** -0.5 * (1.0 if rope is None else rope.softmax_factor),
        rope=rope,
        norm_eps=LATENT_EPS,
        bias=config.take("attention_bias", bool, False),
    )


def _rope(config: Config, rotation: Rotation, nope: int, rotated: int) -> Rope:
    if rotated % 2:
        raise ValueError(f"config: qk_rope_head_dim is {rotated} but rotated entries go in pairs")
    rope = rotation(config, rotated, nope + rotated)
    return replace(rope, interleaved=bool(config.optional("rope_interleave", bool, True)))


def channel_mixers(config: Config, moe: MoE, count: int, types: Sequence[str] | None = None) -> list[ChannelMixer]:
    """Of each layer. Key: first_k_dense_replace, how many layers have no experts; default 1.

    types: dense or sparse, of each layer, in place of that key.
    """
    dense = config.bounded("first_k_dense_replace", config.take("first_k_dense_replace", int, 1), at_least=0)
    if types is None:
        types = ["dense" if index < dense else "sparse" for index in range(count)]
    if "dense" not in types:
        config.ignore("intermediate_size")
        return [moe] * count
    mlp = gated_mlp(config)
    return [mlp if each == "dense" else moe for each in types]


def routed_and_shared(config: Config, router: Router, *, count: str = "n_shared_experts") -> MoE:
    """Keys: moe_intermediate_size; `count`, the shared network is that many times as wide as an expert; default 1."""
    routed = gated_experts(config, router.experts, width="moe_intermediate_size")
    shared = config.bounded(count, config.take(count, int, 1), at_least=0)
    network = GatedMLP(
        hidden_size=routed.hidden_size,
        intermediate_size=shared * routed.intermediate_size,
        activation=config.choose("hidden_act", ACTIVATIONS, "silu"),
    )
    return MoE(router=router, experts=routed, shared=network if shared else None)


def sigmoid_router(
    config: Config,
    *,
    count: str = "n_routed_experts",
    per_token: str = "num_experts_per_tok",
    group_count: str = "n_group",
    renormalise: str = "norm_topk_prob",
) -> SigmoidTopK:
    """Keys, of which four go by the names that are given: n_routed_experts; num_experts_per_tok, default 8; n_group, topk_group
    and routed_scaling_factor, default 1; norm_topk_prob, default yes.
    """
    experts = config.positive(count)
    groups, top_groups = (config.bounded(key, config.take(key, int, 1), at_least=1) for key in (group_count, "topk_group"))
    if experts % groups or top_groups > groups:
        raise ValueError(f"config: {top_groups} of {groups} groups cannot be chosen from {experts} experts")
    return SigmoidTopK(
        hidden_size=config.positive("hidden_size"),
        experts=experts,
        top_k=experts_per_token(config, experts, default=8, available=experts // groups * top_groups, key=per_token),
        renormalise=config.take(renormalise, bool, True),
        scaling_factor=config.take("routed_scaling_factor", float, 1.0),
        groups=groups,
        top_groups=top_groups,
    )


def shared_disks(parts: Mapping[str, str], moe: MoE) -> tuple[Disk, Disk]:
    """The names of the tensors, as published and as transformers 5 holds them; parts: of what is not named as in Llama."""
    # Where there is no shared expert, transformers writes one of width 0.
    return moe_disks(parts, parts, ignored=() if moe.shared else ("model.layers.*.mlp.shared_experts.*",))


def _width(config: Config, key: str, default: int) -> int:
    return config.bounded(key, config.take(key, int, default), at_least=1)
