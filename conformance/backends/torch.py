"""torch as a backend: the operations that torch itself offers, on the CPU (`torch`) or on a CUDA device (`torch:cuda`).

Where torch has the operation (`torch.nn.functional`, `scaled_dot_product_attention`, `flex_attention`), that is what runs;
where models written in torch compose it from smaller operations, so does this backend. Frequencies of the rotary
embedding have no counterpart in torch and are not covered.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from typing import Any

import numpy as np

from conformance.backends.on_device import Tensor, on_device, tensor_format, wide
from conformance.backends.torch_attention import TorchAttention, soft_cap
from conformance.backends.torch_experts import TorchExperts, clamped_swiglu
from conformance.backends.torch_indexer import TorchIndexer
from conformance.backends.torch_linear_attention import TorchLinearAttention
from conformance.backends.torch_loss import TorchLoss
from conformance.backends.torch_quantization import TorchQuantization
from conformance.backends.torch_sampling import TorchSampling


class TorchBackend(
    TorchAttention, TorchExperts, TorchIndexer, TorchLinearAttention, TorchLoss, TorchQuantization, TorchSampling
):
    """The functions of `refimpl.layers` in torch, on one device."""

    dtypes = ("float64", "float32", "bfloat16", "float16")

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self.device = device

    @property
    def version(self) -> str:
        """The version of torch, "" where it is not installed."""
        try:
            return importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            return ""

    def unavailable(self) -> str | None:
        """Why this backend cannot run here, None when it can."""
        if importlib.util.find_spec("torch") is None:
            return f"{self.name}: torch is not installed"
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            return f"{self.name}: torch {torch.__version__} finds no CUDA device"
        return None

    @on_device
    def rms_norm(self, x: Tensor, weight: Tensor | None = None, *, eps: float, zero_centred: bool = False) -> Tensor:
        from torch.nn.functional import rms_norm

        if zero_centred and weight is not None:
            return rms_norm(wide(x), x.shape[-1:], 1 + wide(weight), eps).to(x.dtype)
        return rms_norm(x, x.shape[-1:], weight, eps)

    @on_device
    def gated_rms_norm(
        self, x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, activation: str = "silu", gate_first: bool = False
    ) -> Tensor:
        from torch.nn.functional import rms_norm, silu

        opened = silu(wide(gate)) if activation == "silu" else wide(gate).sigmoid()
        if gate_first:
            return rms_norm((wide(x) * opened).to(x.dtype), x.shape[-1:], weight, eps)
        return (wide(rms_norm(x, x.shape[-1:], weight, eps)) * opened).to(x.dtype)

    @on_device
    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, eps: float) -> Tensor:
        from torch.nn.functional import layer_norm

        return layer_norm(x, x.shape[-1:], weight, bias, eps)

    @on_device
    def l2_norm(self, x: Tensor, *, eps: float) -> Tensor:
        # Not torch.nn.functional.normalize, which divides by max(length, eps).
        rows = wide(x)
        return (rows * (rows.square().sum(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)

    @on_device
    def rope_cos_sin(self, positions: Tensor, inv_freq: Tensor, *, attention_factor: float = 1.0) -> tuple[Tensor, Tensor]:
        angles = positions[:, :, None].to(inv_freq.dtype) * inv_freq
        return angles.cos() * attention_factor, angles.sin() * attention_factor

    @on_device
    def rotary_embedding(self, x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
        import torch

        width = 2 * cos.shape[-1]
        rotated, rest = x[..., :width], x[..., width:]
        first, second = (rotated[..., 0::2], rotated[..., 1::2]) if interleaved else rotated.chunk(2, dim=-1)
        cos, sin = cos[:, :, None], sin[:, :, None]
        pair = first * cos - second * sin, second * cos + first * sin
        rotated = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
        return torch.cat([rotated, rest], dim=-1)

    @on_device
    def position_embedding(self, positions: Tensor, weight: Tensor) -> Tensor:
        from torch.nn.functional import embedding

        return embedding(positions.clamp(min=0), weight)

    @on_device
    def log_length_temperature(self, positions: Tensor, *, length: int, dtype: Any = np.float64) -> Tensor:
        return positions.clamp(min=length).to(tensor_format(dtype)).log() / math.log(length)

    @on_device
    def log_floor_temperature(
        self, positions: Tensor, *, scale: float, floor: int, offset: int = 1, dtype: Any = np.float64
    ) -> Tensor:
        return 1 + scale * ((positions + offset) // floor).to(tensor_format(dtype)).log1p()

    @on_device
    def token_order(self, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.long()
        return (mask.cumsum(-1) - 1).masked_fill(mask == 0, -1)

    @on_device
    def soft_cap(self, x: Tensor, *, cap: float) -> Tensor:
        return soft_cap(x, cap)

    @on_device
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        from torch.nn.functional import linear

        return linear(x, weight, bias)

    @on_device
    def silu(self, x: Tensor) -> Tensor:
        from torch.nn.functional import silu

        return silu(x)

    @on_device
    def gelu(self, x: Tensor, *, approximate: str = "none") -> Tensor:
        from torch.nn.functional import gelu

        return gelu(x, approximate=approximate)

    @on_device
    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        from torch.nn.functional import silu

        return silu(gate) * up

    @on_device
    def geglu(self, gate: Tensor, up: Tensor, *, approximate: str = "none") -> Tensor:
        from torch.nn.functional import gelu

        return gelu(gate, approximate=approximate) * up

    @on_device
    def clamped_swiglu(self, gate: Tensor, up: Tensor, *, alpha: float, limit: float) -> Tensor:
        return clamped_swiglu(gate, up, alpha=alpha, limit=limit)

    @on_device
    def sigmoid(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    @on_device
    def sigmoid_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return gate.sigmoid() * x

    @on_device
    def embedding(self, tokens: Tensor, weight: Tensor, *, scale: float | None = None) -> Tensor:
        from torch.nn.functional import embedding

        rows = embedding(tokens, weight)
        return rows if scale is None else rows * weight.new_tensor(scale)

    @on_device
    def lm_head(self, x: Tensor, weight: Tensor, *, scale: float | None = None, softcap: float | None = None) -> Tensor:
        from torch.nn.functional import linear

        logits = linear(x, weight)
        if scale is not None:
            logits = logits * scale
        return logits if softcap is None else soft_cap(logits, softcap)


backend = TorchBackend("torch", "cpu")
cuda_backend = TorchBackend("torch:cuda", "cuda")
