"""What transformers computes inside a model, under the names of this specification's taps.

A module of torch is known by the tensors that it owns, and those by the storage recipes of the blueprint: the module with
`model.layers.0.self_attn.q_proj.weight` shows the tap `layers.0.mixer.q_proj`. Shown are linear maps, norms, feed-forward
networks, layers, the embedding and what goes into the output projection of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from conformance.backends.arrays import from_torch
from refimpl.blocks import Attention, LatentAttention
from refimpl.blueprint import Blueprint
from refimpl.numerics import Array
from refimpl.storage import Tensor


def hooked(network: Any, blueprint: Blueprint, tokens: Array) -> tuple[dict[str, Array], Callable[[], None]]:
    """A dict that the next call of `network` fills, and the function that ends it.

    Outputs whose first axes are not those of `tokens` [B, T], or whose last is not as wide as the parameter says, are no taps:
    some modules return something else than their name suggests.
    """
    taps: dict[str, Array] = {}
    modules = dict(network.named_modules())
    widths = {name: shape[0] for name, shape in blueprint.parameters().items()}
    handles = []

    def keep(tap: str, value: Any, width: int | None) -> None:
        value = value[0] if isinstance(value, tuple) else value
        if hasattr(value, "shape") and tuple(value.shape[:2]) == tokens.shape and width in (None, value.shape[-1]):
            taps.setdefault(tap, from_torch(value.detach()))

    for tap, module, parameter in _owners(blueprint):
        if module in modules:
            width = widths[parameter] if parameter != "embedding.weight" else blueprint.hidden_size
            hook = _after(tap, width, keep)
            handles.append(modules[module].register_forward_hook(hook))
            if tap.endswith("mixer.o_proj") and _is_plain(blueprint, tap):
                handles.append(modules[module].register_forward_pre_hook(_before(tap.replace("o_proj", "attention"), keep)))
    for tap, module in _containers(blueprint, modules):
        handles.append(modules[module].register_forward_hook(_after(tap, blueprint.hidden_size, keep)))

    def end() -> None:
        for handle in handles:
            handle.remove()

    return taps, end


def _after(tap: str, width: int, keep: Callable[[str, Any, int | None], None]) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        keep(tap, output, width)

    return hook


def _before(tap: str, keep: Callable[[str, Any, int | None], None]) -> Callable[..., None]:
    def hook(module: Any, inputs: Any) -> None:
        keep(tap, inputs, None)

    return hook


def _owners(blueprint: Blueprint) -> Iterator[tuple[str, str, str]]:
    """Tap, module that owns its weight as a tensor of its own, and parameter."""
    seen = set()
    for layout in blueprint.layouts:
        for parameter, source in layout.sources.items():
            tap, _, kind = parameter.rpartition(".")
            if kind == "weight" and isinstance(source, Tensor) and not parameter.startswith("multi_token."):
                module = source.name.rpartition(".")[0]
                if (tap, module) not in seen:
                    seen.add((tap, module))
                    yield tap, module, parameter


def _containers(blueprint: Blueprint, modules: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The taps of whole layers and feed-forward networks, and their modules: what holds the modules of their norms."""
    for tap, module, _ in _owners(blueprint):
        parts = tap.split(".")
        if len(parts) == 3 and parts[2] == "mlp_norm":
            layer = module.rpartition(".")[0]
            if layer in modules:
                yield f"{parts[0]}.{parts[1]}.output", layer
            network = next(
                (f"{layer}.{name}" for name in ("mlp", "feed_forward", "block_sparse_moe") if f"{layer}.{name}" in modules), ""
            )
            if network:
                last = "output" if _has_experts(blueprint, int(parts[1])) else "down_proj"
                yield f"{parts[0]}.{parts[1]}.mlp.{last}", network


def _has_experts(blueprint: Blueprint, layer: int) -> bool:
    return any(".experts." in name for name in blueprint.layers[layer].parameters())


def _is_plain(blueprint: Blueprint, tap: str) -> bool:
    """Whether what goes into the output projection is the result of attention itself."""
    mixer = blueprint.layers[int(tap.split(".")[1])].mixer
    return isinstance(mixer, (Attention, LatentAttention)) and not getattr(mixer, "output_gate", False)
