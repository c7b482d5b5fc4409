"""Linear attention: a matrix a head in place of a cache that grows, read by queries and written by keys and values.

Four rules of writing, of which each adds one idea: sum, decay, correction, both. They are written here as what they are, a
recurrence over tokens; `layers.chunked` computes the same in blocks.
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics import Array, float32_state, plain
from refimpl.shapes import check, check_floats, check_integers, check_numbers


@float32_state
def linear_attention(
    q: Array, k: Array, v: Array, state: Array | None = None, order: Array | None = None, *, scale: float
) -> tuple[Array, Array]:
    """Attention without softmax, as a sum that goes along.

    S_t = S_(t-1) + k_t v_tᵀ          y_t = scale · S_tᵀ q_t

    Shapes: q and k [B, T, G, K], v [B, T, H, J]; state S [B, H, K, J] or absent (zeros); order int [B, T], the places of the
      tokens among the real ones of their row (-1: padding), or absent: none is padding. y [B, T, H, J], and S after the last.
    Rules:
      R1  the result reads the state that its own token has written.
      R2  value head h goes with key head h // (H / G): heads of a group are neighbours.
      R3  padding changes no state, wherever it stands, and its own result is 0.
      R4  pieces of any lengths, one token included, give what the whole gives: the same result and the same state.
    Dtype: T1  float32 inside. T2  the state is float32 whatever the model's format, in the cache too; the result is rounded
           once. This function computes in the dtype of q.
    Pitfalls: heads tiled in place of grouped (gdn-gva-tile-instead-of-interleave); the state kept in the model's format
      (gdn-state-stored-in-model-dtype); the state of one text carried into the next (gdn-packed-state-leak).
    Source: Katharopoulos et al., arXiv:2006.16236, section 3.4.
    """
    return _recurrence("linear_attention", q, k, v, None, None, state, order, scale)


@float32_state
def gated_linear_attention(
    q: Array, k: Array, v: Array, g: Array, state: Array | None = None, order: Array | None = None, *, scale: float
) -> tuple[Array, Array]:
    """Linear attention that forgets.

    S_t = e^(g_t) S_(t-1) + k_t v_tᵀ          y_t = scale · S_tᵀ q_t

    Shapes, dtype: as `linear_attention`; g [B, T, H], one decay a head, or [B, T, H, K], one a channel of the key; it comes
      in float32.
    Rules: R1 to R4 of `linear_attention`.
      R5  g is the logarithm of the decay; it applies before its own token writes.
      R6  a decay a channel whose channels are equal is a decay a head.
    Pitfalls: the decay of a channel applied along the values (gdn-gate-broadcast-row-vs-column); the state of its own token
      decayed as well.
    Source: Yang et al., arXiv:2312.06635, equation 3 (a channel); Mamba-2, arXiv:2405.21060 (a head).
    """
    return _recurrence("gated_linear_attention", q, k, v, g, None, state, order, scale)


@float32_state
def delta_rule(
    q: Array, k: Array, v: Array, beta: Array, state: Array | None = None, order: Array | None = None, *, scale: float
) -> tuple[Array, Array]:
    """Linear attention that corrects: it writes the difference between a value and what the state already holds for its key.

    S_t = S_(t-1) + β_t k_t (v_t - S_(t-1)ᵀ k_t)ᵀ          y_t = scale · S_tᵀ q_t

    Shapes, dtype: as `linear_attention`; beta [B, T, H].
    Rules: R1 to R4 of `linear_attention`.
      R5  with β = 1 and keys of length one, the state gives a key's last value back: a repeated key overwrites.
      R6  with β = 0 nothing is written.
    Pitfalls: keys that are not of length one, for which the state may grow without bound (see `l2_norm`).
    Source: Schlag et al., arXiv:2102.11174, section 4; DeltaNet, arXiv:2406.06484.
    """
    return _recurrence("delta_rule", q, k, v, None, beta, state, order, scale)


@float32_state
def gated_delta_rule(
    q: Array, k: Array, v: Array, g: Array, beta: Array, state: Array | None = None, order: Array | None = None, *, scale: float
) -> tuple[Array, Array]:
    """Linear attention that forgets first and then corrects.

    S'  = e^(g_t) S_(t-1)
    S_t = S' + β_t k_t (v_t - S'ᵀ k_t)ᵀ          y_t = scale · S_tᵀ q_t

    Shapes, dtype: as `gated_linear_attention` and `delta_rule`.
    Rules: R1 to R6 of `gated_linear_attention`.
      R7  the correction looks at the state that has decayed already.
      R8  without decay (g = 0) it is `delta_rule`.
    Pitfalls: the correction against the state before its decay; β rounded to the model's format where the release keeps
      float32 (gdn-beta-rounded-bf16-sglang).
    Source: Gated DeltaNet, arXiv:2412.06464, equation 10 (a head); Kimi Linear, arXiv:2510.26692, section 3 (a channel).
    """
    return _recurrence("gated_delta_rule", q, k, v, g, beta, state, order, scale)


def softplus_decay(a: Array, a_log: Array, dt_bias: Array) -> Array:
    """The logarithm of the decay that a token asks for.

    g = -e^(a_log) · softplus(a + dt_bias)          softplus(x) = ln(1 + e^x)

    Shapes: a [B, T, H] (one decay a head) or [B, T, H, K] (one a channel); a_log [H]; dt_bias [H], or [H·K] as checkpoints
      store it; g as a.
    Rules:
      R1  g is never above 0.
      R2  softplus is finite for any finite x: it is x where x is large.
      R3  the rate e^(a_log) is of the head, the bias of each entry.
    Dtype: T1  float32 inside, and g stays float32, whatever the model's format. This function computes in the dtype of a.
    Pitfalls: a bias a channel read as one a head (kda-dt-bias-read-per-head); a lower bound that other models have
      (kda-gate-mode-mixup, kda-safe-gate-clamped-softplus); torch's softplus, which is x from 20 on, differs by 2e-9 there.
    Source: Mamba, arXiv:2312.00752, section 3.6; Qwen3-Next and Kimi Linear releases.
    """
    a, a_log, dt_bias = plain(a), plain(a_log), plain(dt_bias)
    sizes = check("softplus_decay", a=(a, "BTHK" if getattr(a, "ndim", 3) == 4 else "BTH"), a_log=(a_log, "H"))
    check("softplus_decay", dt_bias=(dt_bias, "Z"))
    check_floats("softplus_decay", a=a, a_log=a_log, dt_bias=dt_bias)
    if dt_bias.size != sizes["H"] * sizes.get("K", 1):
        raise ValueError(
            f"softplus_decay: dt_bias has shape {dt_bias.shape} but needs {sizes['H'] * sizes.get('K', 1)} entries, "
            f"one for each of a, whose shape is {a.shape}"
        )
    rate = np.exp(a_log) if a.ndim == 3 else np.exp(a_log)[:, None]
    return -rate * np.logaddexp(a.dtype.type(0), a + dt_bias.reshape(a.shape[2:]))


def check_attended(
    layer: str,
    q: Array,
    k: Array,
    v: Array,
    g: Array | None,
    beta: Array | None,
    state: Array | None,
    order: Array | None,
    scale: float,
) -> dict[str, int]:
    """The sizes of a call, or ValueError. A rule that decays or corrects must have what it does so by."""
    decays = "BTHK" if getattr(g, "ndim", 3) == 4 else "BTH"
    sizes = check(
        layer,
        q=(q, "BTGK"),
        k=(k, "BTGK"),
        v=(v, "BTHJ"),
        g=(g, decays if "gated" in layer else f"{decays}?"),
        beta=(beta, "BTH" if "delta" in layer else "BTH?"),
        state=(state, "BHKJ?"),
        order=(order, "BT?"),
    )
    check_floats(layer, q=q, k=k, v=v, g=g, beta=beta, state=state)
    check_integers(layer, order=order)
    check_numbers(layer, scale=scale)
    if sizes["H"] % sizes["G"]:
        raise ValueError(f"{layer}: v has {sizes['H']} heads, which the {sizes['G']} heads of k do not divide")
    return sizes


def _recurrence(
    layer: str,
    q: Array,
    k: Array,
    v: Array,
    g: Array | None,
    beta: Array | None,
    state: Array | None,
    order: Array | None,
    scale: float,
) -> tuple[Array, Array]:
    """One token after the other; without g nothing is forgotten, without beta nothing corrected."""
    sizes = check_attended(layer, q, k, v, g, beta, state, order, scale)
    B, T, H, K, J = (sizes[letter] for letter in "BTHKJ")
    q_BTHK, k_BTHK = (np.repeat(array, H // sizes["G"], axis=2) for array in (q, k))
    S_BHKJ = np.zeros((B, H, K, J), q.dtype) if state is None else state
    y_BTHJ = np.zeros_like(v)
    for t in range(T):
        held = S_BHKJ if g is None else S_BHKJ * np.exp(g[:, t]).reshape(B, H, -1, 1)
        written_BHJ = v[:, t]
        if beta is not None:
            written_BHJ = beta[:, t, :, None] * (written_BHJ - _read(held, k_BTHK[:, t]))
        held = held + k_BTHK[:, t, :, :, None] * written_BHJ[:, :, None]
        read_BHJ = _read(held, q_BTHK[:, t]) * q.dtype.type(scale)
        if order is None:
            S_BHKJ, y_BTHJ[:, t] = held, read_BHJ
        else:
            real = order[:, t] >= 0
            S_BHKJ = np.where(real[:, None, None, None], held, S_BHKJ)
            y_BTHJ[:, t] = np.where(real[:, None, None], read_BHJ, q.dtype.type(0))
    return y_BTHJ, S_BHKJ


def _read(state_BHKJ: Array, key_BHK: Array) -> Array:
    """What the state holds for a key: Sᵀ k."""
    read: Array = (key_BHK[:, :, None] @ state_BHKJ)[:, :, 0]
    return read
