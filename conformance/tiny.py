"""Small models with every switch of their architecture at work, as checkpoints in the Hugging Face layout.

Sizes are odd and differ from each other; queries and keys are large enough for attention to look far and near, so that a
position encoding ignored, added or scaled wrongly moves the logits by far more than their rounding; eps has the size of the
activations; norms and biases are random.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import refimpl
from conformance.readings import Exact
from refimpl.blocks import State
from refimpl.blueprint import Blueprint
from refimpl.checkpoint import save_checkpoint
from refimpl.layers import token_order
from refimpl.numerics import FORMATS, Array

LENGTH = 21
# Query and key projections (or their norms, where there are any) times this: attention logits of size 4.
SHARPNESS = 2.0
# Router weights times this: the choice of experts is far from a tie.
DECISIVENESS = 8.0


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """A configuration and the seed of its weights."""

    architecture: str
    variant: str
    config: dict[str, Any]

    @property
    def size(self) -> str:
        return f"l{len(self.blueprint.layers)}t{LENGTH}"

    @cached_property
    def blueprint(self) -> Blueprint:
        return refimpl.blueprint(self.config)

    @cached_property
    def _made(self) -> dict[str, dict[str, Array]]:
        return {}

    def weights(self, dtype: str) -> dict[str, Array]:
        """The parameters by their names here, in the stored `dtype`; quantised ones as their storage rounds them, in float64
        where `dtype` does not hold that. Read only.
        """
        if dtype not in self._made:
            self._made[dtype] = self._make(dtype)
            for array in self._made[dtype].values():
                array.flags.writeable = False
        return self._made[dtype]

    def _make(self, dtype: str) -> dict[str, Array]:
        drawn = refimpl.init(self.config, seed=len(self.variant)).weights
        normed = any("q_norm" in name for name in drawn)
        sharp = ("q_norm", "k_norm") if normed else ("q_proj", "k_proj")
        # Keys of latent attention are made together with the values, so that its queries alone are scaled.
        queries = ("mixer.q_proj", "mixer.q_b_proj") if any("kv_b_proj" in name for name in drawn) else ()
        latent = dict.fromkeys(queries, 1.5 * SHARPNESS)
        factors = {**latent, **dict.fromkeys(sharp, SHARPNESS), "router.weight": DECISIVENESS}

        def factor(name: str) -> float:
            return next((value for part, value in factors.items() if part in name), 1.0)

        layout = self.blueprint.layouts[0]
        tensors = layout.write({name: (drawn[name] * factor(name)).astype(FORMATS[dtype]) for name in drawn})
        stored = {name: source.read(tensors.__getitem__, FORMATS["float64"]) for name, source in layout.sources.items()}
        return {name: np.ascontiguousarray(_narrow(array, dtype)) for name, array in stored.items()}

    def write(self, directory: Path, dtype: str) -> None:
        """config.json and the tensors, in more than one shard."""
        tensors = self.blueprint.layouts[0].write(self.weights(dtype))
        largest = max(array.nbytes for array in tensors.values())
        save_checkpoint(directory, {**self.config, "torch_dtype": dtype}, tensors, max_shard_bytes=4 * largest)

    def tokens(self) -> Array:
        """Two rows, both ends of the vocabulary among them."""
        tokens = np.random.default_rng(7).integers(0, self.blueprint.vocab_size, (2, LENGTH))
        tokens[0, 3], tokens[1, -2] = 0, self.blueprint.vocab_size - 1
        return tokens


def _narrow(array: Array, dtype: str) -> Array:
    """`array` in a narrower format, if that holds its numbers."""
    narrow = array.astype(FORMATS[dtype])
    return narrow if np.array_equal(narrow.astype(array.dtype), array) else array


class Specification:
    """The model in a reading, called like a backend's engine; its logits are wide."""

    def __init__(self, tiny: TinyModel, reading: Exact, dtype: str) -> None:
        self._blueprint, self._reading = tiny.blueprint, reading
        stored = tiny.weights(dtype)
        self._weights = {name: reading.cast(reading.disturb(array.astype(reading.wide))) for name, array in stored.items()}

    def __call__(
        self, tokens: Array, cache: tuple[list[State], Array] | None = None, *, attention_mask: Array | None = None
    ) -> tuple[Array, Any]:
        past = np.ones((len(tokens), 0), np.int64) if cache is None else cache[1]
        mask = np.concatenate([past, np.ones_like(tokens)], axis=1) if attention_mask is None else attention_mask
        order = token_order(mask)
        q_order = order[:, past.shape[1] :]
        logits, states = self._blueprint.forward(
            self._reading.ops(),
            self._weights,
            tokens,
            positions=np.maximum(q_order, 0),
            q_order=q_order,
            k_order=order,
            states=None if cache is None else cache[0],
            angle_dtype=self._reading.angle_format,
        )
        return self._reading.widen(logits), (states, mask)
