"""Feed-forward networks as channel mixers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from refimpl.blocks.base import ChannelMixer, Weights
from refimpl.ops import Ops

Activation = Literal["silu", "gelu", "gelu_tanh"]


@dataclass(frozen=True, kw_only=True)
class GatedMLP(ChannelMixer):
    """down(act(gate(x)) · up(x)): SwiGLU with silu, GeGLU with gelu or gelu_tanh."""

    hidden_size: int
    intermediate_size: int
    activation: Activation = "silu"
    bias: bool = False

    def parameters(self) -> dict[str, tuple[int, ...]]:
        wide = (self.intermediate_size, self.hidden_size)
        shapes = {"gate_proj": wide, "up_proj": wide, "down_proj": wide[::-1]}
        return _with_biases(shapes, self.bias)

    def __call__(self, ops: Ops, weights: Weights, x: Any) -> Any:
        gate = ops.tap("gate_proj", _linear(ops, weights, x, "gate_proj", self.bias))
        up = ops.tap("up_proj", _linear(ops, weights, x, "up_proj", self.bias))
        match self.activation:
            case "silu":
                product = ops.swiglu(gate, up)
            case "gelu":
                product = ops.geglu(gate, up)
            case "gelu_tanh":
                product = ops.geglu(gate, up, approximate="tanh")
        product = ops.tap("activation", product)
        return ops.tap("down_proj", _linear(ops, weights, product, "down_proj", self.bias))


@dataclass(frozen=True, kw_only=True)
class MLP(ChannelMixer):
    """down(act(up(x)))."""

    hidden_size: int
    intermediate_size: int
    activation: Activation = "gelu_tanh"
    bias: bool = True

    def parameters(self) -> dict[str, tuple[int, ...]]:
        wide = (self.intermediate_size, self.hidden_size)
        return _with_biases({"up_proj": wide, "down_proj": wide[::-1]}, self.bias)

    def __call__(self, ops: Ops, weights: Weights, x: Any) -> Any:
        up = ops.tap("up_proj", _linear(ops, weights, x, "up_proj", self.bias))
        match self.activation:
            case "silu":
                active = ops.silu(up)
            case "gelu":
                active = ops.gelu(up)
            case "gelu_tanh":
                active = ops.gelu(up, approximate="tanh")
        active = ops.tap("activation", active)
        return ops.tap("down_proj", _linear(ops, weights, active, "down_proj", self.bias))


def _with_biases(shapes: dict[str, tuple[int, int]], bias: bool) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        found[f"{name}.weight"] = shape
        if bias:
            found[f"{name}.bias"] = shape[:1]
    return found


def _linear(ops: Ops, weights: Weights, x: Any, name: str, bias: bool) -> Any:
    return ops.linear(x, weights[f"{name}.weight"], *((weights[f"{name}.bias"],) if bias else ()))
