"""The ends of a model: tokens at both ends of the vocabulary, the scale, logits hot enough for the cap."""

from __future__ import annotations

from conformance.family import Family, Inputs, Values, edge


def embedding(values: Values, *, batch: int, length: int, vocabulary: int, width: int, scale: float | None = None) -> Inputs:
    """The first and the last token of the vocabulary among others."""
    tokens = values.integers(0, vocabulary, (batch, length))
    tokens[0, 0], tokens[-1, -1] = 0, vocabulary - 1
    weight = values.standard_normal((vocabulary, width))
    return Inputs({"tokens": tokens, "weight": weight}, {} if scale is None else {"scale": scale})


def lm_head(
    values: Values,
    *,
    batch: int,
    length: int,
    vocabulary: int,
    width: int,
    heat: float = 1.0,
    scale: float | None = None,
    softcap: float | None = None,
) -> Inputs:
    """Unscaled logits of size `heat`."""
    x = values.standard_normal((batch, length, width))
    weight = heat * values.standard_normal((vocabulary, width)) / width**0.5
    switches = {"scale": scale, "softcap": softcap}
    return Inputs({"x": x, "weight": weight}, {name: value for name, value in switches.items() if value is not None})


SIZES = {"batch": 2, "length": 5, "vocabulary": 37, "width": 12}
SIZE = "b2t5v37d12"
FAMILIES = (
    Family(
        function="embedding",
        build=embedding,
        axes=("BTD",),
        edges=(
            edge("ends", "any", SIZE, "R1", **SIZES),
            edge("scale", "any", SIZE, "R2", scale=12**0.5, **SIZES),
            edge("one_token", "decode", "b1t1v37d12", "R1", **{**SIZES, "batch": 1, "length": 1}),
        ),
    ),
    Family(
        function="lm_head",
        build=lm_head,
        axes=("BTV",),
        edges=(
            edge("plain", "any", SIZE, **SIZES),
            edge("square", "any", "b2t5v12d12", **{**SIZES, "vocabulary": 12}),
            edge("scale", "any", SIZE, "R1", scale=0.25, **SIZES),
            edge("softcap", "any", SIZE, "R1", softcap=30.0, heat=40.0, **SIZES),
            edge("scale_softcap", "any", SIZE, "R1", scale=0.5, softcap=5.0, heat=16.0, **SIZES),
        ),
    ),
)
