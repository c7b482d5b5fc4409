"""What the descendants of Llama share: sizes, windows, the gated MLP, the pre-norm layer, the ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from refimpl.blocks import Attention, ChannelMixer, Embedding, GatedMLP, Head, Layer, Norm, RMSNorm
from refimpl.blocks.mlp import Activation
from refimpl.blueprint import Blueprint
from refimpl.config import Config
from refimpl.models.disk import Disk

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def head_counts(config: Config, *, default_kv_heads: int | None = None) -> tuple[int, int]:
    """Query heads and key/value heads, which must divide them; null means as many, and so does an absent default."""
    heads = config.positive("num_attention_heads")
    kv_heads = config.optional_positive("num_key_value_heads", default_kv_heads) or heads
    if heads % kv_heads:
        raise ValueError(f"config: num_attention_heads is {heads}, which num_key_value_heads = {kv_heads} does not divide")
    return heads, kv_heads


def norm_eps(config: Config) -> float:
    """`rms_norm_eps`, 0 or more."""
    return config.bounded("rms_norm_eps", config.take("rms_norm_eps", float, 1e-6), at_least=0)


def layer_types(config: Config, derived: list[str]) -> list[str]:
    """The configured kinds of the layers, or the derived ones where the key is absent or null."""
    configured = config.optional("layer_types", list)
    return derived if configured is None else configured


def windows(config: Config, layer_types: Sequence[str], sliding_window: int | None) -> list[int | None]:
    """The window of each layer, from `layer_types` (one of full_attention, sliding_attention a layer)."""
    count = config.count("num_hidden_layers")
    if len(layer_types) != count:
        raise ValueError(f"config: layer_types has {len(layer_types)} entries but num_hidden_layers is {count}")
    unknown = [kind for kind in layer_types if kind not in ("full_attention", "sliding_attention")]
    if unknown:
        raise ValueError(
            f"config: layer_types has {unknown[0]!r} but {config.name!r} supports full_attention, sliding_attention"
        )
    if "sliding_attention" in layer_types and sliding_window is None:
        raise ValueError("config: layer_types has sliding_attention, which needs sliding_window")
    return [sliding_window if kind == "sliding_attention" else None for kind in layer_types]


def gated_mlp(config: Config, *, width: str = "intermediate_size", bias: bool = False) -> GatedMLP:
    """The gated MLP whose width stands under the key `width`."""
    return GatedMLP(
        hidden_size=config.positive("hidden_size"),
        intermediate_size=config.positive(width),
        activation=config.choose("hidden_act", ACTIVATIONS, "silu"),
        bias=bias,
    )


def pre_norm_layers(config: Config, mixers: Sequence[Attention], mlps: Sequence[ChannelMixer]) -> tuple[Layer, ...]:
    """Layers with an RMSNorm before each branch."""
    norm = RMSNorm(size=config.positive("hidden_size"), eps=norm_eps(config))
    pairs = zip(mixers, mlps, strict=True)
    return tuple(Layer(mixer_norm=norm, mixer=mixer, mlp_norm=norm, mlp=mlp) for mixer, mlp in pairs)


def assemble(
    config: Config,
    layers: Sequence[Layer],
    *,
    tied: bool,
    final_norm: Norm | None = None,
    disks: Sequence[Disk] = (Disk(),),
    embedding_scale: float | None = None,
    logit_scale: float | None = None,
    logit_softcap: float | None = None,
) -> Blueprint:
    """The blueprint around the layers: embedding, final norm (a plain RMSNorm unless it is given), head. Ends the reading.

    disks: the names under which the parameters are stored, the release's own first.
    """
    hidden_size = config.positive("hidden_size")
    vocab_size = config.positive("vocab_size")
    final_norm = final_norm or RMSNorm(size=hidden_size, eps=norm_eps(config))
    config.finish()
    blueprint = Blueprint(
        architecture=config.name,
        embedding=Embedding(vocab_size=vocab_size, hidden_size=hidden_size, scale=embedding_scale),
        layers=tuple(layers),
        final_norm=final_norm,
        head=Head(vocab_size=vocab_size, hidden_size=hidden_size, tied=tied, scale=logit_scale, softcap=logit_softcap),
        layouts=(),
        config=config.values,
    )
    return replace(blueprint, layouts=tuple(disk.layout(blueprint) for disk in disks))
