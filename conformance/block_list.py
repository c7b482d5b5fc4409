"""The blocks that are tested: each wiring that the layers of a release have, on sizes of which no two are equal."""

from __future__ import annotations

from typing import Any

from refimpl.blocks import (
    MLP,
    Attention,
    Block,
    Experts,
    GatedDeltaNet,
    GatedMLP,
    Indexer,
    KimiDeltaAttention,
    LatentAttention,
    Layer,
    LayerNorm,
    LogFloor,
    LogLength,
    MoE,
    MultiToken,
    RMSNorm,
    Rope,
    Router,
    SigmoidTopK,
    SoftcappedSoftmax,
    SoftmaxTopK,
    TopKSigmoid,
    TopKSoftmax,
)

WIDTH = 24
ROPE = Rope(rotary_dim=8, theta=1e4)


def _attention(**switches: Any) -> Attention:
    sizes = {"hidden_size": WIDTH, "heads": 6, "kv_heads": 2, "head_dim": 10, "scale": 0.4, "rope": ROPE}
    return Attention(**{**sizes, **switches})


def _latent(**switches: Any) -> LatentAttention:
    sizes = {"heads": 3, "q_lora_rank": 14, "kv_lora_rank": 9, "nope_head_dim": 6, "rope_head_dim": 4, "v_head_dim": 7}
    rope = Rope(rotary_dim=4, theta=1e4, interleaved=True)
    return LatentAttention(**{"hidden_size": WIDTH, **sizes, "scale": 0.4, "rope": rope, "norm_eps": 1e-2, **switches})


def _indexed(**switches: Any) -> LatentAttention:
    rope = Rope(rotary_dim=4, theta=1e4)
    sizes = {"hidden_size": WIDTH, "q_lora_rank": 14, "heads": 8, "head_dim": 10, "top_k": 3}
    return _latent(indexer=Indexer(rope=rope, norm_eps=1e-2, **sizes), **switches)


def _delta(**switches: Any) -> GatedDeltaNet:
    sizes = {"key_heads": 2, "value_heads": 6, "key_head_dim": 5, "value_head_dim": 7, "conv_width": 4}
    return GatedDeltaNet(**{"hidden_size": WIDTH, **sizes, "norm_eps": 1e-2, **switches})


def _kimi(**switches: Any) -> KimiDeltaAttention:
    sizes = {"heads": 3, "head_dim": 7, "conv_width": 4}
    return KimiDeltaAttention(**{"hidden_size": WIDTH, **sizes, "norm_eps": 1e-2, **switches})


def _gated(**switches: Any) -> GatedMLP:
    return GatedMLP(hidden_size=WIDTH, intermediate_size=28, **switches)


def _router(kind: type[Router], **switches: Any) -> Router:
    return kind(**{"hidden_size": WIDTH, "experts": 7, "top_k": 2, **switches})


def _moe(
    router: Router, *, factor: float | None = None, shared_gate: bool = False, shared: bool = False, **experts: Any
) -> MoE:
    return MoE(
        router=router,
        experts=Experts(hidden_size=WIDTH, intermediate_size=10, experts=router.experts, **experts),
        shared=GatedMLP(hidden_size=WIDTH, intermediate_size=14) if shared or shared_gate else None,
        shared_gate=shared_gate,
        factor=factor,
    )


def _norm(**switches: Any) -> RMSNorm:
    return RMSNorm(size=WIDTH, eps=1e-2, **switches)


def _multi_token(norm: RMSNorm, mixer: Attention) -> MultiToken:
    layer = Layer(mixer=mixer, mlp=_gated(), mixer_norm=norm, mlp_norm=norm)
    return MultiToken(hidden_size=WIDTH, enorm=norm, hnorm=norm, layer=layer, norm=norm)


HEAD_NORM = RMSNorm(size=10, eps=1e-2)
# Level name -> variant -> block.
BLOCKS: dict[str, dict[str, Block]] = {
    "attention_block": {
        "rope": _attention(),
        "nope": _attention(rope=None),
        "qk_norm": _attention(qk_norm=HEAD_NORM),
        "window_bias": _attention(window=4, qkv_bias=True, output_bias=True),
        "interleaved": _attention(rope=Rope(rotary_dim=6, theta=1e4, interleaved=True)),
        "sinks": _attention(window=4, sinks=True, qkv_bias=True),
        "softcap_temperature": _attention(softcap=2.0, temperature=LogLength(length=4)),
        "nope_temperature": _attention(rope=None, temperature=LogFloor(scale=0.5, floor=3)),
        "flat_qk_norm": _attention(qk_norm=HEAD_NORM, qk_norm_over="projection"),
        "rotated_qk_norm": _attention(qk_norm=HEAD_NORM, qk_norm_over="rotated_head"),
        "chunk": _attention(chunk=4),
        "output_gate": _attention(output_gate=True, qk_norm=RMSNorm(size=10, eps=1e-2, zero_centred=True)),
        "output_gate_bias": _attention(output_gate=True, qkv_bias=True, output_bias=True),
    },
    "gated_delta_net_block": {
        "threefold": _delta(),
        "equal_groups": _delta(value_heads=2),
        "two_taps": _delta(key_heads=1, conv_width=2),
    },
    "kimi_delta_attention_block": {"plain": _kimi(), "wide_heads": _kimi(heads=1, head_dim=13)},
    "latent_attention_block": {
        "absorbed": _latent(),
        "expanded": _latent(absorbed=False),
        "absorbed_whole_query": _latent(q_lora_rank=None),
        "expanded_whole_query": _latent(q_lora_rank=None, absorbed=False),
        "absorbed_half_split": _latent(rope=Rope(rotary_dim=4, theta=1e4)),
        "absorbed_nope": _latent(rope=None),
        "absorbed_temperature": _latent(bias=True, temperature=LogFloor(scale=0.5, floor=3)),
        "expanded_temperature": _latent(bias=True, temperature=LogFloor(scale=0.5, floor=3), absorbed=False),
        "absorbed_indexer": _indexed(),
        "expanded_indexer": _indexed(absorbed=False),
    },
    "gated_mlp_block": {
        "silu": _gated(),
        "gelu_tanh": _gated(activation="gelu_tanh", bias=True),
    },
    "mlp_block": {"gelu": MLP(hidden_size=WIDTH, intermediate_size=28, activation="gelu")},
    "moe_block": {
        "top_k_softmax": _moe(_router(TopKSoftmax, bias=True), activation="clamped_swiglu", alpha=1.702, limit=1.25, bias=True),
        "softmax_top_k": _moe(_router(SoftmaxTopK, renormalise=True)),
        "shared_gate": _moe(_router(SoftmaxTopK, renormalise=False, top_k=3), shared_gate=True),
        "softcapped_softmax": _moe(
            _router(SoftcappedSoftmax, softcap=2.0), shared=True, factor=0.5**0.5, activation="gelu_tanh"
        ),
        "sigmoid": _moe(_router(SigmoidTopK, renormalise=True, scaling_factor=2.5, top_k=3), shared=True),
        "groups": _moe(_router(SigmoidTopK, renormalise=False, experts=8, groups=4, top_groups=2)),
        "top_k_sigmoid": _moe(_router(TopKSigmoid, top_k=1), shared=True, scale_input=True),
    },
    "decoder_layer": {
        "pre_norm": Layer(mixer=_attention(), mlp=_gated(), mixer_norm=_norm(), mlp_norm=_norm()),
        "post_norm": Layer(mixer=_attention(qk_norm=HEAD_NORM), mlp=_gated(), mixer_post_norm=_norm(), mlp_post_norm=_norm()),
        "four_norms": Layer(
            mixer=_attention(window=4),
            mlp=_gated(activation="gelu_tanh"),
            **dict.fromkeys(("mixer_norm", "mixer_post_norm", "mlp_norm", "mlp_post_norm"), _norm(zero_centred=True)),
        ),
        "layer_norm": Layer(
            mixer=_attention(rope=None),
            mlp=MLP(hidden_size=WIDTH, intermediate_size=28),
            mixer_norm=LayerNorm(size=WIDTH, eps=1e-2),
            mlp_norm=LayerNorm(size=WIDTH, eps=1e-2),
        ),
    },
    "multi_token_block": {
        "pre_norm": _multi_token(_norm(), _attention(qkv_bias=True)),
        "zero_centred": _multi_token(_norm(zero_centred=True), _attention(qk_norm=HEAD_NORM)),
    },
}
