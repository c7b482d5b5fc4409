"""MiniMax-M2: QK-norm over the whole projection, a part of a head rotated, routed experts with a corrected sigmoid choice.

Source: MiniMax-M2 release; its configuration class in transformers.
Pitfalls: QK-norm head by head (qknorm-placement-three-variants); the rotated share of a head lost
(partial-rotary-key-missing-without-scaling); an epsilon under the weights of the chosen experts; the correction bias in them
(router-bias-leaks-into-weights-ernie).
"""

from __future__ import annotations

from typing import Any

from refimpl.blocks import Attention, MoE, RMSNorm, SigmoidTopK
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.llama_like import assemble, head_counts, norm_eps, pre_norm_layers
from refimpl.models.moe_like import experts_per_token, gated_experts, moe_disks
from refimpl.models.quantized import quantized
from refimpl.models.rope_config import read_rope

PARTS = {
    "mlp.router.weight": "block_sparse_moe.gate.weight",
    "mlp.router.correction_bias": "block_sparse_moe.e_score_correction_bias",
}
HELD_PARTS = {"mlp.router.weight": "mlp.gate.weight", "mlp.router.correction_bias": "mlp.e_score_correction_bias"}

# Switches of the release's own code with the only value that a release has.
FIXED: dict[str, Any] = {
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "use_routing_bias": True,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
}


def minimax_m2(config: Config) -> Blueprint:
    """Keys beside the common ones:

    head_dim             default 128
    rotary_dim           on the hub, partial_rotary_factor as transformers 5 writes it; default all of a head
    num_local_experts, num_experts_per_tok, intermediate_size (of an expert), tie_word_embeddings
    quantization_config  how the weights are stored as published, fp8 in the release (`refimpl.models.quantized`)
    use_qk_norm, qk_norm_type, use_routing_bias, scoring_func, shared_intermediate_size, attn_type_list: as released
    use_mtp, num_mtp_modules, mtp_transformer_layers: no such modules are published
    """
    count = config.count("num_hidden_layers")
    _as_released(config, count)
    config.ignore("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
    config.ignore("use_mtp", "num_mtp_modules", "mtp_transformer_layers")
    layers = pre_norm_layers(config, [_attention(config)] * count, [_moe(config)] * count)
    published, held = moe_disks(PARTS, HELD_PARTS, experts="block_sparse_moe.experts", matrices=("w1", "w3", "w2"))
    disks = (*quantized(config, published), held)
    return assemble(config, layers, tied=config.take("tie_word_embeddings", bool, False), disks=disks)


def _attention(config: Config) -> Attention:
    heads, kv_heads = head_counts(config, default_kv_heads=8)
    head_dim = config.bounded("head_dim", config.take("head_dim", int, 128), at_least=1)
    rotary_dim = config.optional_positive("rotary_dim")
    if rotary_dim is not None and (rotary_dim > head_dim or rotary_dim % 2):
        raise ValueError(f"config: rotary_dim is {rotary_dim} but needs an even number of at most head_dim = {head_dim}")
    rope = read_rope(config, head_dim=head_dim, default_theta=5e6, partial=True, default_dim=rotary_dim)
    if rotary_dim not in (None, rope.rotary_dim):
        raise ValueError(f"config: rotary_dim is {rotary_dim} but partial_rotary_factor makes it {rope.rotary_dim}")
    return Attention(
        hidden_size=config.positive("hidden_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=rope,
        qk_norm=RMSNorm(size=head_dim, eps=norm_eps(config)),
        qk_norm_over="projection",
    )


def _moe(config: Config) -> MoE:
    experts = config.positive("num_local_experts")
    router = SigmoidTopK(
        hidden_size=config.positive("hidden_size"),
        experts=experts,
        top_k=experts_per_token(config, experts, default=8),
        renormalise=True,
        eps=0.0,
    )
    return MoE(router=router, experts=gated_experts(config, experts, width="intermediate_size"))


def _as_released(config: Config, count: int) -> None:
    """ValueError where a switch is set to what no release has."""
    for key, value in FIXED.items():
        found = config.take(key, type(value), value)
        if found != value:
            raise ValueError(f"config: {key} is {found!r} but 'minimax_m2' supports {value!r}")
    kinds = config.optional("attn_type_list", list)
    if kinds is not None and kinds != [1] * count:
        raise ValueError(f"config: attn_type_list is {kinds} but needs 1 (softmax attention) for each of the {count} layers")
