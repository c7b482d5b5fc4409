"""A blueprint: what a model is, as plain frozen data, and everything that follows from it without any weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from refimpl.blocks import (
    Attention,
    Block,
    Embedding,
    Head,
    Inputs,
    Layer,
    Norm,
    Rope,
    Scoped,
    State,
    StateEntry,
    Weights,
)
from refimpl.numerics import FORMATS, float_format
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """The parts of a model in order.

    names: the parameter's name here -> the tensor's name on disk, for every parameter.
    config: the configuration that it was made from, as published.
    """

    architecture: str
    embedding: Embedding
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Head
    names: Mapping[str, str]
    config: Mapping[str, Any]

    @property
    def vocab_size(self) -> int:
        return self.embedding.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.embedding.hidden_size

    def named(self, disk_name: Callable[[str], str]) -> Blueprint:
        """The same blueprint with the name on disk of every parameter."""
        return replace(self, names={name: disk_name(name) for name in self.parameters()})

    def parts(self) -> dict[str, Block]:
        """The blocks by the prefix of their parameters, in order of computation."""
        layers: dict[str, Block] = {f"layers.{i}": layer for i, layer in enumerate(self.layers)}
        return {"embedding": self.embedding, **layers, "final_norm": self.final_norm, "head": self.head}

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter; a tied table counts once."""
        return {f"{part}.{name}": shape for part, block in self.parts().items() for name, shape in block.parameters().items()}

    def num_parameters(self) -> int:
        """How many numbers the model is made of; a tied table counts once."""
        return sum(prod(shape) for shape in self.parameters().values())

    def num_active_parameters(self) -> int:
        """How many of them one token uses. In a dense model: all."""
        return self.num_parameters()

    def state(self) -> list[dict[str, StateEntry]]:
        """The cache of each layer."""
        return [layer.mixer.state() for layer in self.layers]

    def cache_bytes(self, seq_len: int, dtype: str = "bfloat16") -> int:
        """Bytes of cache that one sequence of `seq_len` tokens needs; a windowed layer keeps its window alone."""
        if not isinstance(seq_len, (int, np.integer)) or seq_len < 0:
            raise ValueError(f"cache_bytes: seq_len is {seq_len!r} but needs a number of tokens, 0 or more")
        elements = sum(entry.elements(int(seq_len)) for layer in self.state() for entry in layer.values())
        return elements * float_format(dtype, among=tuple(FORMATS)).itemsize

    def flops(self, context: int) -> int:
        """Floating-point operations to produce one token that sees `context` tokens (2 a multiply-add)."""
        if not isinstance(context, (int, np.integer)) or context < 0:
            raise ValueError(f"flops: context is {context!r} but needs a number of tokens, 0 or more")
        return sum(block.flops(int(context)) for block in self.parts().values())

    def ropes(self) -> list[Rope]:
        """The distinct rotations that its layers use."""
        mixers = (layer.mixer for layer in self.layers)
        found = [mixer.rope for mixer in mixers if isinstance(mixer, Attention) and mixer.rope is not None]
        return list(dict.fromkeys(found))

    def forward(
        self,
        ops: Ops,
        weights: Weights,
        tokens: Any,
        *,
        positions: Any,
        q_order: Any,
        k_order: Any,
        states: list[State] | None,
        angle_dtype: np.dtype[Any],
    ) -> tuple[Any, list[State]]:
        """The wiring: tokens [B, T] to logits [B, T, V] and the new states, in the interpretation of `ops`.

        positions [B, T] turn the rotations; q_order [B, T] and k_order [B, S] say which keys are seen (`layers.mask`).
        angle_dtype is the format in which frequencies and angles are computed (float32 unless the model is float64).
        """
        rotations = {}
        for index, rope in enumerate(self.ropes()):
            inv_freq = ops.constant(rope.frequencies(angle_dtype))
            options = {} if rope.attention_factor == 1 else {"attention_factor": rope.attention_factor}
            with ops.scope(f"rope.{index}"):
                cos, sin = ops.rope_cos_sin(positions, inv_freq, **options)
                rotations[rope] = ops.tap("cos", cos), ops.tap("sin", sin)
        inputs = Inputs(q_order=q_order, k_order=k_order, rotations=rotations)
        x = ops.tap("embedding", self.embedding(ops, Scoped(weights, "embedding"), tokens))
        new_states = []
        for index, layer in enumerate(self.layers):
            with ops.scope(f"layers.{index}"):
                state = None if states is None else states[index]
                x, new_state = layer(ops, Scoped(weights, f"layers.{index}"), x, inputs, state)
                new_states.append(new_state)
        x = ops.tap("final_norm", self.final_norm(ops, Scoped(weights, "final_norm"), x))
        table = weights["embedding.weight" if self.head.tied else "head.weight"]
        return ops.tap("logits", self.head(ops, table, x)), new_states
