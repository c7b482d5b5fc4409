"""Multi-head latent attention: keys and values of all heads from one latent a token, in two forms.

`latent_attention_expanded` makes the keys and values of every head and is the definition; `latent_attention` moves the queries
into the latent space instead, so that a token's cache is its latent and one rotated key, and is what models use.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.layers.attention import attention, default_places, spread_bias
from refimpl.numerics import Array
from refimpl.shapes import check, check_counts, check_floats, check_integers, check_numbers


def expand_latent(latent: Array, k_rope: Array, weight: Array, *, heads: int, v_head_dim: int) -> tuple[Array, Array]:
    """Keys and values of every head, from the latents and the rotated key that the heads share.

    k_sh = [U_h c_s, r_s]        v_sh = V_h c_s        c_s the latent, r_s the rotated key

    Shapes: latent [B, S, L], k_rope [B, S, P], weight [H·(N + J), L] as `kv_b_proj.weight` is stored, of each head the N rows
      of U_h, then the J rows of V_h; k [B, S, H, N + P], v [B, S, H, J]. heads is H, v_head_dim is J; N follows from the rows.
    Rules:
      R1  the rows of a head stand together: N of its key, then J of its value.
      R2  a key is its unrotated part, then the rotated one.
      R3  every head has the same rotated part; nothing is done to it here.
    Dtype: T1  products in the model's format, accumulated in float32. This function computes in the dtype of latent.
    Pitfalls: all keys' rows taken before all values' rows; a latent that was not normed, or a rotated key that was
      (mla-q-norm-after-up-proj).
    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.
    """
    check_counts("expand_latent", heads=heads, v_head_dim=v_head_dim)
    sizes = check("expand_latent", latent=(latent, "BSL"), k_rope=(k_rope, "BSP"), weight=(weight, "RL"))
    check_floats("expand_latent", latent=latent, k_rope=k_rope, weight=weight)
    B, S, P, rows = (sizes[letter] for letter in "BSPR")
    if rows % heads or rows // heads < v_head_dim:
        raise ValueError(
            f"expand_latent: weight has {rows} rows but {heads} heads need equally many each, of which {v_head_dim} of values"
        )
    both_BSHX = (latent @ weight.T).reshape(B, S, heads, rows // heads)
    k_nope, v = both_BSHX[..., :-v_head_dim], both_BSHX[..., -v_head_dim:]
    shared = np.broadcast_to(k_rope[:, :, None, :], (B, S, heads, P))
    return np.concatenate([k_nope, shared], axis=-1), v


def latent_attention_expanded(
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    *,
    scale: float,
    causal: bool = True,
    q_order: Array | None = None,
    k_order: Array | None = None,
    temperature: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """`latent_attention` by its definition: `attention` over the keys and values that `expand_latent` makes.

    Shapes, options: as `latent_attention`. Rules and dtype: as `attention` and `expand_latent`.
    """
    name = "latent_attention_expanded"
    _, value_width = _validated(name, q, latent, k_rope, weight, scale, temperature, bias, q_order, k_order)
    k, v = expand_latent(latent, k_rope, weight, heads=q.shape[2], v_head_dim=value_width)
    options: dict[str, Any] = {"q_order": q_order, "k_order": k_order, "temperature": temperature, "bias": bias}
    return attention(q, k, v, scale=scale, causal=causal, **options)


def latent_attention(
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    *,
    scale: float,
    causal: bool = True,
    q_order: Array | None = None,
    k_order: Array | None = None,
    temperature: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """Attention over latents, which every head reads through matrices of its own (the absorbed form).

    a_th  = U_hᵀ q_th                                   the unrotated part of q, in the latent space
    l_ths = scale · (a_th · c_s + p_th · r_s)           p_th the rotated part of q; then · temperature_t, then + bias
    m_th  = sum over visible s of softmax(l)_ths c_s
    y_th  = V_h m_th

    Shapes: q [B, T, H, N + P], its rotated part last; latent [B, S, L]; k_rope [B, S, P]; weight [H·(N + J), L] as in
      `expand_latent`; y [B, T, H, J]. N follows from q and k_rope, J from the rows of weight.
      temperature, bias, q_order, k_order: as in `attention`.
    Rules:
      R1  equals `attention` over the keys and values of `expand_latent`.
      R2  it is attention with one key head of width L + P, [c_s, r_s], whose values are the latents.
      R3  the scale is that of the expanded keys, (N + P)^-0.5 times what the model says, whatever the width L + P.
      R4  places, masks, temperature and bias as in `attention`; a query that sees no key returns zeros.
    Dtype: T1  as `attention`; a_th and m_th in the model's format. This function computes in the dtype of q.
    Pitfalls: the scale of another width, hidden / heads or the default of a library
      (mla-scale-from-hidden-over-heads, mla-sdpa-default-scale); YaRN's factor missing in it (mla-yarn-softmax-mscale-missing,
      mla-v2-mscale-all-dim-lost-in-refactor); another weight here than in the expanded form (mla-absorbed-drops-adapter).
    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix C; DeepSeek-V3, arXiv:2412.19437.
    """
    name = "latent_attention"
    nope, value_width = _validated(name, q, latent, k_rope, weight, scale, temperature, bias, q_order, k_order)
    weight_HXL = weight.reshape(q.shape[2], nope + value_width, latent.shape[2])
    absorbed_BTHL = _by_head(q[..., :nope], weight_HXL[:, :nope])
    q_BTHX = np.concatenate([absorbed_BTHL, q[..., nope:]], axis=-1)
    k_BS1X = np.concatenate([latent, k_rope], axis=-1)[:, :, None]
    options: dict[str, Any] = {"q_order": q_order, "k_order": k_order, "temperature": temperature, "bias": bias}
    mixed_BTHL = attention(q_BTHX, k_BS1X, latent[:, :, None], scale=scale, causal=causal, **options)
    return _by_head(mixed_BTHL, weight_HXL[:, nope:].swapaxes(1, 2))


def _by_head(x: Array, weight: Array) -> Array:
    """x [B, T, H, I] times the matrix of each head, weight [H, I, O]: [B, T, H, O]."""
    B, T, H, width = x.shape
    x_HtI = x.transpose(2, 0, 1, 3).reshape(H, B * T, width)
    return (x_HtI @ weight).reshape(H, B, T, weight.shape[2]).transpose(1, 2, 0, 3)


def _validated(
    layer: str,
    q: Array,
    latent: Array,
    k_rope: Array,
    weight: Array,
    scale: float,
    temperature: Array | None,
    bias: Array | None,
    q_order: Array | None,
    k_order: Array | None,
) -> tuple[int, int]:
    """Checks all arguments; N and J, the widths of the unrotated part of a key and of a value."""
    sizes = check(
        layer,
        q=(q, "BTHK"),
        latent=(latent, "BSL"),
        k_rope=(k_rope, "BSP"),
        weight=(weight, "RL"),
        temperature=(temperature, "BT?"),
        q_order=(q_order, "BT?"),
        k_order=(k_order, "BS?"),
    )
    check_floats(layer, q=q, latent=latent, k_rope=k_rope, weight=weight, temperature=temperature, bias=bias)
    check_integers(layer, q_order=q_order, k_order=k_order)
    check_numbers(layer, scale=scale)
    B, T, H, S, K, P, rows = (sizes[letter] for letter in "BTHSKPR")
    if K < P:
        raise ValueError(f"{layer}: q has heads of {K} entries, which is fewer than the {P} of k_rope")
    if H == 0 or rows % H or rows // H <= K - P:
        raise ValueError(
            f"{layer}: weight has {rows} rows but {H} heads of q need equally many each, "
            f"{K - P} of a key and then those of a value"
        )
    default_places(layer, B, T, S, q_order, k_order)
    spread_bias(layer, bias, (B, H, T, S))
    return K - P, rows // H - (K - P)
