"""Samplers: how the next token is chosen from logits, and where the randomness comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.layers import sample_token, token_distribution
from refimpl.numerics import Array

Sampler = Callable[[Array], Array]


def greedy(logits: Array) -> Array:
    """The most likely token of each row: logits [B, V] to tokens int [B]; of equal logits the first."""
    return np.argmax(logits, axis=-1)


class Sampling:
    """A sampler that draws from `token_distribution` with these options; the same seed gives the same tokens.

    Distributions are float64, whatever the logits are, so that what is drawn and what is compared are the same numbers.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
    ) -> None:
        self.options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        token_distribution(np.zeros(1), **self.options)  # refuses what is no option before the first token is computed
        self._generator = np.random.default_rng(seed)

    def distribution(self, logits: Array) -> Array:
        """Logits [..., V] to the probabilities [..., V] that tokens are drawn from."""
        return token_distribution(logits.astype(np.float64), **self.options)

    def uniforms(self, *shape: int) -> Array:
        """Fresh numbers in [0, 1)."""
        return self._generator.random(shape)

    def draw(self, probabilities: Array) -> Array:
        """A token of each distribution [..., V]: int64 [...]."""
        return sample_token(probabilities, self.uniforms(*probabilities.shape[:-1]))

    def __call__(self, logits: Array) -> Array:
        return self.draw(self.distribution(logits))


class Chosen(Sampling):
    """Any function from logits [B, V] to tokens [B], as a sampler of [B, T, V] whose distributions are 1 at what it chose.

    Also where the function draws at random, the tokens that speculation keeps are those that it chose from the target's logits.
    """

    def __init__(self, function: Sampler) -> None:
        super().__init__()
        self.function = function

    def distribution(self, logits: Array) -> Array:
        chosen = [one_token_a_row(self.function(logits[:, place]), len(logits)) for place in range(logits.shape[1])]
        return one_hot(np.stack(chosen, axis=1), logits.shape[-1])

    def uniforms(self, *shape: int) -> Array:
        return np.zeros(shape)


def as_sampling(sampler: Sampler) -> Sampling:
    """`sampler` as one with distributions."""
    return sampler if isinstance(sampler, Sampling) else Chosen(sampler)


def one_hot(tokens: Array, vocabulary: int) -> Array:
    """The distributions [..., V] that are 1 at tokens int [...]."""
    return (np.arange(vocabulary) == tokens[..., None]).astype(np.float64)


def one_token_a_row(chosen: Any, rows: int) -> Array:
    """What a sampler returned as an array. ValueError unless it is one integer a row."""
    array = np.asarray(chosen)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"generate: sampler returned shape {array.shape} and dtype {array.dtype} but must give integers ({rows},)"
        )
    return array
