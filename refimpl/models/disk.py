"""The names of tensors on disk: from the parameters of a blueprint to the recipes of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from refimpl.blueprint import Blueprint
from refimpl.storage import Layout, Part, Shape, Stacked, Stored, Tensor, Transposed

# Makes the recipe of a parameter of a layer from that layer's prefix on disk and the parameter's shape.
Recipe = Callable[[str, Shape], Stored]

# The name of a part of a layer here -> on disk, for the descendants of Llama.
LAYER_PARTS: Mapping[str, str | Recipe] = {
    "mixer_norm": "input_layernorm",
    "mixer": "self_attn",
    "mlp_norm": "post_attention_layernorm",
    "mlp": "mlp",
}


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The prefixes of a model's parts on disk.

    layer_parts: of parts of a layer, within it; the longest name that fits counts, and it may be that of one parameter or a
      `Recipe`. ignored: patterns of tensors that are no parameters of the model.
    """

    layer_parts: Mapping[str, str | Recipe] = field(default_factory=lambda: LAYER_PARTS)
    embedding: str = "model.embed_tokens"
    position_embedding: str = ""
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    ignored: tuple[str, ...] = ()

    def layout(self, blueprint: Blueprint) -> Layout:
        """The recipes of all parameters of `blueprint`; a tied head may be stored as well."""
        shapes = blueprint.parameters()
        copies = {f"{self.head}.weight": f"{self.embedding}.weight"} if blueprint.head.tied else {}
        sources = {name: self._source(name, shape) for name, shape in shapes.items()}
        return Layout(sources=sources, ignored=self.ignored, copies=copies)

    def _source(self, name: str, shape: Shape) -> Stored:
        part, rest = name.split(".", 1)
        if part != "layers":
            return Tensor(f"{getattr(self, part)}.{rest}")
        index, inner = rest.split(".", 1)
        prefix = f"{self.layers}.{index}."
        fitting = max((known for known in self.layer_parts if f"{inner}.".startswith(f"{known}.")), key=len)
        target = self.layer_parts[fitting]
        return target(prefix, shape) if callable(target) else Tensor(prefix + target + inner.removeprefix(fitting))


def stacked(name: str) -> Recipe:
    """Experts that are tensors of their own: `name` has a place `{expert}` for the number."""

    def recipe(prefix: str, shape: Shape) -> Stored:
        return Stacked(tuple(Tensor(prefix + name.format(expert=expert)) for expert in range(shape[0])))

    return recipe


def transposed(name: str) -> Recipe:
    """Weights that are stored [in, out]."""
    return lambda prefix, shape: Transposed(Tensor(prefix + name))


def fused_columns(name: str, *, first: int, interleaved: bool = False) -> Recipe:
    """One of two weights that are stored side by side as [in, 2 · out]: half of the columns, or every other one."""

    def recipe(prefix: str, shape: Shape) -> Stored:
        width = shape[-2]
        start, stop, step = (first, 2 * width, 2) if interleaved else (first * width, (first + 1) * width, 1)
        part = Part(source=Tensor(prefix + name), axis=-1, start=start, stop=stop, step=step, whole=2 * width)
        return Transposed(part)

    return recipe
