"""The input of a module for multi-token prediction: two halves of unlike size, so that their places show."""

from __future__ import annotations

from conformance.family import Family, Inputs, Values, edge


def multi_token_input(
    values: Values, *, batch: int, length: int, width: int, outputs: int | None = None, heat: float = 3.0
) -> Inputs:
    """Hidden states `heat` times as large as the embeddings. outputs: rows of the weight, by default as many as the width."""
    embedding, hidden = values.standard_normal((2, batch, length, width))
    weight = values.standard_normal((outputs or width, 2 * width)) / width**0.5
    return Inputs({"embedding": embedding, "hidden": heat * hidden, "weight": weight}, {})


FAMILIES = (
    Family(
        function="multi_token_input",
        build=multi_token_input,
        axes=("BTO",),
        edges=(
            edge("halves", "any", "b2t5d12", "R1", batch=2, length=5, width=12),
            edge("like_halves", "any", "b2t5d12", "R1", "R2", batch=2, length=5, width=12, heat=1.0),
            edge("one_pair", "decode", "b1t1d12", "R1", batch=1, length=1, width=12),
            edge("narrower", "any", "b2t3d12", batch=2, length=3, width=12, outputs=7),
        ),
    ),
)
