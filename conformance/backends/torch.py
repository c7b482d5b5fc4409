"""torch as a backend: the operations that torch itself offers, on the CPU (`torch`) or on a CUDA device (`torch:cuda`).

Where torch has the operation (`torch.nn.functional`, `scaled_dot_product_attention`, `flex_attention`), that is what runs;
where models written in torch compose it from smaller operations, so does this backend. Frequencies of the rotary
embedding have no counterpart in torch and are not covered.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import warnings
from typing import Any

import numpy as np

from conformance.backends.on_device import Tensor, on_device, tensor_format, wide
from conformance.backends.torch_experts import TorchExperts, clamped_swiglu


class TorchBackend(TorchExperts):
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
    def padding_mask(self, q_order: Tensor, k_order: Tensor) -> Tensor:
        return _visible(q_order, k_order, causal=False)

    @on_device
    def causal_mask(self, q_order: Tensor, k_order: Tensor) -> Tensor:
        return k_order[:, None, :] <= q_order[:, :, None]

    @on_device
    def sliding_window_mask(self, q_order: Tensor, k_order: Tensor, *, window: int) -> Tensor:
        distance = q_order[:, :, None] - k_order[:, None, :]
        return (distance >= 0) & (distance < window)

    @on_device
    def chunked_mask(self, q_order: Tensor, k_order: Tensor, *, chunk: int) -> Tensor:
        q, k = q_order[:, :, None], k_order[:, None, :]
        return (k <= q) & (k // chunk == q // chunk)

    @on_device
    def attention_mask(
        self, q_order: Tensor, k_order: Tensor, *, causal: bool = True, window: int | None = None, chunk: int | None = None
    ) -> Tensor:
        return _visible(q_order, k_order, causal=causal, window=window, chunk=chunk)

    @on_device
    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        causal: bool = True,
        window: int | None = None,
        chunk: int | None = None,
        softcap: float | None = None,
        temperature: Tensor | None = None,
        sinks: Tensor | None = None,
        bias: Tensor | None = None,
        q_order: Tensor | None = None,
        k_order: Tensor | None = None,
    ) -> Tensor:
        """`scaled_dot_product_attention`; with a softcap or sinks, which it lacks, `flex_attention`.

        Without a softcap the temperature multiplies the queries, as models do that have one.
        """
        if temperature is not None and softcap is None:
            q, temperature = q * temperature[:, :, None, None], None
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
        masked = window is not None or chunk is not None or q_order is not None or k_order is not None
        if softcap is None and sinks is None and bias is None and not masked and (not causal or q.shape[2] == k.shape[2]):
            return _sdpa(q, k, v, scale=scale, is_causal=causal)
        q_order, k_order = _orders(q, k, q_order, k_order)
        visible = _visible(q_order, k_order, causal=causal, window=window, chunk=chunk)
        if softcap is None and sinks is None:
            visible = visible[:, None]
            mask = visible if bias is None else bias.expand(*q.shape[:3], k.shape[2]).masked_fill(~visible, -float("inf"))
            return _sdpa(q, k, v, scale=scale, attn_mask=mask)
        return _flex(q, k, v, visible, scale=scale, softcap=softcap, temperature=temperature, sinks=sinks, bias=bias)

    @on_device
    def soft_cap(self, x: Tensor, *, cap: float) -> Tensor:
        return _soft_cap(x, cap)

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
        return logits if softcap is None else _soft_cap(logits, softcap)


def _soft_cap(x: Tensor, cap: float | Tensor) -> Tensor:
    return (x / cap).tanh() * cap


def _visible(
    q_order: Tensor, k_order: Tensor, *, causal: bool = True, window: int | None = None, chunk: int | None = None
) -> Tensor:
    """Which keys each query sees: bool [B, T, S]."""
    q, k = q_order[:, :, None], k_order[:, None, :]
    visible = (k >= 0) & (q >= 0)
    if causal:
        visible = visible & (k <= q)
    if window is not None:
        visible = visible & (k > q - window)
    if chunk is not None:
        visible = visible & (k // chunk == q // chunk)
    return visible


def _orders(q: Tensor, k: Tensor, q_order: Tensor | None, k_order: Tensor | None) -> tuple[Tensor, Tensor]:
    """The places of queries and keys; by default the queries are the last of the keys. q [B, H, T, K], k [B, G, S, K]."""
    import torch

    places = torch.arange(k.shape[2], device=k.device).expand(k.shape[0], -1)
    last = places[:, k.shape[2] - q.shape[2] :] if q_order is None else q_order
    return last, places if k_order is None else k_order


def _sdpa(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention(q, k, v, enable_gqa=True, **options).transpose(1, 2)


def _flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    *,
    scale: float,
    softcap: float | None,
    temperature: Tensor | None,
    sinks: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """`flex_attention` with q [B, H, T, K], k and v [B, G, S, ...], visible [B, T, S].

    A sink divides the result by 1 + exp(sink - log-sum-exp of the visible scores). The eager stance runs torch's reference
    path: compiling would take longer than the case, for every new shape.
    """
    import torch
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

    B, H, T, _ = q.shape
    S = k.shape[2]
    additions = None if bias is None else bias.expand(B, H, T, S)

    def score(logit: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        logit = logit if softcap is None else _soft_cap(logit, softcap)
        logit = logit if temperature is None else logit * temperature[b, t]
        return logit if additions is None else logit + additions[b, h, t, s]

    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        mask = create_block_mask(lambda b, h, t, s: visible[b, t, s], B, None, T, S, device=q.device)
        y, extra = flex_attention(
            q, k, v, score_mod=score, block_mask=mask, scale=scale, enable_gqa=True, return_aux=AuxRequest(lse=True)
        )
    if sinks is not None:
        y = (y * torch.sigmoid(extra.lse - sinks[:, None])[..., None]).to(q.dtype)
    return y.transpose(1, 2)


backend = TorchBackend("torch", "cpu")
cuda_backend = TorchBackend("torch:cuda", "cuda")
