"""A blueprint: what a model is, as plain frozen data, and everything that follows from it without any weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refimpl.blocks import (
    Attention,
    Block,
    Embedding,
    Head,
    Inputs,
    LatentAttention,
    Layer,
    MultiToken,
    Norm,
    PositionEmbedding,
    Rope,
    Scoped,
    State,
    StateEntry,
    Temperature,
    Weights,
)
from refimpl.ops import Ops
from refimpl.storage import Layout


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """The parts of a model in order.

    layouts: the ways in which its checkpoints are stored, the release's own first.
    multi_token: modules that predict further tokens, each from the one before; the model itself does not use them, and the
      published counts, the cache and the FLOPs leave them out.
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
    multi_token: tuple[MultiToken, ...] = ()

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

    def modules(self) -> dict[str, MultiToken]:
        """The modules for multi-token prediction by the prefix of their parameters."""
        return {f"multi_token.{i}": module for i, module in enumerate(self.multi_token)}

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter, those of the modules last; a tied table counts once."""
        parts = {**self.parts(), **self.modules()}
        return {f"{part}.{name}": shape for part, block in parts.items() for name, shape in block.parameters().items()}

    def num_parameters(self, *, multi_token: bool = False) -> int:
        """How many numbers the model is made of; a tied table counts once, and buffers (correction biases) do not count.

        multi_token: count the modules for multi-token prediction as well.
        """
        modules = self.multi_token if multi_token else ()
        return sum(block.num_parameters() for block in (*self.parts().values(), *modules))

    def num_active_parameters(self) -> int:
        """How many of them one token uses: of the routed experts top_k out of E, of everything else all."""
        return sum(block.num_active_parameters() for block in self.parts().values())

    def state(self) -> list[dict[str, StateEntry]]:
        """The cache of each layer."""
        return [layer.mixer.state() for layer in self.layers]

    def cache_bytes(self, seq_len: int, dtype: str = "bfloat16") -> int:
        """Bytes of cache that one sequence of `seq_len` tokens needs; a windowed layer keeps its window alone.

        Of 0 tokens: the states that are of one size whatever the length.
        """
        if not isinstance(seq_len, (int, np.integer)) or seq_len < 0:
            raise ValueError(f"cache_bytes: seq_len is {seq_len!r} but needs a number of tokens, 0 or more")
        return sum(entry.nbytes(int(seq_len), dtype) for layer in self.state() for entry in layer.values())

    def flops(self, context: int) -> int:
        """Floating-point operations to produce one token that sees `context` tokens (2 a multiply-add)."""
        if not isinstance(context, (int, np.integer)) or context < 0:
            raise ValueError(f"flops: context is {context!r} but needs a number of tokens, 0 or more")
        return sum(block.flops(int(context)) for block in self.parts().values())

    def attentions(self) -> list[Attention | LatentAttention]:
        """The softmax attentions of the layers and of the modules."""
        layers = (*self.layers, *(module.layer for module in self.multi_token))
        return [layer.mixer for layer in layers if isinstance(layer.mixer, (Attention, LatentAttention))]

    def ropes(self) -> list[Rope]:
        """The distinct rotations that its layers and modules use."""
        return list(dict.fromkeys(rope for mixer in self.attentions() for rope in mixer.ropes()))

    def temperatures(self) -> list[Temperature]:
        """The distinct attention temperatures that its layers and modules use."""
        return list(dict.fromkeys(mixer.temperature for mixer in self.attentions() if mixer.temperature is not None))

    def expanded(self) -> Blueprint:
        """The same model with the keys and values of latent attention made and kept, in place of its latents."""
        modules = tuple(replace(module, layer=_expanded(module.layer)) for module in self.multi_token)
        return replace(self, layers=tuple(map(_expanded, self.layers)), multi_token=modules)

    def with_modules(self, count: int) -> Blueprint:
        """The same model with its first `count` modules for multi-token prediction alone."""
        kept = replace(self, multi_token=self.multi_token[:count])
        names = kept.parameters()
        return replace(kept, layouts=tuple(layout.with_modules(count, names) for layout in self.layouts))

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
        orders = {"q_order": q_order, "k_order": k_order, "past_order": past_order, "ring": ring}
        inputs = self.inputs(ops, positions, angle_dtype, **orders)
        hidden, new_states = self.hidden(ops, weights, tokens, positions, inputs, states)
        return self.logits(ops, weights, hidden), new_states

    def inputs(self, ops: Ops, positions: Any, angle_dtype: np.dtype[Any], **orders: Any) -> Inputs:
        """What the blocks look at beside the hidden state; orders: the other fields of `Inputs`."""
        rotations = self._rotations(ops, positions, angle_dtype)
        temperatures = {each: each(ops, positions, angle_dtype) for each in self.temperatures()}
        return Inputs(rotations=rotations, temperatures=temperatures, **orders)

    def hidden(
        self, ops: Ops, weights: Weights, tokens: Any, positions: Any, inputs: Inputs, states: list[State] | None
    ) -> tuple[Any, list[State]]:
        """Tokens [B, T] to what the head reads, [B, T, D] after the final norm, and the new states."""
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
        return ops.tap("final_norm", self.final_norm(ops, Scoped(weights, "final_norm"), x)), new_states

    def logits(self, ops: Ops, weights: Weights, hidden: Any) -> Any:
        """The head: hidden [B, T, D] to logits [B, T, V]."""
        table = weights["embedding.weight" if self.head.tied else "head.weight"]
        return ops.tap("logits", self.head(ops, table, hidden))

    def predict_further(
        self, ops: Ops, weights: Weights, module: int, tokens: Any, hidden: Any, inputs: Inputs, state: State | None
    ) -> tuple[Any, Any, State]:
        """Module number `module` on pairs of tokens [B, T] and hidden [B, T, D]: its logits, its output, its new state."""
        prefix = f"multi_token.{module}"
        with ops.scope(prefix):
            embedding = ops.tap("embedding", self.embedding(ops, Scoped(weights, "embedding"), tokens))
            block = self.multi_token[module]
            hidden, new_state = block(ops, Scoped(weights, prefix), embedding, hidden, inputs, state)
            return self.logits(ops, weights, hidden), hidden, new_state

    def _rotations(self, ops: Ops, positions: Any, angle_dtype: np.dtype[Any]) -> dict[Rope, tuple[Any, Any]]:
        rotations = {}
        for index, rope in enumerate(self.ropes()):
            inv_freq = ops.constant(rope.frequencies(angle_dtype))
            options = {} if rope.attention_factor == 1 else {"attention_factor": rope.attention_factor}
            with ops.scope(f"rope.{index}"):
                cos, sin = ops.rope_cos_sin(positions, inv_freq, **options)
                rotations[rope] = ops.tap("cos", cos), ops.tap("sin", sin)
        return rotations


def _expanded(layer: Layer) -> Layer:
    mixer = layer.mixer
    return replace(layer, mixer=replace(mixer, absorbed=False)) if isinstance(mixer, LatentAttention) else layer
