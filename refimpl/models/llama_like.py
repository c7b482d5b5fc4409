"""What the dense descendants of Llama share: sizes, the pre-norm layer, the gated MLP, and the names of tensors on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from refimpl.blocks import Attention, Embedding, GatedMLP, Head, Layer, RMSNorm
from refimpl.blocks.mlp import Activation
from refimpl.blueprint import Blueprint
from refimpl.config import Config

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# The name of a part of a layer here -> on disk, for parts whose parameters keep their own names.
LAYER_PARTS = {
    "mixer_norm": "input_layernorm",
    "mixer": "self_attn",
    "mlp_norm": "post_attention_layernorm",
    "mlp": "mlp",
}
PARTS = {"embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}


def head_counts(config: Config, *, default_kv_heads: int) -> tuple[int, int]:
    """Query heads and key/value heads, which must divide them; null means as many."""
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


def assemble(config: Config, mixers: Sequence[Attention], *, mlp_bias: bool, tied: bool) -> Blueprint:
    """The blueprint around the token mixers: RMSNorm before each branch, gated MLPs, final norm, head."""
    hidden_size = config.positive("hidden_size")
    vocab_size = config.positive("vocab_size")
    norm = RMSNorm(size=hidden_size, eps=norm_eps(config))
    mlp = GatedMLP(
        hidden_size=hidden_size,
        intermediate_size=config.positive("intermediate_size"),
        activation=config.choose("hidden_act", ACTIVATIONS, "silu"),
        bias=mlp_bias,
    )
    config.finish()
    layers = tuple(Layer(mixer_norm=norm, mixer=mixer, mlp_norm=norm, mlp=mlp) for mixer in mixers)
    blueprint = Blueprint(
        architecture=config.name,
        embedding=Embedding(vocab_size=vocab_size, hidden_size=hidden_size),
        layers=layers,
        final_norm=norm,
        head=Head(vocab_size=vocab_size, hidden_size=hidden_size, tied=tied),
        names={},
        config=config.values,
    )
    return blueprint.named(disk_name)


def disk_name(name: str) -> str:
    """`layers.3.mixer.q_proj.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    part, rest = name.split(".", 1)
    if part != "layers":
        return f"{PARTS[part]}.{rest}"
    index, inner, rest = rest.split(".", 2)
    return f"model.layers.{index}.{LAYER_PARTS[inner]}.{rest}"
