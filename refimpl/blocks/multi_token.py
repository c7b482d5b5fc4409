"""A module for multi-token prediction: one more layer, which reads the token after the one that the model just read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Block, Inputs, Scoped, State, Weights
from refimpl.blocks.layer import Layer
from refimpl.blocks.norm import Norm
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class MultiToken(Block):
    """output = norm(layer(W [enorm(embedding); hnorm(hidden)])), of which the model's head makes logits.

    Row t pairs the hidden state at a place (after the model's final norm, or the output of the module before) with the
    embedding of the next token that neither has seen, so that module k at place t predicts token t + k + 2. Embedding and
    head are the model's own: a module has no tables. Its layer sees the pairs before it, in a cache of the module's own.
    """

    hidden_size: int
    enorm: Norm
    hnorm: Norm
    layer: Layer
    norm: Norm

    def parts(self) -> dict[str, Block]:
        """The blocks inside, by the prefix of their parameters; the projection `eh_proj` is none."""
        return {name: getattr(self, name) for name in ("enorm", "hnorm", "layer", "norm")}

    def parameters(self) -> dict[str, tuple[int, ...]]:
        found = {f"{part}.{name}": shape for part, block in self.parts().items() for name, shape in block.parameters().items()}
        return {**found, "eh_proj.weight": (self.hidden_size, 2 * self.hidden_size)}

    def num_parameters(self) -> int:
        return sum(block.num_parameters() for block in self.parts().values()) + 2 * self.hidden_size**2

    def num_active_parameters(self) -> int:
        return sum(block.num_active_parameters() for block in self.parts().values()) + 2 * self.hidden_size**2

    def flops(self, context: int) -> int:
        return sum(block.flops(context) for block in self.parts().values()) + 4 * self.hidden_size**2

    def __call__(
        self, ops: Ops, weights: Weights, embedding: Any, hidden: Any, inputs: Inputs, state: State | None
    ) -> tuple[Any, State]:
        """The output for embeddings and hidden states [B, T, D], and the new state of the layer."""
        embedding = ops.tap("enorm", self.enorm(ops, Scoped(weights, "enorm"), embedding))
        hidden = ops.tap("hnorm", self.hnorm(ops, Scoped(weights, "hnorm"), hidden))
        x = ops.tap("input", ops.multi_token_input(embedding, hidden, weights["eh_proj.weight"]))
        x, new_state = self.layer(ops, Scoped(weights, "layer"), x, inputs, state)
        return ops.tap("norm", self.norm(ops, Scoped(weights, "norm"), x)), new_state
