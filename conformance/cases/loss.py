"""Losses: logits that overflow unless their maximum is taken out, rows of unlike numbers of targets, depths of unlike loss."""

from __future__ import annotations

import numpy as np

from conformance.family import Family, Inputs, Values, edge
from refimpl.layers.loss import IGNORED
from refimpl.numerics import Array

PADDING = 1  # a token of the vocabulary that stands for padding


def cross_entropy(
    values: Values,
    *,
    batch: int,
    length: int,
    vocabulary: int,
    heat: float = 2.0,
    offset: float = 0.0,
    counted: str = "all",
    padding: bool = False,
) -> Inputs:
    """Logits of size `heat` around `offset`; the later a row, the more it loses.

    counted: all targets, some (the later a row, the fewer), or none. padding: what is not counted is a token of the vocabulary.
    """
    logits = offset + _unequal(heat * values.standard_normal((batch, length, vocabulary)))
    targets, options = _labels(values, batch, length, vocabulary, counted, padding)
    return Inputs({"logits": logits, "targets": targets}, options)


def multi_token_loss(
    values: Values,
    *,
    depths: int,
    batch: int,
    length: int,
    vocabulary: int,
    weight: float = 0.375,
    heat: float = 2.0,
    offset: float = 0.0,
    counted: str = "all",
    padding: bool = False,
) -> Inputs:
    """The same, and the deeper, the larger the logits: each depth has a loss of its own size."""
    by_depth = (1 + np.arange(depths))[:, None, None, None]
    logits = offset + by_depth * _unequal(heat * values.standard_normal((depths, batch, length, vocabulary)))
    labels, options = _labels(values, batch, length, vocabulary, counted, padding)
    return Inputs({"logits": logits, "labels": labels}, {"weight": weight, **options})


def _unequal(logits: Array) -> Array:
    return logits * (1 + np.arange(logits.shape[-3]))[:, None, None]


def _labels(
    values: Values, batch: int, length: int, vocabulary: int, counted: str, padding: bool
) -> tuple[Array, dict[str, int]]:
    """Tokens [B, T], both ends of the vocabulary among them, and the option that says which are not counted."""
    labels = values.integers(0, vocabulary, (batch, length))
    labels[0, 0], labels[-1, -1] = 0, vocabulary - 1
    left_out = {"all": np.zeros(batch), "some": 1 + np.arange(batch), "none": np.full(batch, length)}[counted]
    index = PADDING if padding else IGNORED
    if padding:
        labels[labels == index] = 0
    labels[np.arange(length) < left_out[:, None]] = index
    return labels, {"ignore_index": index} if padding else {}


SIZES = {"batch": 3, "length": 7, "vocabulary": 37}
SIZE = "b3t7v37"
FAMILIES = (
    Family(
        function="cross_entropy",
        build=cross_entropy,
        axes=("",),
        wider=True,
        edges=(
            edge("plain", "any", SIZE, "R3", "R5", **SIZES),
            edge("large_logits", "any", SIZE, "R1", offset=1000.0, heat=4.0, **SIZES),
            edge("small_logits", "any", SIZE, "R1", offset=-1000.0, heat=4.0, **SIZES),
            edge("ignored", "any", SIZE, "R2", "R3", counted="some", **SIZES),
            edge("ignored_token", "any", SIZE, "R2", counted="some", padding=True, **SIZES),
            edge("none_counted", "any", SIZE, "R4", counted="none", **SIZES),
            edge("one_target", "any", "b1t1v37", batch=1, length=1, vocabulary=37),
        ),
    ),
    Family(
        function="multi_token_loss",
        build=multi_token_loss,
        axes=("",),
        wider=True,
        edges=(
            edge("two_modules", "any", f"m3{SIZE}", "R1", "R2", "R3", "R4", depths=3, **SIZES),
            edge("one_module", "any", f"m2{SIZE}", "R1", "R4", depths=2, **SIZES),
            edge("main_only", "any", f"m1{SIZE}", "R1", "R4", depths=1, **SIZES),
            edge("ignored", "any", f"m3{SIZE}", "R3", depths=3, counted="some", **SIZES),
            edge("ignored_token", "any", f"m2{SIZE}", "R3", depths=2, counted="some", padding=True, **SIZES),
            edge("large_logits", "any", f"m3{SIZE}", depths=3, offset=1000.0, **SIZES),
            edge("deeper_than_long", "any", "m4b2t3v37", "R2", "R5", depths=4, batch=2, length=3, vocabulary=37),
            edge("none_counted", "any", f"m2{SIZE}", "R5", depths=2, counted="none", **SIZES),
            edge("heavy", "any", f"m3{SIZE}", "R4", depths=3, weight=1.5, **SIZES),
        ),
    ),
)
