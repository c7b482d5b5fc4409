"""Rotary position embedding as a part of a model: width, base, scaling, layout."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy.typing as npt

from refimpl import layers
from refimpl.numerics import Array


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Position interpolation (`linear_rope_frequencies`)."""

    factor: float


@dataclass(frozen=True, kw_only=True)
class Llama3:
    """Llama 3 scaling (`llama3_rope_frequencies`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, kw_only=True)
class Yarn:
    """YaRN (`yarn_rope_frequencies`); attention_factor multiplies cos and sin, softmax_factor the scale of latent attention."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    truncate: bool
    attention_factor: float
    softmax_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GrokYarn:
    """YaRN of Grok 2 (`grok_yarn_rope_frequencies`)."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    extrapolation_factor: float
    blend: Literal["linear", "log"]


@dataclass(frozen=True, kw_only=True)
class ThetaScaled:
    """A larger base (`theta_scaled_rope_frequencies`)."""

    factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotation of the first `rotary_dim` entries of a head."""

    rotary_dim: int
    theta: float
    scaling: Linear | Llama3 | Yarn | GrokYarn | ThetaScaled | None = None
    interleaved: bool = False

    @property
    def attention_factor(self) -> float:
        return self.scaling.attention_factor if isinstance(self.scaling, Yarn) else 1.0

    @property
    def softmax_factor(self) -> float:
        """What the scale of latent attention is multiplied by; any other attention leaves it alone."""
        return self.scaling.softmax_factor if isinstance(self.scaling, Yarn) else 1.0

    def rule(self) -> tuple[str, dict[str, Any]]:
        """The layer that makes its frequencies, and the options that its scaling gives to it."""
        match self.scaling:
            case None:
                return "rope_frequencies", {}
            case Linear():
                return "linear_rope_frequencies", asdict(self.scaling)
            case Llama3():
                return "llama3_rope_frequencies", asdict(self.scaling)
            case Yarn():
                options = asdict(self.scaling)
                del options["attention_factor"], options["softmax_factor"]
                return "yarn_rope_frequencies", options
            case GrokYarn():
                return "grok_yarn_rope_frequencies", asdict(self.scaling)
            case ThetaScaled():
                return "theta_scaled_rope_frequencies", asdict(self.scaling)

    def frequencies(self, dtype: npt.DTypeLike) -> Array:
        """inv_freq [P/2] in `dtype`."""
        name, options = self.rule()
        return layers.VOCABULARY[name](self.rotary_dim, theta=self.theta, dtype=dtype, **options)
