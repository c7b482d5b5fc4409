"""Models whose full attention between layers of linear attention is wired wrongly: its gate, a rotation that it lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from conformance.mutants.mutant import Mutant
from conformance.mutants.wiring import as_kind, with_mixers
from refimpl.blocks import Attention, Inputs, LatentAttention, Rope, State, Weights
from refimpl.ops import Ops, Replaced


class GateInTheSecondHalf(Attention):
    """All queries come first in the projection, then all gates."""

    def _query(self, ops: Ops, weights: Weights, x: Any) -> tuple[Any, Any | None]:
        if not self.output_gate:
            return super()._query(ops, weights, x)
        both = ops.merge_heads(self._project(ops, weights, x, "q", self.heads))
        width = self.heads * self.head_dim
        q, gate = ops.split(both, sizes=(width, width))
        return ops.split_heads(q, heads=self.heads), ops.split_heads(gate, heads=self.heads)


class GateFirst(Attention):
    """A head's gate comes before its query."""

    def _query(self, ops: Ops, weights: Weights, x: Any) -> tuple[Any, Any | None]:
        q, gate = super()._query(ops, weights, x)
        return (q, gate) if gate is None else (gate, q)


class GateThroughSilu(Attention):
    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        other = Replaced(ops, {"sigmoid_gate": lambda y, gate: ops.swiglu(gate, y)})
        return super().__call__(other, weights, x, inputs, state)


class NotGated(Attention):
    def _query(self, ops: Ops, weights: Weights, x: Any) -> tuple[Any, Any | None]:
        return super()._query(ops, weights, x)[0], None


def _rotating(mixer: LatentAttention) -> LatentAttention:
    return mixer if mixer.rope is not None else replace(mixer, rope=Rope(rotary_dim=mixer.rope_head_dim, theta=1e4))


NEXT, KIMI = ("qwen3_next",), ("kimi_linear",)
MUTANTS = tuple(
    Mutant(id=id, says=says, blueprint=blueprint, architectures=architectures)
    for id, blueprint, architectures, says in (
        (
            "gated-attn-q-gate-flat-split",
            with_mixers(Attention, lambda mixer: as_kind(GateInTheSecondHalf, mixer)),
            NEXT,
            "The gate is taken to be the second half of the projection and not of each head's rows.",
        ),
        (
            "attention-gate-first",
            with_mixers(Attention, lambda mixer: as_kind(GateFirst, mixer)),
            NEXT,
            "Queries are taken for the gate, and the reverse.",
        ),
        (
            "attention-gate-through-silu",
            with_mixers(Attention, lambda mixer: as_kind(GateThroughSilu, mixer)),
            NEXT,
            "The gate of attention goes through SiLU.",
        ),
        (
            "attention-not-gated",
            with_mixers(Attention, lambda mixer: as_kind(NotGated, mixer)),
            NEXT,
            "The gate of attention is left out.",
        ),
        (
            "latent-attention-rotated",
            with_mixers(LatentAttention, _rotating),
            KIMI,
            "Latent attention rotates though the model has no positions.",
        ),
    )
)
