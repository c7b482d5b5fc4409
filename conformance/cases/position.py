"""Positions: frequencies where scalings differ, thousands of positions, partial and interleaved rotation."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.family import INTEGERS, WIDE_DTYPES, Family, Inputs, Values, edge
from refimpl import layers


def frequencies(values: Values, *, rotary_dim: int, **options: Any) -> Inputs:
    """The numbers themselves: there is nothing to draw."""
    return Inputs({"rotary_dim": rotary_dim}, options)


def rope_cos_sin(
    values: Values, *, batch: int, length: int, pairs: int, farthest: int = 100, attention_factor: float = 1.0
) -> Inputs:
    """Any positions up to `farthest`, in any order, with gaps and repetitions."""
    positions = values.integers(0, farthest + 1, (batch, length))
    positions[0, 0] = farthest
    inv_freq = layers.rope_frequencies(2 * pairs, theta=1e4)
    return Inputs(
        {"positions": positions, "inv_freq": inv_freq},
        {} if attention_factor == 1 else {"attention_factor": attention_factor},
    )


def rotary_embedding(
    values: Values,
    *,
    batch: int,
    length: int,
    heads: int,
    width: int,
    rotated: int,
    farthest: int = 100,
    interleaved: bool = False,
) -> Inputs:
    """Heads of `width` entries of which the first `rotated` turn, at positions up to `farthest`."""
    positions = values.integers(0, farthest + 1, (batch, length))
    cos, sin = layers.rope_cos_sin(positions, layers.rope_frequencies(rotated, theta=1e4))
    x = values.standard_normal((batch, length, heads, width))
    return Inputs({"x": x, "cos": cos, "sin": sin}, {"interleaved": True} if interleaved else {})


def position_embedding(values: Values, *, batch: int, length: int, table: int, width: int, padding: int = 0) -> Inputs:
    """Positions at both ends of the table; the first `padding` of each row are padding."""
    positions = values.integers(0, table, (batch, length))
    positions[0, -1], positions[-1, padding] = table - 1, 0
    positions[:, :padding] = -1
    return Inputs({"positions": positions, "weight": values.standard_normal((table, width))}, {})


def token_order(values: Values, *, batch: int, length: int, padding: str = "left") -> Inputs:
    """A 0/1 mask with padding on one side, or anywhere; row 0 is full and the last row empty."""
    lengths = values.integers(1, length + 1, batch)[:, None]
    columns = np.arange(length)
    mask = {
        "left": columns >= length - lengths,
        "right": columns < lengths,
        "anywhere": values.random((batch, length)) < 0.6,
    }[padding].astype(np.int64)
    mask[0], mask[-1] = 1, 0
    return Inputs({"attention_mask": mask}, {})


def temperature(values: Values, *, batch: int, length: int, farthest: int, **options: Any) -> Inputs:
    """Positions up to `farthest`, and those around the first step or the length after which the temperature grows."""
    border = options.get("length_of_one", options.get("floor", 0)) - options.get("offset", 1)
    positions = values.integers(0, farthest + 1, (batch, length))
    positions[0, 0] = farthest
    positions[-1, :3] = np.arange(border - 1, border + 2).clip(0)[:length]
    if "length_of_one" in options:
        options["length"] = options.pop("length_of_one")
    return Inputs({"positions": positions}, options)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
GROK = {
    "theta": 208533496,
    "factor": 16.0,
    "original_max_position_embeddings": 8192,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
}
SCALED: dict[str, Any] = {"wider": True, "dtypes": WIDE_DTYPES, "axes": ("P",), "build": frequencies}
FAMILIES = (
    Family(
        function="rope_frequencies",
        edges=(
            edge("whole", "any", "p64", "R1", rotary_dim=64, theta=1e4),
            edge("large_theta", "any", "p128", "R1", rotary_dim=128, theta=2e6),
            edge("narrow", "any", "p2", "R1", rotary_dim=2, theta=1e4),
        ),
        **SCALED,
    ),
    Family(
        function="linear_rope_frequencies",
        edges=(edge("eight", "any", "p64", "R1", rotary_dim=64, theta=1e6, factor=8.0),),
        **SCALED,
    ),
    Family(
        function="llama3_rope_frequencies",
        edges=(
            edge("three_bands", "any", "p128", "R1", rotary_dim=128, theta=5e5, **LLAMA3),
            edge("other_factor", "any", "p64", "R1", rotary_dim=64, theta=5e5, **{**LLAMA3, "factor": 32.0}),
            edge("no_band", "any", "p32", "R2", rotary_dim=32, theta=1e4, **{**LLAMA3, "high_freq_factor": 1.0}),
        ),
        **SCALED,
    ),
    Family(
        function="yarn_rope_frequencies",
        edges=(
            edge("truncated", "any", "p64", "R1", rotary_dim=64, theta=1e4, factor=4.0, original_max_position_embeddings=4096),
            edge(
                "not_truncated",
                "any",
                "p64",
                "R1",
                rotary_dim=64,
                theta=1.5e5,
                factor=32.0,
                original_max_position_embeddings=4096,
                truncate=False,
            ),
            edge(
                "high_bound",
                "any",
                "p8",
                "R2",
                rotary_dim=8,
                theta=10.0,
                factor=4.0,
                original_max_position_embeddings=4096,
            ),
            edge(
                "other_betas",
                "any",
                "p32",
                "R1",
                rotary_dim=32,
                theta=1e4,
                factor=40.0,
                original_max_position_embeddings=512,
                beta_fast=16.0,
                beta_slow=2.0,
            ),
            edge("low_bound", "any", "p16", "R2", rotary_dim=16, theta=1e4, factor=4.0, original_max_position_embeddings=64),
            edge(
                "equal_bounds",
                "any",
                "p8",
                "R3",
                rotary_dim=8,
                theta=1e4,
                factor=4.0,
                original_max_position_embeddings=4,
            ),
        ),
        **SCALED,
    ),
    Family(
        function="grok_yarn_rope_frequencies",
        edges=(
            edge("linear", "any", "p128", "R1", rotary_dim=128, **GROK),
            edge("log", "any", "p128", "R1", rotary_dim=128, **GROK, blend="log"),
            edge("kept_in_part", "any", "p64", "R3", rotary_dim=64, **GROK, extrapolation_factor=0.75),
            edge("log_kept_in_part", "any", "p64", "R1", "R3", rotary_dim=64, **GROK, blend="log", extrapolation_factor=0.75),
            edge("none_kept", "any", "p32", "R1", rotary_dim=32, **GROK, blend="log", extrapolation_factor=0.0),
            edge(
                "default_betas", "any", "p32", "R1", rotary_dim=32, theta=1e4, factor=8.0, original_max_position_embeddings=512
            ),
            edge("equal_bounds", "any", "p8", "R2", rotary_dim=8, theta=1e4, factor=4.0, original_max_position_embeddings=4),
            edge(
                "log_equal_bounds",
                "any",
                "p16",
                "R2",
                rotary_dim=16,
                theta=1e4,
                factor=4.0,
                original_max_position_embeddings=6,
                blend="log",
            ),
        ),
        **SCALED,
    ),
    Family(
        function="theta_scaled_rope_frequencies",
        edges=(
            edge("release", "any", "p128", "R1", rotary_dim=128, theta=2e8, factor=16.0, original_max_position_embeddings=8192),
            edge("short", "any", "p32", "R1", rotary_dim=32, theta=1e4, factor=4.0, original_max_position_embeddings=64),
            edge("shrunk", "any", "p16", "R1", rotary_dim=16, theta=1e4, factor=0.5, original_max_position_embeddings=512),
        ),
        **SCALED,
    ),
    Family(
        function="rope_cos_sin",
        build=rope_cos_sin,
        axes=("BTP", "BTP"),
        dtypes=WIDE_DTYPES,
        wider=True,
        edges=(
            edge("near", "any", "b2t5p3", "R1", batch=2, length=5, pairs=3),
            edge("far", "any", "b2t7p16", "R1", batch=2, length=7, pairs=16, farthest=6000),
            edge("factor", "decode", "b3t1p8", "R2", batch=3, length=1, pairs=8, farthest=4000, attention_factor=1.375),
        ),
    ),
    Family(
        function="rotary_embedding",
        build=rotary_embedding,
        axes=("BTHK",),
        edges=(
            edge("half_split", "prefill", "b2t5h3k8", "R1", batch=2, length=5, heads=3, width=8, rotated=8),
            edge("interleaved", "prefill", "b2t5h3k8", "R1", batch=2, length=5, heads=3, width=8, rotated=8, interleaved=True),
            edge("far", "decode", "b3t1h5k16", "R3", batch=3, length=1, heads=5, width=16, rotated=16, farthest=6000),
            edge("partial", "prefill", "b2t5h3k10p6", "R2", batch=2, length=5, heads=3, width=10, rotated=6),
            edge(
                "partial_interleaved",
                "prefill",
                "b2t5h3k10p4",
                "R1",
                "R2",
                batch=2,
                length=5,
                heads=3,
                width=10,
                rotated=4,
                interleaved=True,
            ),
            edge("one_pair", "any", "b1t3h2k2", "R1", batch=1, length=3, heads=2, width=2, rotated=2),
        ),
    ),
    Family(
        function="position_embedding",
        build=position_embedding,
        axes=("BTD",),
        edges=(
            edge("ends", "any", "b2t5d7", "R1", batch=2, length=5, table=11, width=7),
            edge("padding", "padded", "b2t6d7", "R2", batch=2, length=6, table=11, width=7, padding=2),
        ),
    ),
    Family(
        function="log_length_temperature",
        build=temperature,
        axes=("BT",),
        dtypes=WIDE_DTYPES,
        wider=True,
        edges=(
            edge("short", "any", "b3t7", "R1", batch=3, length=7, farthest=40, length_of_one=4),
            edge("far", "any", "b2t7", "R1", batch=2, length=7, farthest=100_000, length_of_one=1024),
            edge("before", "any", "b2t5", "R1", batch=2, length=5, farthest=50, length_of_one=64),
        ),
    ),
    Family(
        function="log_floor_temperature",
        build=temperature,
        axes=("BT",),
        dtypes=WIDE_DTYPES,
        wider=True,
        edges=(
            edge("steps", "any", "b3t7", "R1", batch=3, length=7, farthest=40, scale=0.5, floor=4),
            edge("released", "any", "b2t7", "R1", batch=2, length=7, farthest=100_000, scale=0.1, floor=8192),
            edge("no_offset", "any", "b3t7", batch=3, length=7, farthest=40, scale=0.3, floor=5, offset=0),
        ),
    ),
    Family(
        function="token_order",
        build=token_order,
        axes=("BS",),
        dtypes=INTEGERS,
        edges=tuple(
            edge(side, "padded", "b4s9", "R1", batch=4, length=9, padding=side) for side in ("left", "right", "anywhere")
        ),
    ),
)
