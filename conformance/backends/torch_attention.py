"""Attention of both kinds and its masks in torch: `scaled_dot_product_attention`, and `flex_attention` for what it lacks."""

from __future__ import annotations

import warnings
from typing import Any

from conformance.backends.on_device import OnDevice, Tensor, on_device


class TorchAttention(OnDevice):
    """The functions of `refimpl.layers.mask`, `attention` and `latent_attention`."""

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
            return _sdpa(q, k, v, scale=scale, attn_mask=_biased(visible, bias, q, k))
        return _flex(q, k, v, visible, scale=scale, softcap=softcap, temperature=temperature, sinks=sinks, bias=bias)

    @on_device
    def expand_latent(
        self, latent: Tensor, k_rope: Tensor, weight: Tensor, *, heads: int, v_head_dim: int
    ) -> tuple[Tensor, Tensor]:
        import torch
        from torch.nn.functional import linear

        both = linear(latent, weight).unflatten(-1, (heads, -1))
        k_nope, v = both.split([both.shape[-1] - v_head_dim, v_head_dim], dim=-1)
        return torch.cat([k_nope, k_rope[:, :, None].expand(-1, -1, heads, -1)], dim=-1), v

    @on_device
    def latent_attention(
        self,
        q: Tensor,
        latent: Tensor,
        k_rope: Tensor,
        weight: Tensor,
        *,
        scale: float,
        causal: bool = True,
        q_order: Tensor | None = None,
        k_order: Tensor | None = None,
        temperature: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """The absorbed form: one `scaled_dot_product_attention` in which all heads share a key and the latents are values."""
        import torch

        width = q.shape[-1] - k_rope.shape[-1]
        rows = weight.unflatten(0, (q.shape[2], -1))
        q_latent = torch.einsum("bthn,hnl->bthl", q[..., :width], rows[:, :width])
        q = torch.cat([q_latent, q[..., width:]], dim=-1)
        q = q if temperature is None else q * temperature[:, :, None, None]
        q, k, v = (heads.transpose(1, 2) for heads in (q, torch.cat([latent, k_rope], dim=-1)[:, :, None], latent[:, :, None]))
        visible = _visible(*_orders(q, k, q_order, k_order), causal=causal)
        mixed = _sdpa(q, k, v, scale=scale, attn_mask=_biased(visible, bias, q, k))
        return torch.einsum("bthl,hjl->bthj", mixed, rows[:, width:])


def soft_cap(x: Tensor, cap: float | Tensor) -> Tensor:
    """cap * tanh(x / cap)."""
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


def _biased(visible: Tensor, bias: Tensor | None, q: Tensor, k: Tensor) -> Tensor:
    """The mask [B, 1, T, S], or the bias in the shape of the logits with -inf where the mask is false."""
    visible = visible[:, None]
    return visible if bias is None else bias.expand(*q.shape[:3], k.shape[2]).masked_fill(~visible, -float("inf"))


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
        logit = logit if softcap is None else soft_cap(logit, softcap)
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
