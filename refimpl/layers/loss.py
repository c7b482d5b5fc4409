"""What training minimises: cross-entropy, and its sum over the main model and the modules of multi-token prediction."""

from __future__ import annotations

import numpy as np

from refimpl.numerics import Array, float32_inside
from refimpl.shapes import check, check_floats, check_integers, check_numbers

IGNORED = -100


@float32_inside
def cross_entropy(logits: Array, targets: Array, *, ignore_index: int = IGNORED) -> Array:
    """Mean negative log-likelihood of the targets.

    loss = mean over counted (b, t) of  log Σ_v exp(l_v) - l_target          l = logits[b, t]

    Shapes: logits [B, T, V], targets int [B, T]; loss [] (a single number).
    Rules:
      R1  the largest logit is taken out of the sum before the exponentials: no logit overflows.
      R2  a target equal to ignore_index is not counted, neither in the sum nor in the number that it is divided by.
      R3  the mean is over all counted targets of the batch at once, not over the means of its rows.
      R4  where none is counted the loss is 0 (torch gives NaN).
      R5  nothing is shifted: logits [b, t] are judged by targets [b, t].
    Dtype: T1  everything is computed in float32 and not rounded back in the released training code; this function computes
               in the dtype of logits.
    Pitfalls: targets shifted here as well as by the caller (loss-double-shift); ignored targets counted in the divisor, or
      counted before the shift (loss-denominator-counts-unshifted-labels).
    Source: maximum likelihood; the mean over counted targets is that of every published training code.
    """
    sizes = check("cross_entropy", logits=(logits, "BTV"), targets=(targets, "BT"))
    check_floats("cross_entropy", logits=logits)
    check_integers("cross_entropy", targets=targets)
    _check_index("cross_entropy", ignore_index)
    counted_BT = targets != ignore_index
    _check_targets("cross_entropy", "targets", targets[counted_BT], sizes["V"])
    if not counted_BT.any():
        return np.zeros((), logits.dtype)
    largest_BT1 = np.max(logits, axis=-1, keepdims=True)
    total_BT = np.sum(np.exp(logits - largest_BT1), axis=-1)
    chosen_BT1 = np.take_along_axis(logits, np.where(counted_BT, targets, 0)[:, :, None], axis=-1)
    losses_BT = np.log(total_BT) + (largest_BT1 - chosen_BT1)[:, :, 0]
    return np.asanyarray(np.mean(losses_BT[counted_BT]))


@float32_inside
def multi_token_loss(logits: Array, labels: Array, *, weight: float, ignore_index: int = IGNORED) -> Array:
    """The loss of a model with modules for multi-token prediction.

    loss = CE_0 + weight / (M - 1) · (CE_1 + ... + CE_{M-1})
    CE_m = cross_entropy(logits_m at places 0 .. T-2-m, labels at places m+1 .. T-1)

    Shapes: logits [M, B, T, V], those of the main model and then of each module; labels int [B, T], the tokens themselves,
      with ignore_index where a token shall not be predicted; loss [] (a single number).
    Rules:
      R1  logits of depth m at place t predict the token at place t + 1 + m: shifted here, once.
      R2  the last m + 1 places of depth m predict nothing and are not read.
      R3  each depth is a mean over its own counted targets, of which a deeper one has fewer.
      R4  the modules' losses are averaged over the modules before the weight; without modules the loss is the main model's.
      R5  a depth without a counted target adds 0.
    Dtype: T1  as `cross_entropy`. This function computes in the dtype of logits.
    Pitfalls: labels shifted by the caller too (loss-double-shift); the number of targets taken before the shift
      (loss-denominator-counts-unshifted-labels); the modules' losses summed where they are averaged. The report's equation
      24 divides every depth by the length of the sequence; training code divides by the number of targets, as R3 does.
      Rows padded on the left pair a real label with a module's logits at padding: pad on the right.
    Source: DeepSeek-V3 technical report, arXiv:2412.19437, equations 24 and 25 (weight 0.3, later 0.1).
    """
    sizes = check("multi_token_loss", logits=(logits, "MBTV"), labels=(labels, "BT"))
    check_floats("multi_token_loss", logits=logits)
    check_integers("multi_token_loss", labels=labels)
    check_numbers("multi_token_loss", weight=weight, at_least=0)
    _check_index("multi_token_loss", ignore_index)
    _check_targets("multi_token_loss", "labels", labels[labels != ignore_index], sizes["V"])
    if not sizes["M"]:
        raise ValueError("multi_token_loss: logits are of no depth but need those of the main model at least")
    main, *modules = (_at_depth(logits_BTV, labels, depth, ignore_index) for depth, logits_BTV in enumerate(logits))
    if not modules:
        return main
    return np.asanyarray(main + logits.dtype.type(weight) * np.mean(np.stack(modules)))


def _at_depth(logits_BTV: Array, labels_BT: Array, depth: int, ignore_index: int) -> Array:
    places = max(labels_BT.shape[1] - 1 - depth, 0)
    return cross_entropy(logits_BTV[:, :places], labels_BT[:, labels_BT.shape[1] - places :], ignore_index=ignore_index)


def _check_index(layer: str, ignore_index: int) -> None:
    if not isinstance(ignore_index, (int, np.integer)) or isinstance(ignore_index, bool):
        raise ValueError(f"{layer}: ignore_index is {ignore_index!r} but needs an integer")


def _check_targets(layer: str, name: str, counted: Array, vocabulary: int) -> None:
    if counted.size and not (counted.min() >= 0 and counted.max() < vocabulary):
        raise ValueError(
            f"{layer}: {name} range from {counted.min()} to {counted.max()} but must lie in 0 .. {vocabulary - 1}, "
            "or be ignore_index"
        )
