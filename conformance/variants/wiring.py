"""Wirings in which several maps of one input are one product, split afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from conformance.variants.variant import Variant
from refimpl.blocks import Attention, Block, GatedMLP, LatentAttention
from refimpl.blocks.base import Inputs, State, Weights
from refimpl.ops import Ops, Wrapper


@dataclass(frozen=True)
class Part:
    """Stands for a matrix whose rows are among those of one product."""

    name: str


class Parts(Mapping[str, Any]):
    """Parameters of which some are parts."""

    def __init__(self, weights: Weights, names: tuple[str, ...]) -> None:
        self._weights, self._names = weights, names

    def __getitem__(self, name: str) -> Any:
        part = name.removesuffix(".weight")
        return Part(part) if part in self._names and part != name else self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


class OneProduct(Wrapper):
    """Linear maps of x by parts are looked up in the product with all of them."""

    def __init__(self, inner: Ops, weights: Weights, names: tuple[str, ...], x: Any) -> None:
        super().__init__(inner)
        matrices = [weights[f"{name}.weight"] for name in names]
        biases = [weights[f"{name}.bias"] for name in names if f"{name}.bias" in weights]
        product = inner.linear(x, np.concatenate(matrices), *([np.concatenate(biases)] if biases else []))
        split = inner.split(product, sizes=tuple(len(matrix) for matrix in matrices))
        self._results = dict(zip(names, split, strict=True))

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        if name == "linear" and isinstance(values[1], Part):
            return self._results[values[1].name]
        return super().call(name, *values, **options)


@dataclass(frozen=True, kw_only=True)
class FusedAttention(Attention):
    """Queries, keys and values by one product."""

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        names = ("q_proj", "k_proj", "v_proj")
        return super().__call__(OneProduct(ops, weights, names, x), Parts(weights, names), x, inputs, state)


@dataclass(frozen=True, kw_only=True)
class FusedLatentAttention(LatentAttention):
    """The latents of queries and of keys by one product."""

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        names = ("q_proj" if self.q_lora_rank is None else "q_a_proj", "kv_a_proj")
        if self.bias and self.q_lora_rank is None:  # of which the queries have no bias
            return super().__call__(ops, weights, x, inputs, state)
        return super().__call__(OneProduct(ops, weights, names, x), Parts(weights, names), x, inputs, state)


@dataclass(frozen=True, kw_only=True)
class FusedGatedMLP(GatedMLP):
    """Gate and up by one product."""

    def __call__(self, ops: Ops, weights: Weights, x: Any) -> Any:
        names = ("gate_proj", "up_proj")
        return super().__call__(OneProduct(ops, weights, names, x), Parts(weights, names), x)


FUSED: dict[type[Block], type[Block]] = {
    Attention: FusedAttention,
    LatentAttention: FusedLatentAttention,
    GatedMLP: FusedGatedMLP,
}


def _fused(*kinds: type[Block]) -> Any:
    """A wiring: blocks of these kinds, wherever they are in another, as their fused ones."""

    def wiring(block: Any) -> Any:
        parts = {field.name: getattr(block, field.name) for field in fields(block)}
        inner = {name: wiring(part) for name, part in parts.items() if isinstance(part, Block) and is_dataclass(part)}
        if type(block) in kinds:
            return FUSED[type(block)](**{**parts, **inner})
        return replace(block, **inner)

    return wiring


VARIANTS = (
    Variant(
        id="qkv-in-one-product",
        says="Queries, keys and values are one product, split afterwards.",
        wiring=_fused(Attention, LatentAttention),
    ),
    Variant(id="gate-and-up-in-one-product", says="Gate and up are one product, split afterwards.", wiring=_fused(GatedMLP)),
)
