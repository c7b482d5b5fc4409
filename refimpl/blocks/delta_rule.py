"""What the token mixers on the gated delta rule share: a convolution, the rule, and the states of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refimpl.blocks.base import Inputs, State, StateEntry, Weights
from refimpl.ops import Ops

# Under the square root of the L2 norm of q and k, in every release.
L2_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class DeltaRule:
    """The middle of a mixer, from its projections to the result of each head.

    q, k, v = silu(causal_conv1d([q; k; v]));  q and k scaled to length one;  log decay = softplus_decay(a), beta = σ(b)
    y = gated_delta_rule(q, k, v, log decay, beta), q scaled by K^-1/2

    decay_per_channel: whether a [B, T, H, K] gives one decay a channel of the key, or a [B, T, H] one a head.
    Weights: conv1d.weight [2·G·K + H·J, W], all of q, all of k, all of v; a_log [H]; dt_bias [H] or [H·K].
    """

    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_width: int
    decay_per_channel: bool

    @property
    def widths(self) -> tuple[int, int, int]:
        """How many channels q, k and v have."""
        keys = self.key_heads * self.key_head_dim
        return keys, keys, self.value_heads * self.value_head_dim

    def parameters(self) -> dict[str, tuple[int, ...]]:
        decays = self.value_heads * (self.key_head_dim if self.decay_per_channel else 1)
        return {
            "conv1d.weight": (sum(self.widths), self.conv_width),
            "a_log": (self.value_heads,),
            "dt_bias": (decays,),
        }

    def state(self) -> dict[str, StateEntry]:
        matrices = (self.value_heads, self.key_head_dim, self.value_head_dim)
        return {
            "conv_state": StateEntry(shape=(sum(self.widths), self.conv_width - 1), grows=False),
            "recurrent_state": StateEntry(shape=matrices, grows=False, dtype="float32"),
        }

    def flops(self) -> int:
        """Of one token beside its projections: what the state holds for k is read, the correction written, q read."""
        return 3 * 2 * self.value_heads * self.key_head_dim * self.value_head_dim

    def __call__(
        self, ops: Ops, weights: Weights, qkv: Any, a: Any, b: Any, inputs: Inputs, state: State | None
    ) -> tuple[Any, State]:
        """y [B, T, H, J] of qkv [B, T, 2·G·K + H·J], a and b [B, T, H], and the new state."""
        past = state or {"conv_state": None, "recurrent_state": None}
        order = inputs.q_order
        mixed, conv_state = ops.causal_conv1d(qkv, weights["conv1d.weight"], state=past["conv_state"], order=order)
        q, k, v = ops.split(ops.tap("conv", ops.silu(mixed)), sizes=self.widths)
        q, k = (ops.l2_norm(ops.split_heads(each, heads=self.key_heads), eps=L2_EPS) for each in (q, k))
        y, recurrent_state = ops.gated_delta_rule(
            ops.tap("q", q),
            ops.tap("k", k),
            ops.tap("v", ops.split_heads(v, heads=self.value_heads)),
            ops.tap("log_decay", ops.softplus_decay(a, weights["a_log"], weights["dt_bias"])),
            ops.tap("beta", ops.sigmoid(b)),
            state=past["recurrent_state"],
            order=order,
            scale=self.key_head_dim**-0.5,
        )
        return ops.tap("delta_rule", y), {"conv_state": conv_state, "recurrent_state": recurrent_state}
