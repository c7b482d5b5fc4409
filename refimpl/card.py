"""The card of a model: what `refimpl show` prints, from the blueprint alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from refimpl.blocks import (
    MLP,
    Attention,
    GatedDeltaNet,
    GatedMLP,
    KimiDeltaAttention,
    LatentAttention,
    Layer,
    MoE,
    Rope,
    SigmoidTopK,
    Yarn,
)
from refimpl.blueprint import Blueprint

CACHE_FORMAT = "bfloat16"
CONTEXT = 4096
QK_NORMS = {"head": "QK-norm", "projection": "QK-norm of whole projections", "rotated_head": "QK-norm after the rotation"}


def card(blueprint: Blueprint) -> dict[str, Any]:
    """Facts of a model by name, in the order in which they are read; numbers are plain and in base units."""
    first = blueprint.layers[0]
    return {
        "architecture": blueprint.architecture,
        "parameters": blueprint.num_parameters(),
        "active parameters": blueprint.num_active_parameters(),
        **_modules(blueprint),
        "layers": len(blueprint.layers),
        "hidden size": blueprint.hidden_size,
        "vocabulary": blueprint.vocab_size,
        "head": "tied to the embedding" if blueprint.head.tied else "its own matrix",
        "layer plan": plan(blueprint.layers),
        "norm placement": ", ".join(name.replace("_", " ") for name in first.parts() if name.endswith("norm")),
        "cache bytes a token": blueprint.cache_bytes(1, CACHE_FORMAT) - blueprint.cache_bytes(0, CACHE_FORMAT),
        **_constant_state(blueprint),
        f"cache bytes at {CONTEXT} tokens": blueprint.cache_bytes(CONTEXT, CACHE_FORMAT),
        **_expanded_cache(blueprint),
        f"FLOPs a token at {CONTEXT} tokens": blueprint.flops(CONTEXT),
    }


def _modules(blueprint: Blueprint) -> dict[str, Any]:
    """Of a model with modules for multi-token prediction."""
    if not blueprint.multi_token:
        return {}
    return {
        "multi-token modules": len(blueprint.multi_token),
        "parameters with modules": blueprint.num_parameters(multi_token=True),
    }


def _constant_state(blueprint: Blueprint) -> dict[str, int]:
    """Of a model with states that are of one size whatever the length; the bytes at any length include them."""
    size = blueprint.cache_bytes(0, CACHE_FORMAT)
    return {"state bytes of any length": size} if size else {}


def _expanded_cache(blueprint: Blueprint) -> dict[str, int]:
    """What latent attention would keep in its other form."""
    other = blueprint.expanded()
    lengths = {"a token": 1, f"at {CONTEXT} tokens": CONTEXT}
    sizes = {name: other.cache_bytes(length, CACHE_FORMAT) for name, length in lengths.items()}
    sizes["a token"] -= other.cache_bytes(0, CACHE_FORMAT)
    return {f"expanded cache bytes {name}": size for name, size in sizes.items()} if other != blueprint else {}


def plan(layers: Sequence[Layer]) -> list[str]:
    """One line for each kind of layer, with the layers that are of it: "layers 0-2, 4-6: attention ..."."""
    members: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        members.setdefault(describe_layer(layer), []).append(index)
    return [f"layers {_spans(indices)}: {text}" for text, indices in members.items()]


def describe_layer(layer: Layer) -> str:
    """One line about a layer's mixers."""
    return f"{_mixer(layer.mixer)}; {_mlp(layer.mlp)}"


def _mixer(mixer: Any) -> str:
    match mixer:
        case Attention():
            return _attention(mixer)
        case LatentAttention():
            return _latent_attention(mixer)
        case GatedDeltaNet():
            return _gated_delta_net(mixer)
        case KimiDeltaAttention():
            return _delta_attention(mixer)
    return type(mixer).__name__


def _attention(mixer: Attention) -> str:
    parts = [f"attention {mixer.heads} heads of {mixer.head_dim} on {mixer.kv_heads}", _rope(mixer.rope)]
    parts += [f"window {mixer.window}"] if mixer.window else []
    parts += [f"chunks of {mixer.chunk}"] if mixer.chunk else []
    parts += ["sinks"] if mixer.sinks else []
    parts += [f"softcap {mixer.softcap:g}"] if mixer.softcap else []
    parts += ["temperature by position"] if mixer.temperature else []
    parts += [QK_NORMS[mixer.qk_norm_over]] if mixer.qk_norm else []
    parts += ["output gate"] if mixer.output_gate else []
    parts += ["biases"] if mixer.qkv_bias or mixer.output_bias else []
    return ", ".join(parts)


def _latent_attention(mixer: LatentAttention) -> str:
    width = f"{mixer.nope_head_dim} + {mixer.rope_head_dim}"
    parts = [f"latent attention {mixer.heads} heads of {width}, values {mixer.v_head_dim}"]
    parts += [f"latents {mixer.kv_lora_rank}" + (f", of queries {mixer.q_lora_rank}" if mixer.q_lora_rank else "")]
    parts += [_rope(mixer.rope), f"scale {mixer.scale:.4g}"]
    parts += ["temperature by position"] if mixer.temperature else []
    parts += [f"{mixer.indexer.top_k} keys chosen by an indexer"] if mixer.indexer else []
    parts += ["biases"] if mixer.bias else []
    return ", ".join(parts)


def _gated_delta_net(mixer: GatedDeltaNet) -> str:
    heads = f"{mixer.value_heads} heads of {mixer.key_head_dim} x {mixer.value_head_dim} on {mixer.key_heads}"
    return f"gated delta net {heads}, convolution {mixer.conv_width}, decay a head"


def _delta_attention(mixer: KimiDeltaAttention) -> str:
    heads = f"{mixer.heads} heads of {mixer.head_dim} x {mixer.head_dim}"
    return f"Kimi delta attention {heads}, convolution {mixer.conv_width}, decay a channel"


def _rope(rope: Rope | None) -> str:
    if rope is None:
        return "no positions (NoPE)"
    scaling = "" if rope.scaling is None else f" {type(rope.scaling).__name__} x{rope.scaling.factor:g}"
    factor = f" cos·{rope.attention_factor:.4g}" if isinstance(rope.scaling, Yarn) else ""
    return f"RoPE {rope.rotary_dim} of base {rope.theta:g}{scaling}{factor}"


def _mlp(mlp: Any) -> str:
    match mlp:
        case GatedMLP():
            return f"gated MLP {mlp.intermediate_size} ({mlp.activation})" + (", biases" if mlp.bias else "")
        case MLP():
            return f"MLP {mlp.intermediate_size} ({mlp.activation})" + (", biases" if mlp.bias else "")
        case MoE():
            return _moe(mlp)
    return type(mlp).__name__


def _moe(moe: MoE) -> str:
    router, experts = moe.router, moe.experts
    parts = [f"{router.top_k} of {router.experts} experts of {experts.intermediate_size} ({experts.activation})"]
    parts += [f"{type(router).__name__} router"]
    parts += [f"{router.top_groups} of {router.groups} groups"] if isinstance(router, SigmoidTopK) and router.groups > 1 else []
    gated = "gated " if moe.shared_gate else ""
    parts += [f"{gated}shared {_mlp(moe.shared)}"] if moe.shared else []
    parts += ["biases"] if experts.bias else []
    return ", ".join(parts)


def _spans(indices: Sequence[int]) -> str:
    """0, 1, 2, 4 as "0-2, 4"."""
    runs = groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(group) for _, group in runs)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)
