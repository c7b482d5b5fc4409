"""Rotary frequencies whose scaling is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from conformance.family import WIDE_DTYPES
from conformance.mutants.mutant import layer
from refimpl import layers
from refimpl.numerics import Array


def scaling_ignored(rotary_dim: int, *, theta: float, **options: Any) -> Array:
    return layers.rope_frequencies(rotary_dim, theta=theta)


def truncation_ignored(rotary_dim: int, *, truncate: bool = True, **options: Any) -> Array:
    return layers.yarn_rope_frequencies(rotary_dim, truncate=True, **options)


def blend_ignored(rotary_dim: int, *, blend: str = "linear", **options: Any) -> Array:
    return layers.grok_yarn_rope_frequencies(rotary_dim, **options)


def all_is_kept_before_the_ramp(rotary_dim: int, *, extrapolation_factor: float = 1.0, **options: Any) -> Array:
    return layers.grok_yarn_rope_frequencies(rotary_dim, **options)


def step_behind_the_bound(
    rotary_dim: int, *, extrapolation_factor: float = 1.0, blend: str = "linear", theta: float, factor: float, **options: Any
) -> Array:
    """The ramp of the YaRN of other models, which differs where its bounds are equal."""
    f, scaled = (layers.yarn_rope_frequencies(rotary_dim, theta=theta, factor=s, **options) for s in (1.0, 2.0))
    kept = (2 * scaled / f - 1) * extrapolation_factor
    return f * factor ** (kept - 1) if blend == "log" else f * kept + f / factor * (1 - kept)


def theta_times_factor(rotary_dim: int, *, theta: float, factor: float, original_max_position_embeddings: int) -> Array:
    return layers.rope_frequencies(rotary_dim, theta=theta * factor)


def blend_over_wavelengths(
    rotary_dim: int,
    *,
    theta: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Array:
    f = layers.rope_frequencies(rotary_dim, theta=theta)
    turns = original_max_position_embeddings * f / (2 * math.pi)
    long, short = 1 / low_freq_factor, 1 / high_freq_factor
    between = (long - 1 / turns) / (long - short) if long > short else (turns > high_freq_factor).astype(float)
    blend = np.clip(between, 0, 1)
    return (1 - blend) * f / factor + blend * f


def factor_of_another_release(rotary_dim: int, *, factor: float, **options: Any) -> Array:
    return layers.llama3_rope_frequencies(rotary_dim, factor=32.0 if factor == 8 else 8.0, **options)


YARN, LLAMA3, GROK = "yarn_rope_frequencies", "llama3_rope_frequencies", "grok_yarn_rope_frequencies"
MUTANTS = tuple(
    layer(id, function, faulty, says, *reports, dtypes=WIDE_DTYPES)
    for id, function, faulty, says, *reports in (
        ("yarn-ignored", YARN, scaling_ignored, "Frequencies are those of the base alone."),
        (
            "yarn-truncate-flag-ignored-sglang",
            YARN,
            truncation_ignored,
            "The bounds of the ramp are rounded to whole numbers though the model says not to.",
        ),
        ("llama3-scaling-ignored", LLAMA3, scaling_ignored, "The block that scales the frequencies is not recognised."),
        (
            "llama3-scaling-wrong-factor-constants",
            LLAMA3,
            factor_of_another_release,
            "The factor is that of another release of the family.",
        ),
        (
            "llama3-smooth-on-wavelength",
            LLAMA3,
            blend_over_wavelengths,
            "Between the bands the blend is linear in the wavelength and not in the number of turns.",
        ),
        ("logarithmic-blend-ignored", GROK, blend_ignored, "A blend of logarithms is taken for a linear one."),
        ("extrapolation-factor-ignored", GROK, all_is_kept_before_the_ramp, "The extrapolation factor is 1."),
        ("step-behind-the-bound", GROK, step_behind_the_bound, "Where its bounds are equal the ramp steps behind them."),
        (
            "theta-times-factor",
            "theta_scaled_rope_frequencies",
            theta_times_factor,
            "The base is multiplied by the factor itself.",
        ),
        ("linear-scaling-ignored", "linear_rope_frequencies", scaling_ignored, "Frequencies are not divided."),
    )
)
