"""The names of tensors on disk: from the parameters of a blueprint to the recipes of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from refimpl.blueprint import Blueprint
from refimpl.quantized_storage import Mxfp4
from refimpl.storage import Joined, Layout, Part, Shape, Squeezed, Stacked, Stored, Tensor, Transposed

# Makes the recipe of a parameter of a layer from that layer's prefix on disk and the parameter's shape.
Recipe = Callable[[str, Shape], Stored]
# Makes the recipe of a quantised release from a parameter's name, its shape and its recipe in floats.
Quantised = Callable[[str, Shape, Stored], Stored]

# The name of a part of a layer here -> on disk, for the descendants of Llama.
LAYER_PARTS: Mapping[str, str | Recipe] = {
    "mixer_norm": "input_layernorm",
    "mixer": "self_attn",
    "mlp_norm": "post_attention_layernorm",
    "mlp": "mlp",
}
# The same of a module for multi-token prediction, whose layer follows the model's on disk, and its copies of the tables.
MODULE_PARTS: Mapping[str, str | Recipe] = {
    "enorm": "enorm",
    "hnorm": "hnorm",
    "eh_proj": "eh_proj",
    "norm": "shared_head.norm",
}
MODULE_COPIES = {"embed_tokens": "embedding", "shared_head.head": "head"}


@dataclass(frozen=True, kw_only=True)
class Module:
    """The prefixes of the only module for multi-token prediction of a model: of its layer, and of what stands beside it."""

    layer: str
    parts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The prefixes of a model's parts on disk.

    layer_parts: of parts of a layer, within it; the longest name that fits counts, and it may be that of one parameter or a
      `Recipe`. ignored: patterns of tensors that are no parameters of the model. quantised: which of the parameters are stored
      in a few bits, and how (`refimpl.models.quantized`). module: absent where modules are further layers (`MODULE_PARTS`),
      each with copies of the tables, of which a `Module` has none.
    """

    layer_parts: Mapping[str, str | Recipe] = field(default_factory=lambda: LAYER_PARTS)
    embedding: str = "model.embed_tokens"
    position_embedding: str = ""
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    ignored: tuple[str, ...] = ()
    quantised: Quantised | None = None
    module: Module | None = None

    def layout(self, blueprint: Blueprint) -> Layout:
        """The recipes of all parameters of `blueprint`; a tied head may be stored as well."""
        shapes = blueprint.parameters()
        copies = {f"{self.head}.weight": f"{self.embedding}.weight"} if blueprint.head.tied else {}
        count = len(blueprint.layers)
        sources = {name: self._stored(name, shape, count) for name, shape in shapes.items()}
        modules = tuple(self._module_copies(blueprint, count + index) for index in range(len(blueprint.multi_token)))
        return Layout(sources=sources, ignored=self.ignored, copies=copies, module_copies=modules)

    def _source(self, name: str, shape: Shape, count: int) -> Stored:
        part, rest = name.split(".", 1)
        if part not in ("layers", "multi_token"):
            return Tensor(f"{getattr(self, part)}.{rest}")
        index, inner = rest.split(".", 1)
        parts = self.layer_parts
        if part == "multi_token" and self.module is not None:
            return self._module_source(self.module, inner, shape)
        if part == "multi_token":
            index, inner, parts = str(count + int(index)), inner.removeprefix("layer."), {**parts, **MODULE_PARTS}
        return _found(parts, f"{self.layers}.{index}.", inner, shape)

    def _module_source(self, module: Module, name: str, shape: Shape) -> Stored:
        part, rest = name.split(".", 1)
        if part == "layer":
            return _found(self.layer_parts, f"{module.layer}.", rest, shape)
        return Tensor(f"{module.parts[part]}.{rest}")

    def _module_copies(self, blueprint: Blueprint, index: int) -> dict[str, str]:
        if self.module is not None:
            return {}
        tables = {"embedding": self.embedding, "head": self.embedding if blueprint.head.tied else self.head}
        return {f"{self.layers}.{index}.{copy}.weight": f"{tables[table]}.weight" for copy, table in MODULE_COPIES.items()}

    def _stored(self, name: str, shape: Shape, count: int) -> Stored:
        source = self._source(name, shape, count)
        return source if self.quantised is None else self.quantised(name, shape, source)


def _found(parts: Mapping[str, str | Recipe], prefix: str, name: str, shape: Shape) -> Stored:
    """The recipe of the parameter `name` of a layer: of the longest of `parts` that it begins with."""
    fitting = max((known for known in parts if f"{name}.".startswith(f"{known}.")), key=len)
    target = parts[fitting]
    return target(prefix, shape) if callable(target) else Tensor(prefix + target + name.removeprefix(fitting))


def squeezed(name: str, *, axes: tuple[int, ...]) -> Recipe:
    """A tensor with axes of size 1 that the parameter has not."""
    return lambda prefix, shape: Squeezed(source=Tensor(prefix + name), axes=axes)


def convolution(*names: str) -> Recipe:
    """Taps [D, W] that are stored as [D, 1, W], or as so many equal shares of the channels, each in a tensor of its own."""

    def recipe(prefix: str, shape: Shape) -> Stored:
        """One tensor, or all of them joined."""
        shares = tuple(Squeezed(source=Tensor(prefix + name), axes=(-2,)) for name in names)
        return shares[0] if len(shares) == 1 else Joined(shares, -2)

    return recipe


def stacked(name: str) -> Recipe:
    """Experts that are tensors of their own: `name` has a place `{expert}` for the number."""

    def recipe(prefix: str, shape: Shape) -> Stored:
        """One tensor an expert."""
        return Stacked(tuple(Tensor(prefix + name.format(expert=expert)) for expert in range(shape[0])))

    return recipe


def transposed(name: str) -> Recipe:
    """Weights that are stored [in, out]."""
    return lambda prefix, shape: Transposed(Tensor(prefix + name))


def fused_columns(name: str, *, first: int, of: int = 2, interleaved: bool = False) -> Recipe:
    """One of `of` weights that are stored side by side as [in, of · out]: a block of columns, or every `of`-th one."""

    def recipe(prefix: str, shape: Shape) -> Stored:
        """A share of the outputs of the fused weight."""
        return Transposed(_share(prefix + name, shape[-2], first=first, of=of, interleaved=interleaved))

    return recipe


def fused_entries(name: str, *, first: int, of: int = 2, interleaved: bool = False) -> Recipe:
    """The same of their biases, which are stored as [of · out]."""

    def recipe(prefix: str, shape: Shape) -> Stored:
        """The same share of the fused bias."""
        return _share(prefix + name, shape[-1], first=first, of=of, interleaved=interleaved)

    return recipe


def mxfp4(name: str) -> Recipe:
    """Weights [out, in] as `name`_blocks and `name`_scales."""
    return lambda prefix, shape: Mxfp4(Tensor(f"{prefix}{name}_blocks"), Tensor(f"{prefix}{name}_scales"))


def fused_mxfp4(name: str, *, first: int) -> Recipe:
    """One of two such weights whose rows alternate in the same blocks and scales."""

    def recipe(prefix: str, shape: Shape) -> Stored:
        """A share of the rows of the fused blocks and scales."""
        blocks, scales = (
            _share(f"{prefix}{name}_{part}", shape[-2], axis=axis, first=first, of=2, interleaved=True)
            for part, axis in (("blocks", -3), ("scales", -2))
        )
        return Mxfp4(blocks, scales)

    return recipe


def _share(name: str, width: int, *, first: int, of: int, interleaved: bool, axis: int = -1) -> Part:
    """One of `of` parts of `width` entries each on one axis of a tensor."""
    start, stop, step = (first, of * width, of) if interleaved else (first * width, (first + 1) * width, 1)
    return Part(source=Tensor(name), axis=axis, start=start, stop=stop, step=step, whole=of * width)
