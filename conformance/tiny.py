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


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """A configuration and the seed of its weights."""

    architecture: str
    variant: str
    config: dict[str, Any]

    @property
    def size(self) -> str:
        return f"l{self.config['num_hidden_layers']}t{LENGTH}"

    @cached_property
    def blueprint(self) -> Blueprint:
        return refimpl.blueprint(self.config)

    def weights(self, dtype: str) -> dict[str, Array]:
        """The parameters by their names here, in the stored `dtype`."""
        drawn = refimpl.init(self.config, seed=len(self.variant)).weights
        normed = any("q_norm" in name for name in drawn)
        sharp = ("q_norm", "k_norm") if normed else ("q_proj", "k_proj")
        return {
            name: (drawn[name] * (SHARPNESS if any(part in name for part in sharp) else 1)).astype(FORMATS[dtype])
            for name in drawn
        }

    def write(self, directory: Path, dtype: str) -> None:
        """config.json and the tensors, in more than one shard."""
        names = self.blueprint.names
        tensors = {names[name]: array for name, array in self.weights(dtype).items()}
        largest = max(array.nbytes for array in tensors.values())
        save_checkpoint(directory, {**self.config, "torch_dtype": dtype}, tensors, max_shard_bytes=4 * largest)

    def tokens(self) -> Array:
        """Two rows, both ends of the vocabulary among them."""
        tokens = np.random.default_rng(7).integers(0, self.blueprint.vocab_size, (2, LENGTH))
        tokens[0, 3], tokens[1, -2] = 0, self.blueprint.vocab_size - 1
        return tokens


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


COMMON = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "use_cache": True,
}
SMOLLM3 = {
    **COMMON,
    "model_type": "smollm3",
    "architectures": ["SmolLM3ForCausalLM"],
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
    "use_sliding_window": False,
    "sliding_window": None,
}
QWEN3 = {
    **COMMON,
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 97,
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
# Bounds 1.6 and 4.0 of 16 entries: neither is clipped, so both betas and the truncation show.
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 4.0, "beta_slow": 1.0}
YARN_SIZES = {"head_dim": 16, "rope_theta": 100.0}


def _smollm3(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="smollm3", variant=variant, config={**SMOLLM3, **switches})


def _qwen3(variant: str, **switches: Any) -> TinyModel:
    return TinyModel(architecture="qwen3", variant=variant, config={**QWEN3, **switches})


MODELS = (
    _smollm3("tied", tie_word_embeddings=True, no_rope_layer_interval=4),
    _smollm3("untied_bias", tie_word_embeddings=False, attention_bias=True, no_rope_layer_interval=2),
    _smollm3("custom_nope", tie_word_embeddings=True, no_rope_layers=[0, 1, 1, 0]),
    _qwen3("yarn", **YARN_SIZES, rope_scaling=YARN),
    _qwen3("yarn_untruncated", **YARN_SIZES, rope_scaling={**YARN, "truncate": False, "attention_factor": 1.4}),
    _qwen3("window", use_sliding_window=True, sliding_window=5, max_window_layers=1),
    _qwen3("tied_bias", tie_word_embeddings=True, attention_bias=True),
)
