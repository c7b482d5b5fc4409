"""What the descendants of Llama share: sizes, windows, the gated MLP, the pre-norm layer, the ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from refimpl.blocks import ChannelMixer, Embedding, GatedMLP, Head, Layer, MultiToken, Norm, RMSNorm, TokenMixer
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


def norm_eps(config: Config, *, default: float = 1e-6) -> float:
    """`rms_norm_eps`, 0 or more."""
    return config.bounded("rms_norm_eps", config.take("rms_norm_eps", float, default), at_least=0)


def layer_types(config: Config, derived: list[str]) -> list[str]:
    """The configured kinds of the layers, or the derived ones where the key is absent or null."""
    configured = config.optional("layer_types", list)
    return derived if configured is None else configured


def layer_list(config: Config, key: str, choices: tuple[str, ...]) -> list[str] | None:
    """The list under `key`, of one of `choices` for each layer; None where it is absent or null."""
    found = config.optional(key, list)
    if found is None:
        return None
    count = config.count("num_hidden_layers")
    if len(found) != count:
        raise ValueError(f"config: {key} has {len(found)} entries but num_hidden_layers is {count}")
    unknown = [each for each in found if each not in choices]
    if unknown:
        raise ValueError(f"config: {key} has {unknown[0]!r} but {config.name!r} supports {', '.join(choices)}")
    return found


def windows(
    config: Config,
    layer_types: Sequence[str],
    window: int | None,
    *,
    kind: str = "sliding_attention",
    key: str = "sliding_window",
) -> list[int | None]:
    """The window (or chunk) of each layer, from `layer_types` (full_attention or `kind` a layer) and the value of `key`."""
    count = config.count("num_hidden_layers")
    if len(layer_types) != count:
        raise ValueError(f"config: layer_types has {len(layer_types)} entries but num_hidden_layers is {count}")
    unknown = [each for each in layer_types if each not in ("full_attention", kind)]
    if unknown:
        raise ValueError(f"config: layer_types has {unknown[0]!r} but {config.name!r} supports full_attention, {kind}")
    if kind in layer_types and window is None:
        raise ValueError(f"config: layer_types has {kind}, which needs {key}")
    return [window if each == kind else None for each in layer_types]


def rope_flags(config: Config, flags: list[int] | None) -> list[bool]:
    """Which layers rotate: those of flag 1, or without flags all but every `no_rope_layer_interval`-th one (default 4)."""
    count = config.count("num_hidden_layers")
    interval = config.take("no_rope_layer_interval", int, 4)
    if flags is None:
        if interval < 1:
            raise ValueError(f"config: no_rope_layer_interval is {interval} but needs a positive integer")
        return [(index + 1) % interval != 0 for index in range(count)]
    if len(flags) < count or any(type(flag) not in (int, bool) or flag not in (0, 1) for flag in flags):
        raise ValueError(f"config: no_rope_layers is {flags} but needs 0 or 1 for each of the {count} layers")
    return [bool(flag) for flag in flags[:count]]


def gated_mlp(
    config: Config,
    *,
    width: str = "intermediate_size",
    activation: str = "hidden_act",
    default_activation: str = "silu",
    bias: bool = False,
) -> GatedMLP:
    """The gated MLP whose width and activation stand under the keys `width` and `activation`."""
    return GatedMLP(
        hidden_size=config.positive("hidden_size"),
        intermediate_size=config.positive(width),
        activation=config.choose(activation, ACTIVATIONS, default_activation),
        bias=bias,
    )


def pre_norm_layers(
    config: Config, mixers: Sequence[TokenMixer], mlps: Sequence[ChannelMixer], *, norm: Norm | None = None
) -> tuple[Layer, ...]:
    """Layers with a norm before each branch, a plain RMSNorm unless it is given."""
    norm = norm or RMSNorm(size=config.positive("hidden_size"), eps=norm_eps(config))
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
    multi_token: tuple[MultiToken, ...] = (),
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
        multi_token=multi_token,
    )
    return replace(blueprint, layouts=tuple(disk.layout(blueprint) for disk in disks))
