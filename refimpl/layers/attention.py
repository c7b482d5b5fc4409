"""Attention: scores, softcap, masked softmax with sinks, and the mixing of values; and its online-softmax form."""

from __future__ import annotations

import numpy as np

from refimpl.layers.mask import attention_mask
from refimpl.numerics import Array, float32_inside
from refimpl.shapes import check, check_counts, check_floats, check_numbers


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    temperature: Array | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    q_order: Array | None = None,
    k_order: Array | None = None,
) -> Array:
    """Scaled dot-product attention with grouped heads.

    l_ts = scale · q_t · k_s                        then cap · tanh(l / cap) when `softcap`, then · temperature_t, then + bias
    p_ts = exp(l_ts) / (sum over visible s of exp(l_ts) + exp(sink_h))       0 where s is not visible
    y_t  = sum over s of p_ts v_s

    Shapes: q [B, T, H, K], k [B, S, G, K], v [B, S, G, J] with H a multiple of G; y [B, T, H, J].
      sinks [H]: one extra logit a head; temperature [B, T]; bias broadcastable to [B, H, T, S].
      q_order int [B, T], k_order int [B, S]: the places of queries and keys (see `refimpl.layers.mask`); by default
      keys stand at 0 .. S-1 and the queries are the last T of them.
    Rules:
      R1  query head h reads key/value head h // (H / G): groups are consecutive, not interleaved.
      R2  `causal`: a query sees keys at its own place and before; the last query sees the last key.
      R3  `window` W: exactly the last W places, the query's own included.
      R4  `chunk` C: only the places of the query's own chunk of C.
      R5  a key at a negative place is never seen; a query that sees no key returns zeros.
      R6  the softcap acts on scaled scores; the query's temperature multiplies after it, before bias and mask.
      R7  a sink enters the denominator alone: it is neither scaled, capped, tempered nor masked, and has no value.
      R8  the result does not depend on the order in which keys are stored, only on their places.
    Dtype: T1  scores, scaling, cap, temperature and bias in the model's format (products accumulated in float32).
           T2  the softmax is evaluated in float32 and its result cast to the model's format, then mixed with v.
           This function computes in the dtype of q.
    Pitfalls: heads tiled instead of repeated; one key too many in the window (swa-window-plus-one-fa); cap after mask
      or before scale (attn-softcap-wrong, softcap-before-logit-scale); temperature before the cap; sinks dropped, scaled or
      counted once a split (sink-kernel-unreachable, sink-wrong-scale-log2, sink-counted-per-split); NaN in rows that see
      nothing (mask-fill-overflow-to-inf, splitkv-empty-split-nan); scale from hidden / heads (head-dim-derived-from-hidden).
    Source: Vaswani et al., arXiv:1706.03762; Ainslie et al., arXiv:2305.13245 (groups); gpt-oss release (sinks);
      Gemma 2, arXiv:2408.00118 (softcap).
    """
    q_order, k_order, bias = _validated("attention", q, k, v, scale, temperature, sinks, bias, q_order, k_order)
    visible_BTS = attention_mask(q_order, k_order, causal=causal, window=window, chunk=chunk)
    logits_BHTS = attention_logits(q, k, scale=scale, softcap=softcap, temperature=temperature, bias=bias)
    weights_BHTS = masked_softmax(logits_BHTS, visible_BTS[:, None], sinks=sinks)
    return mix_values(weights_BHTS, v)


def attention_logits(
    q: Array,
    k: Array,
    *,
    scale: float,
    softcap: float | None = None,
    temperature: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """Scaled, capped, tempered and biased scores [B, H, T, S] of q [B, T, H, K] and k [B, S, G, K] (rules R1 and R6)."""
    B, T, H, K = q.shape
    S, G = k.shape[1:3]
    # The heads of a group are stacked along the query axis, so that a group is one matrix product.
    q_BGtK = q.transpose(0, 2, 1, 3).reshape(B, G, H // G * T, K)
    logits_BHTS = (q_BGtK @ k.transpose(0, 2, 3, 1)).reshape(B, H, T, S) * q.dtype.type(scale)
    if softcap is not None:
        logits_BHTS = soft_cap(logits_BHTS, cap=softcap)
    if temperature is not None:
        logits_BHTS = logits_BHTS * temperature[:, None, :, None]
    return logits_BHTS if bias is None else logits_BHTS + bias


def soft_cap(x: Array, *, cap: float) -> Array:
    """Bound smoothly: y = cap · tanh(x / cap).

    Shapes: x of any shape; y as x.
    Rules: R1  |y| < cap; y is odd in x and has slope 1 at 0.
    Dtype: this function computes in the dtype of x, as the releases do.
    Pitfalls: x · tanh(x / cap) (final-softcap-multiplies-logit).
    Source: Gemma 2, arXiv:2408.00118, section 2.
    """
    check("soft_cap", x=(x, "..."))
    check_floats("soft_cap", x=x)
    check_numbers("soft_cap", cap=cap, above=0)
    return np.tanh(x / x.dtype.type(cap)) * x.dtype.type(cap)


@float32_inside
def masked_softmax(logits: Array, visible: Array, *, sinks: Array | None = None) -> Array:
    """Softmax over the visible keys of logits [B, H, T, S], visible broadcastable to it, sinks [H] (rules R5 and R7)."""
    masked = np.where(visible, logits, -np.inf)
    top = np.max(masked, axis=-1, keepdims=True, initial=-np.inf)
    if sinks is not None:
        top = np.maximum(top, sinks[:, None, None])
    exponentials = np.exp(masked - _finite(top))
    total = np.sum(exponentials, axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks[:, None, None] - _finite(top))
    return exponentials / np.where(total == 0, total.dtype.type(1), total)


def mix_values(weights: Array, v: Array) -> Array:
    """Values v [B, S, G, J] summed with weights [B, H, T, S] of each head: [B, T, H, J] (rule R1)."""
    B, H, T, S = weights.shape
    G, J = v.shape[2:]
    mixed_BGtJ = weights.reshape(B, G, H // G * T, S) @ v.transpose(0, 2, 1, 3)
    return mixed_BGtJ.reshape(B, H, T, J).transpose(0, 2, 1, 3)


def attention_online(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    block: int = 16,
    causal: bool = True,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    temperature: Array | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    q_order: Array | None = None,
    k_order: Array | None = None,
) -> Array:
    """`attention` in one pass over blocks of keys, with a running maximum and a running denominator.

    For each block b:  m' = max(m, max l_b);  y = y e^(m - m') + e^(l_b - m') v_b;  d = d e^(m - m') + sum e^(l_b - m')
    At the end:        y / d, with the sink added to d once.

    Shapes, rules, options: as `attention`; block is the number of keys read at a time.
    Rules: R9  equals `attention` for every block size.
    Dtype: T1  as `attention`, but each step of the running state is rounded as well; kernels keep it in float32.
           This function computes in the dtype of q.
    Pitfalls: exp(-inf - -inf) in a block that shows nothing (splitkv-empty-split-nan); the sink counted once a block
      (sink-counted-per-split).
    Source: Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135, algorithm 1.
    """
    q_order, k_order, bias = _validated("attention_online", q, k, v, scale, temperature, sinks, bias, q_order, k_order)
    check_counts("attention_online", block=block)
    B, T, H, _ = q.shape
    top = np.full((B, H, T, 1), -np.inf, dtype=q.dtype)
    total = np.zeros((B, H, T, 1), dtype=q.dtype)
    y_BTHJ = np.zeros((B, T, H, v.shape[3]), dtype=q.dtype)
    for start in range(0, k.shape[1], block):
        keys = slice(start, start + block)
        visible = attention_mask(q_order, k_order[:, keys], causal=causal, window=window, chunk=chunk)[:, None]
        block_bias = None if bias is None else bias[..., keys]
        logits = attention_logits(q, k[:, keys], scale=scale, softcap=softcap, temperature=temperature, bias=block_bias)
        masked = np.where(visible, logits, -np.inf)
        new_top = np.maximum(top, masked.max(axis=-1, keepdims=True))
        weights = np.exp(masked - _finite(new_top))
        shrink = np.exp(top - _finite(new_top))
        total = total * shrink + weights.sum(axis=-1, keepdims=True)
        y_BTHJ = y_BTHJ * shrink.transpose(0, 2, 1, 3) + mix_values(weights, v[:, keys])
        top = new_top
    if sinks is not None:
        new_top = np.maximum(top, sinks[:, None, None])
        shrink = np.exp(top - _finite(new_top))
        total = total * shrink + np.exp(sinks[:, None, None] - _finite(new_top))
        y_BTHJ = y_BTHJ * shrink.transpose(0, 2, 1, 3)
    return y_BTHJ / np.where(total == 0, total.dtype.type(1), total).transpose(0, 2, 1, 3)


def _finite(top: Array) -> Array:
    """A row that has seen nothing has maximum -inf; 0 in its place keeps exp(-inf - top) at 0 instead of NaN."""
    return np.where(np.isfinite(top), top, top.dtype.type(0))


def _validated(
    layer: str,
    q: Array,
    k: Array,
    v: Array,
    scale: float,
    temperature: Array | None,
    sinks: Array | None,
    bias: Array | None,
    q_order: Array | None,
    k_order: Array | None,
) -> tuple[Array, Array, Array | None]:
    """The places, by default those of the last T of S, and the bias as [B, H, T, S]."""
    sizes = check(
        layer,
        q=(q, "BTHK"),
        k=(k, "BSGK"),
        v=(v, "BSGJ"),
        temperature=(temperature, "BT?"),
        sinks=(sinks, "H?"),
        q_order=(q_order, "BT?"),
        k_order=(k_order, "BS?"),
    )
    check_floats(layer, q=q, k=k, v=v, temperature=temperature, sinks=sinks, bias=bias)
    check_numbers(layer, scale=scale)
    B, T, H, S, G = (sizes[letter] for letter in "BTHSG")
    if G == 0 or H % G:
        raise ValueError(f"{layer}: q has {H} heads and k has {G}, but query heads must be a multiple of key heads")
    q_order, k_order = default_places(layer, B, T, S, q_order, k_order)
    return q_order, k_order, spread_bias(layer, bias, (B, H, T, S))


def default_places(layer: str, B: int, T: int, S: int, q_order: Array | None, k_order: Array | None) -> tuple[Array, Array]:
    """The places of queries and keys where they are not given: the queries are the last T of S keys."""
    if (q_order is None or k_order is None) and T > S:
        raise ValueError(f"{layer}: {T} queries but {S} keys: without q_order and k_order the queries are the last keys")
    default_k = np.broadcast_to(np.arange(S), (B, S))
    default_q = np.broadcast_to(np.arange(S - T, S), (B, T))
    return default_q if q_order is None else q_order, default_k if k_order is None else k_order


def spread_bias(layer: str, bias: Array | None, shape: tuple[int, ...]) -> Array | None:
    """A bias on the logits, in their shape [B, H, T, S]."""
    if bias is None:
        return None
    try:
        return np.broadcast_to(bias, shape)
    except ValueError:
        raise ValueError(f"{layer}: bias has shape {bias.shape} but needs one broadcastable to {shape}") from None
