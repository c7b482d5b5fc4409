"""The short causal convolution in front of linear attention: each channel alone, over the last few tokens of its row."""

from __future__ import annotations

import numpy as np

from refimpl.numerics import Array, float32_inside
from refimpl.shapes import check, check_floats, check_integers


@float32_inside
def causal_conv1d(
    x: Array, weight: Array, bias: Array | None = None, state: Array | None = None, order: Array | None = None
) -> tuple[Array, Array]:
    """Depthwise causal convolution, and the inputs that the next tokens will need.

    y_t = sum over w of weight_w · x_(t - W + 1 + w) + bias          state' = x of the last W - 1 real tokens

    Shapes: x [B, T, D], weight [D, W], bias [D] or absent; state [B, D, W-1] or absent (zeros); order int [B, T], the places
      of the tokens among the real ones of their row (-1: padding), or absent: none is padding. y as x, state' [B, D, W-1].
    Rules:
      R1  the last tap multiplies the current token, the first the one W - 1 before it.
      R2  before the first token of a row there are zeros.
      R3  the state holds inputs, not results, oldest first, zeros where there were fewer than W - 1.
      R4  padding is passed over, wherever it stands: the taps reach the real tokens before it, the state is as without it,
          and its own result is 0.
      R5  pieces of any lengths, one token included, give what the whole gives.
    Dtype: T1  products accumulate in float32 and are rounded once, with the bias. This function computes in the dtype of x.
    Pitfalls: a result of T + W - 1 tokens cut at the wrong end (conv-output-not-truncated); taps reversed; a window that
      reaches into another text (conv-packed-boundary-bleed); the state taken after the activation, or W wide where W - 1 is
      read; drafts that fall and whose inputs stay in the state (spec-conv-window-too-narrow).
    Source: Mamba, arXiv:2312.00752, section 3.4; Gated DeltaNet, arXiv:2412.06464, section 3.4; Qwen3-Next.
    """
    sizes = check(
        "causal_conv1d",
        x=(x, "BTD"),
        weight=(weight, "DW"),
        bias=(bias, "D?"),
        state=(state, "BDZ?"),
        order=(order, "BT?"),
    )
    check_floats("causal_conv1d", x=x, weight=weight, bias=bias, state=state)
    check_integers("causal_conv1d", order=order)
    B, T, D, W = (sizes[letter] for letter in "BTDW")
    if state is not None and state.shape[2] != W - 1:
        raise ValueError(f"causal_conv1d: state has shape {state.shape} but needs {(B, D, W - 1)}, one less than the taps")
    real_BT = np.ones((B, T), bool) if order is None else order >= 0
    past = np.zeros((B, D, W - 1), x.dtype) if state is None else state
    tokens_first = np.argsort(~real_BT, axis=1, kind="stable")[..., None]
    seen_BSD = np.concatenate([past.swapaxes(1, 2), np.take_along_axis(x, tokens_first, axis=1)], axis=1)
    y = np.zeros_like(x)
    for tap in range(W):
        y = y + weight[:, tap] * seen_BSD[:, tap : tap + T]
    y = y if bias is None else y + bias
    rank_BT1 = np.maximum(np.cumsum(real_BT, axis=1) - 1, 0)[..., None]
    y = np.where(real_BT[..., None], np.take_along_axis(y, rank_BT1, axis=1), x.dtype.type(0))
    last_BZ1 = np.sum(real_BT, axis=1)[:, None, None] + np.arange(W - 1)[:, None]
    return y, np.take_along_axis(seen_BSD, last_BZ1, axis=1).swapaxes(1, 2)
