"""A blueprint: what a model is, as plain frozen data, and everything that follows from it without any weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    PositionEmbedding,
    Rope,
    Scoped,
    State,
    StateEntry,
    Temperature,
    Weights,
)
from refimpl.numerics import FORMATS, float_format
from refimpl.ops import Ops
from refimpl.storage import Layout


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """The parts of a model in order.

    layouts: the ways in which its checkpoints are stored, the release's own first.
    config: the configuration that it was made from, as published.
    """

    architecture: str
    embedding: Embedding
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Head
    layouts: tuple[Layout, ...]
    config: Mapping[str, Any]
    position_embedding: PositionEmbedding | None = None

    @property
    def vocab_size(self) -> int:
        return self.embedding.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.embedding.hidden_size

    def parts(self) -> dict[str, Block]:
        """The blocks by the prefix of their parameters, in order of computation."""
        layers: dict[str, Block] = {f"layers.{i}": layer for i, layer in enumerate(self.layers)}
        positions = {} if self.position_embedding is None else {"position_embedding": self.position_embedding}
        return {"embedding": self.embedding, **positions, **layers, "final_norm": self.final_norm, "head": self.head}

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter; a tied table counts once."""
        return {f"{part}.{name}": shape for part, block in self.parts().items() for name, shape in block.parameters().items()}

    def num_parameters(self) -> int:
        """How many numbers the model is made of; a tied table counts once, and buffers (correction biases) do not count."""
        return sum(block.num_parameters() for block in self.parts().values())

    def num_active_parameters(self) -> int:
        """How many of them one token uses: of the routed experts top_k out of E, of everything else all."""
        return sum(block.num_active_parameters() for block in self.parts().values())

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

    def attentions(self) -> list[Attention]:
        """The layers' softmax attentions."""
        return [layer.mixer for layer in self.layers if isinstance(layer.mixer, Attention)]

    def ropes(self) -> list[Rope]:
        """The distinct rotations that its layers use."""
        return list(dict.fromkeys(mixer.rope for mixer in self.attentions() if mixer.rope is not None))

    def temperatures(self) -> list[Temperature]:
        """The distinct attention temperatures that its layers use."""
        return list(dict.fromkeys(mixer.temperature for mixer in self.attentions() if mixer.temperature is not None))

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
        past_order: Any = None,
        ring: bool = False,
    ) -> tuple[Any, list[State]]:
        """The wiring: tokens [B, T] to logits [B, T, V] and the new states, in the interpretation of `ops`.

        positions [B, T] turn the rotations; q_order [B, T] and k_order [B, S] say which keys are seen (`layers.mask`).
        angle_dtype is the format in which frequencies, angles and temperatures are computed (float32 unless the model is
        float64). ring: layers with a window keep a ring of it, and with a cache need past_order, the first S - T columns of
        k_order.
        """
        inputs = Inputs(
            q_order=q_order,
            k_order=k_order,
            past_order=past_order,
            rotations=self._rotations(ops, positions, angle_dtype),
            temperatures={each: each(ops, positions, angle_dtype) for each in self.temperatures()},
            ring=ring,
        )
        x = ops.tap("embedding", self.embedding(ops, Scoped(weights, "embedding"), tokens))
        if self.position_embedding is not None:
            places = self.position_embedding(ops, Scoped(weights, "position_embedding"), positions)
            x = ops.tap("position_embedding", ops.add(x, places))
        new_states = []
        for index, layer in enumerate(self.layers):
            with ops.scope(f"layers.{index}"):
                state = None if states is None else states[index]
                x, new_state = layer(ops, Scoped(weights, f"layers.{index}"), x, inputs, state)
                new_states.append(new_state)
        x = ops.tap("final_norm", self.final_norm(ops, Scoped(weights, "final_norm"), x))
        table = weights["embedding.weight" if self.head.tied else "head.weight"]
        return ops.tap("logits", self.head(ops, table, x)), new_states

    def _rotations(self, ops: Ops, positions: Any, angle_dtype: np.dtype[Any]) -> dict[Rope, tuple[Any, Any]]:
        rotations = {}
        for index, rope in enumerate(self.ropes()):
            inv_freq = ops.constant(rope.frequencies(angle_dtype))
            options = {} if rope.attention_factor == 1 else {"attention_factor": rope.attention_factor}
            with ops.scope(f"rope.{index}"):
                cos, sin = ops.rope_cos_sin(positions, inv_freq, **options)
                rotations[rope] = ops.tap("cos", cos), ops.tap("sin", sin)
        return rotations
