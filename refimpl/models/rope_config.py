"""The rotary keys of a config.json, old (`rope_theta`, `rope_scaling`) and new (`rope_parameters`), as a `Rope`."""

from __future__ import annotations

from typing import Any

from refimpl.blocks import Linear, Llama3, Rope, Yarn
from refimpl.config import Config
from refimpl.layers import yarn_attention_factor

Scaling = Linear | Llama3 | Yarn | None


def read_rope(config: Config, *, head_dim: int, default_theta: float) -> Rope:
    """The rotation of all layers of a model that has one.

    Keys: rope_theta, rope_scaling {type | rope_type, ...}, rope_parameters {rope_type, rope_theta, ...},
    partial_rotary_factor, max_position_embeddings (the original length where a scaling does not name it).
    """
    theta = config.take("rope_theta", float, default_theta)
    partial = config.take("partial_rotary_factor", float, 1.0)
    max_positions = config.optional("max_position_embeddings", int)
    old, new = config.optional("rope_scaling", dict), config.optional("rope_parameters", dict)
    if old and new and old != new:
        raise ValueError("config: rope_scaling and rope_parameters are both set and differ; one of them must go")
    keys = Config({"model_type": config.name, **(new or old or {})})
    theta = keys.take("rope_theta", float, theta)
    partial = keys.take("partial_rotary_factor", float, partial)
    scaling = _scaling(keys, max_positions)
    keys.finish()
    return Rope(rotary_dim=int(head_dim * partial), theta=theta, scaling=scaling)


def _scaling(keys: Config, max_positions: int | None) -> Scaling:
    kind = keys.take("rope_type", str, keys.take("type", str, "default"))
    match kind:
        case "default":
            return None
        case "linear":
            return Linear(factor=keys.require("factor", float))
        case "llama3":
            return Llama3(
                factor=keys.require("factor", float),
                low_freq_factor=keys.require("low_freq_factor", float),
                high_freq_factor=keys.require("high_freq_factor", float),
                original_max_position_embeddings=_original_length(keys, max_positions),
            )
        case "yarn":
            return _yarn(keys, max_positions)
    raise ValueError(f"config: rope_type is {kind!r} but must be one of 'default', 'linear', 'llama3', 'yarn'")


def _yarn(keys: Config, max_positions: int | None) -> Yarn:
    original = _original_length(keys, max_positions)
    factor = keys.optional("factor", float)
    if factor is None:
        if max_positions is None:
            raise ValueError("config: yarn needs factor, or max_position_embeddings to derive it from")
        factor = max_positions / original
    mscale, mscale_all_dim = keys.optional("mscale", float), keys.optional("mscale_all_dim", float)
    attention_factor = keys.optional("attention_factor", float)
    if attention_factor is None:
        attention_factor = yarn_attention_factor(factor, mscale=mscale, mscale_all_dim=mscale_all_dim)
    return Yarn(
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=keys.optional("beta_fast", float) or 32.0,
        beta_slow=keys.optional("beta_slow", float) or 1.0,
        truncate=keys.take("truncate", bool, True),
        attention_factor=attention_factor,
    )


def _original_length(keys: Config, max_positions: int | None) -> int:
    value: Any = keys.optional("original_max_position_embeddings", int)
    if value is None:
        value = max_positions
    if value is None:
        raise ValueError("config: rope scaling needs original_max_position_embeddings, or max_position_embeddings in its place")
    return int(value)
