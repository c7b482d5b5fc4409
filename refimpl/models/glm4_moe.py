"""GLM-4.5: dense first layers, then routed experts with a corrected sigmoid choice beside a shared one; half of a head rotated.

Source: GLM-4.5 technical report, arXiv:2508.06471; its configuration class in transformers.
Pitfalls: the rotated share of a head lost (partial-rotary-key-missing-without-scaling) or its pairs interleaved as in the
dense GLM-4 (rope-interleaved-instead-of-half); QK-norm where `use_qk_norm` is false; experts outside the chosen groups masked
with 0 instead of -inf; the correction bias in the weights (router-bias-leaks-into-weights-ernie).
"""

from __future__ import annotations

from refimpl.blocks import Attention, ChannelMixer, GatedMLP, MoE, RMSNorm, SigmoidTopK
from refimpl.blueprint import Blueprint
from refimpl.config import MOST_PARTS, Config
from refimpl.models.llama_like import ACTIVATIONS, assemble, gated_mlp, head_counts, norm_eps, pre_norm_layers
from refimpl.models.moe_like import experts_per_token, gated_experts, moe_disks
from refimpl.models.rope_config import read_rope

PARTS = {
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.correction_bias": "mlp.gate.e_score_correction_bias",
    "mlp.shared": "mlp.shared_experts",
}


def glm4_moe(config: Config) -> Blueprint:
    """Keys beside the common ones:

    head_dim               default hidden_size / heads
    partial_rotary_factor  default 0.5
    use_qk_norm            RMSNorm on every head of q and k before the rotation; default no
    attention_bias         on q, k and v, not on o
    first_k_dense_replace  how many layers have no experts; default 1
    n_routed_experts, num_experts_per_tok, moe_intermediate_size, n_group, topk_group, norm_topk_prob, routed_scaling_factor
    n_shared_experts       the shared network is that many times as wide as an expert
    num_nextn_predict_layers  modules for multi-token prediction that follow the layers on disk and are not read
    tie_word_embeddings
    """
    count = config.count("num_hidden_layers")
    mixers = [_attention(config)] * count
    config.ignore("output_router_logits")
    norm = RMSNorm(size=config.positive("hidden_size"), eps=_eps(config))
    layers = pre_norm_layers(config, mixers, _channel_mixers(config, count), norm=norm)
    disks = moe_disks(PARTS, PARTS, ignored=_not_read(config, count))
    return assemble(config, layers, tied=config.take("tie_word_embeddings", bool, False), final_norm=norm, disks=disks)


def _eps(config: Config) -> float:
    return norm_eps(config, default=1e-5)


def _attention(config: Config) -> Attention:
    heads, kv_heads = head_counts(config, default_kv_heads=8)
    hidden_size = config.positive("hidden_size")
    head_dim = config.bounded("head_dim", config.take("head_dim", int, hidden_size // heads), at_least=1)
    share = config.take("partial_rotary_factor", float, 0.5)
    return Attention(
        hidden_size=hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(config, head_dim=head_dim, default_theta=1e4, partial=True, default_share=share),
        qk_norm=RMSNorm(size=head_dim, eps=_eps(config)) if config.take("use_qk_norm", bool, False) else None,
        qkv_bias=config.take("attention_bias", bool, False),
    )


def _channel_mixers(config: Config, count: int) -> list[ChannelMixer]:
    dense = config.bounded("first_k_dense_replace", config.take("first_k_dense_replace", int, 1), at_least=0)
    moe = _moe(config)
    if dense == 0:
        config.ignore("intermediate_size")
        return [moe] * count
    mlp = gated_mlp(config)
    return [mlp if index < dense else moe for index in range(count)]


def _moe(config: Config) -> MoE:
    experts = config.positive("n_routed_experts")
    routed = gated_experts(config, experts, width="moe_intermediate_size")
    shared = config.bounded("n_shared_experts", config.take("n_shared_experts", int, 1), at_least=0)
    network = GatedMLP(
        hidden_size=routed.hidden_size,
        intermediate_size=shared * routed.intermediate_size,
        activation=config.choose("hidden_act", ACTIVATIONS, "silu"),
    )
    return MoE(router=_router(config, experts), experts=routed, shared=network if shared else None)


def _router(config: Config, experts: int) -> SigmoidTopK:
    groups, top_groups = (config.bounded(key, config.take(key, int, 1), at_least=1) for key in ("n_group", "topk_group"))
    if experts % groups or top_groups > groups:
        raise ValueError(f"config: {top_groups} of {groups} groups cannot be chosen from {experts} experts")
    return SigmoidTopK(
        hidden_size=config.positive("hidden_size"),
        experts=experts,
        top_k=experts_per_token(config, experts, default=8, available=experts // groups * top_groups),
        renormalise=config.take("norm_topk_prob", bool, True),
        scaling_factor=config.take("routed_scaling_factor", float, 1.0),
        groups=groups,
        top_groups=top_groups,
    )


def _not_read(config: Config, count: int) -> tuple[str, ...]:
    """Patterns of the tensors on disk that belong to no layer."""
    modules = config.take("num_nextn_predict_layers", int, 1)
    if not 0 <= modules <= MOST_PARTS:
        raise ValueError(f"config: num_nextn_predict_layers is {modules} but needs a number of modules, 0 to {MOST_PARTS}")
    patterns = tuple(f"model.layers.{count + index}.*" for index in range(modules))
    # Where there is no shared expert, transformers writes one of width 0.
    return patterns if config.taken.get("n_shared_experts") != 0 else (*patterns, "model.layers.*.mlp.shared_experts.*")
