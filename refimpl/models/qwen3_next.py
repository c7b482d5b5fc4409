"""Qwen3-Next: three Gated DeltaNet layers to one gated attention layer, routed experts beside a gated shared one.

Source: its release and configuration class in transformers; Gated DeltaNet, arXiv:2412.06464.
Pitfalls: q and gate taken as the two halves of q_proj, which go head by head; the rows of in_proj_qkvz, which go by key heads,
taken as all q, all k, all v, all z; the gated norm zero-centred like all the others; heads tiled in place of grouped
(gdn-gva-tile-instead-of-interleave); the rotated share of a head lost (partial-rotary-key-missing-without-scaling); the gate of
the shared expert left out (shared-gate-removed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from refimpl.blocks import Attention, ChannelMixer, GatedDeltaNet, GatedMLP, MoE, RMSNorm, SoftmaxTopK, TokenMixer
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.disk import Module, Recipe, convolution
from refimpl.models.llama_like import ACTIVATIONS, assemble, gated_mlp, head_counts, layer_list, norm_eps, pre_norm_layers
from refimpl.models.moe_like import experts_per_token, gated_experts, moe_disks, sparse_layers
from refimpl.models.multi_token import multi_token_modules
from refimpl.models.rope_config import read_rope

PARTS: dict[str, str | Recipe] = {
    "mixer.in_proj_qkvz": "linear_attn.in_proj_qkvz",
    "mixer.in_proj_ba": "linear_attn.in_proj_ba",
    "mixer.conv1d.weight": convolution("linear_attn.conv1d.weight"),
    "mixer.a_log": "linear_attn.A_log",
    "mixer.dt_bias": "linear_attn.dt_bias",
    "mixer.norm": "linear_attn.norm",
    "mixer.out_proj": "linear_attn.out_proj",
    "mlp.router": "mlp.gate",
    "mlp.shared": "mlp.shared_expert",
    "mlp.shared_gate": "mlp.shared_expert_gate",
}
MODULE = Module(
    layer="mtp.layers.0",
    parts={
        "enorm": "mtp.pre_fc_norm_embedding",
        "hnorm": "mtp.pre_fc_norm_hidden",
        "eh_proj": "mtp.fc",
        "norm": "mtp.norm",
    },
)
LAYER_TYPES = ("linear_attention", "full_attention")


def qwen3_next(config: Config) -> Blueprint:
    """Keys beside the common ones:

    layer_types             linear_attention or full_attention for each layer; by default every `full_attention_interval`-th
                            (default 4) is full_attention
    linear_num_key_heads, linear_num_value_heads, linear_key_head_dim, linear_value_head_dim, linear_conv_kernel_dim
                            of linear attention; default 16, 32, 128, 128, 4
    head_dim                of full attention; default 256
    partial_rotary_factor   default 0.25
    attention_bias          on q, k, v and o of full attention
    num_experts, num_experts_per_tok (default 10), moe_intermediate_size, shared_expert_intermediate_size (default 512)
    norm_topk_prob          default yes
    decoder_sparse_step, mlp_only_layers: which layers have experts (`refimpl.models.moe_like`)
    num_nextn_predict_layers  modules for multi-token prediction, 0 or 1; no file says so and the release has one, the default
    tie_word_embeddings
    """
    count = config.count("num_hidden_layers")
    if config.take("use_sliding_window", bool, False):
        raise ValueError(f"config: use_sliding_window is true but {config.name!r} has no windows")
    config.ignore("output_router_logits", "router_aux_loss_coef")
    eps = norm_eps(config)
    norm = RMSNorm(size=config.positive("hidden_size"), eps=eps, zero_centred=True)
    attention, moe = _attention(config, eps), _moe(config)
    layers = pre_norm_layers(config, _mixers(config, attention, count, eps), _channel_mixers(config, moe, count), norm=norm)
    modules = multi_token_modules(config, attention, moe, norm=norm, default=1)
    if len(modules) > 1:
        raise ValueError(f"config: num_nextn_predict_layers is {len(modules)} but {config.name!r} has at most one module")
    disks = [replace(disk, module=MODULE) for disk in moe_disks(PARTS, PARTS)]
    tied = config.take("tie_word_embeddings", bool, False)
    return assemble(config, layers, tied=tied, final_norm=norm, disks=disks, multi_token=modules)


def _mixers(config: Config, attention: Attention, count: int, eps: float) -> list[TokenMixer]:
    linear = _linear_attention(config, eps)
    return [attention if kind == "full_attention" else linear for kind in _layer_types(config, count)]


def _layer_types(config: Config, count: int) -> Sequence[str]:
    interval = config.bounded("full_attention_interval", config.take("full_attention_interval", int, 4), at_least=1)
    derived = ["linear_attention" if (index + 1) % interval else "full_attention" for index in range(count)]
    return layer_list(config, "layer_types", LAYER_TYPES) or derived


def _linear_attention(config: Config, eps: float) -> GatedDeltaNet:
    if ACTIVATIONS.get(config.take("hidden_act", str, "silu")) != "silu":
        raise ValueError(f"config: hidden_act is {config.taken['hidden_act']!r} but {config.name!r} supports 'silu'")
    key_heads, value_heads = (_size(config, f"linear_num_{kind}_heads", heads) for kind, heads in (("key", 16), ("value", 32)))
    if value_heads % key_heads:
        raise ValueError(
            f"config: linear_num_value_heads is {value_heads}, which linear_num_key_heads = {key_heads} does not divide"
        )
    return GatedDeltaNet(
        hidden_size=config.positive("hidden_size"),
        key_heads=key_heads,
        value_heads=value_heads,
        key_head_dim=_size(config, "linear_key_head_dim", 128),
        value_head_dim=_size(config, "linear_value_head_dim", 128),
        conv_width=_size(config, "linear_conv_kernel_dim", 4),
        norm_eps=eps,
    )


def _attention(config: Config, eps: float) -> Attention:
    heads, kv_heads = head_counts(config, default_kv_heads=2)
    head_dim = _size(config, "head_dim", 256)
    bias = config.take("attention_bias", bool, False)
    return Attention(
        hidden_size=config.positive("hidden_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(config, head_dim=head_dim, default_theta=1e4, partial=True, default_dim=head_dim // 4),
        qk_norm=RMSNorm(size=head_dim, eps=eps, zero_centred=True),
        qkv_bias=bias,
        output_bias=bias,
        output_gate=True,
    )


def _moe(config: Config) -> MoE:
    experts = config.positive("num_experts")
    routed = gated_experts(config, experts, width="moe_intermediate_size")
    return MoE(
        router=SoftmaxTopK(
            hidden_size=routed.hidden_size,
            experts=experts,
            top_k=experts_per_token(config, experts, default=10),
            renormalise=config.take("norm_topk_prob", bool, True),
        ),
        experts=routed,
        shared=GatedMLP(
            hidden_size=routed.hidden_size,
            intermediate_size=_size(config, "shared_expert_intermediate_size", 512),
            activation=config.choose("hidden_act", ACTIVATIONS, "silu"),
        ),
        shared_gate=True,
    )


def _channel_mixers(config: Config, moe: MoE, count: int) -> list[ChannelMixer]:
    sparse = sparse_layers(config, count)
    if all(sparse):
        config.ignore("intermediate_size")
        return [moe] * count
    dense = gated_mlp(config)
    return [moe if has_experts else dense for has_experts in sparse]


def _size(config: Config, key: str, default: int) -> int:
    return config.bounded(key, config.take(key, int, default), at_least=1)
