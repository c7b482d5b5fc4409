"""One decoder layer: a token mixer and a channel mixer on a residual stream, with norms before, after or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Block, ChannelMixer, Inputs, Scoped, State, TokenMixer, Weights
from refimpl.blocks.norm import Norm
from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class Layer(Block):
    """x = x + post(mixer(pre(x))), then the same with the MLP; an absent norm is the identity.

    Pre-norm (Llama): `mixer_norm` and `mlp_norm`. Post-norm (OLMo 2): `mixer_post_norm` and `mlp_post_norm`, which act on the
    branch and not on the sum. Gemma 3 and Grok have all four.
    """

    mixer: TokenMixer
    mlp: ChannelMixer
    mixer_norm: Norm | None = None
    mlp_norm: Norm | None = None
    mixer_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None

    def parts(self) -> dict[str, Block]:
        """The blocks inside, by the prefix of their parameters, in order of computation."""
        names = ("mixer_norm", "mixer", "mixer_post_norm", "mlp_norm", "mlp", "mlp_post_norm")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def parameters(self) -> dict[str, tuple[int, ...]]:
        return {f"{part}.{name}": shape for part, block in self.parts().items() for name, shape in block.parameters().items()}

    def num_parameters(self) -> int:
        return sum(block.num_parameters() for block in self.parts().values())

    def num_active_parameters(self) -> int:
        return sum(block.num_active_parameters() for block in self.parts().values())

    def flops(self, context: int) -> int:
        return sum(block.flops(context) for block in self.parts().values())

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        branch = self._norm(ops, weights, "mixer_norm", x)
        with ops.scope("mixer"):
            branch, new_state = self.mixer(ops, Scoped(weights, "mixer"), branch, inputs, state)
        branch = self._norm(ops, weights, "mixer_post_norm", branch)
        x = ops.tap("mixer_residual", ops.add(x, branch))
        branch = self._norm(ops, weights, "mlp_norm", x)
        with ops.scope("mlp"):
            branch = self.mlp(ops, Scoped(weights, "mlp"), branch)
        branch = self._norm(ops, weights, "mlp_post_norm", branch)
        return ops.tap("output", ops.add(x, branch)), new_state

    def _norm(self, ops: Ops, weights: Weights, name: str, x: Any) -> Any:
        norm: Norm | None = getattr(self, name)
        return x if norm is None else ops.tap(name, norm(ops, Scoped(weights, name), x))
