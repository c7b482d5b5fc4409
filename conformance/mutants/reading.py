"""Models whose configuration or weights are misread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.mutants.mutant import Mutant
from refimpl.numerics import Array

Config = dict[str, Any]


def _with(**changes: Any) -> Callable[[Config], Config]:
    """Keys that are there have other values; None: they are not read."""

    def change(config: Config) -> Config:
        read = {key: changes.get(key, value) for key, value in config.items()}
        return {key: value for key, value in read.items() if value is not None or config[key] is None}

    return change


def _rotating_everywhere(config: Config) -> Config:
    if config["model_type"] != "smollm3":
        return config
    return {**config, "no_rope_layers": [1] * config["num_hidden_layers"]}


def _inverted(config: Config) -> Config:
    if config["model_type"] != "smollm3":
        return config
    interval = config.get("no_rope_layer_interval", 4)
    flags = config.get("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(config["num_hidden_layers"])]
    return {**config, "no_rope_layers": [1 - flag for flag in flags]}


def _biases_dropped(name: str, array: Array) -> Array:
    return np.zeros_like(array) if name.endswith(("k_proj.bias", "v_proj.bias")) else array


def _gains_not_applied(name: str, array: Array) -> Array:
    return np.ones_like(array) if name.endswith(("q_norm.weight", "k_norm.weight")) else array


MUTANTS = (
    Mutant(
        id="smollm3-nope-config-field-unread",
        says="Every layer rotates, whatever the configuration says.",
        config=_rotating_everywhere,
        architectures=("smollm3",),
    ),
    Mutant(
        id="smollm3-nope-flag-inverted",
        says="The flag for a layer that rotates is read as one for a layer that does not.",
        config=_inverted,
        architectures=("smollm3",),
    ),
    Mutant(
        id="yarn-block-unread",
        says="The block that scales the frequencies is not read.",
        config=_with(rope_scaling=None),
        reports=("llama3-scaling-ignored",),
        architectures=("qwen3", "llama"),
    ),
    Mutant(
        id="another-base",
        says="The base of the rotation is that of another model.",
        config=_with(rope_theta=5e5),
        reports=("router-scores-not-upcast-mixtral",),
        architectures=("smollm3", "qwen3"),
    ),
    Mutant(
        id="temperature-length-unread",
        says="Attention has no temperature.",
        config=_with(attn_temperature_len=-1),
        architectures=("grok",),
    ),
    Mutant(
        id="original-taken-for-yarn",
        says="A base that is to be scaled is taken for YaRN.",
        config=_with(rope_type="yarn"),
        architectures=("grok",),
    ),
    Mutant(
        id="lowrank-module-drops-bias",
        says="The modules that make keys and values forget their biases.",
        weights=_biases_dropped,
        architectures=("qwen3", "gpt_oss"),
    ),
    Mutant(
        id="qk-norm-scale-created-not-applied",
        says="Queries and keys are normed without their gains.",
        weights=_gains_not_applied,
        architectures=("qwen3", "qwen3_moe"),
    ),
)
