"""The rotary keys of a config.json, old (`rope_theta`, `rope_scaling`) and new (`rope_parameters`), as a `Rope`."""

from __future__ import annotations

from refimpl.blocks import Linear, Llama3, Rope, Yarn
from refimpl.config import Config
from refimpl.layers import yarn_attention_factor

Scaling = Linear | Llama3 | Yarn | None


def read_rope(config: Config, *, head_dim: int, default_theta: float, partial: bool = False) -> Rope:
    """The rotation of all layers of a model that has one.

    Keys: rope_theta, rope_scaling {type | rope_type, ...}, rope_parameters {rope_type, rope_theta, ...},
    partial_rotary_factor, max_position_embeddings (the original length where a scaling does not name it). Where two keys
    say the same thing they must agree. partial: whether the architecture rotates a part of a head where it is told to.
    """
    max_positions = config.optional_positive("max_position_embeddings")
    old, new = config.optional("rope_scaling", dict), config.optional("rope_parameters", dict)
    if old and new and old != new:
        raise ValueError("config: rope_scaling and rope_parameters are both set and differ; one of them must go")
    keys = Config({"model_type": config.name, **(new or old or {})})
    theta = keys.bounded("rope_theta", _either(config, keys, "rope_theta", default_theta), above=0)
    share = keys.bounded("partial_rotary_factor", _either(config, keys, "partial_rotary_factor", 1.0), above=0)
    if share > 1 or (share < 1 and not partial):
        raise ValueError(f"config: partial_rotary_factor is {share} but {config.name!r} rotates whole heads")
    rotary_dim = int(head_dim * share)
    if rotary_dim < 2 or rotary_dim % 2:
        raise ValueError(f"config: {rotary_dim} of {head_dim} entries of a head are to be rotated, but they go in pairs")
    scaling = _scaling(keys, theta, max_positions)
    keys.finish()
    return Rope(rotary_dim=rotary_dim, theta=theta, scaling=scaling)


def _either(config: Config, keys: Config, name: str, default: float) -> float:
    """A key that stands at the top level, among the rotary keys, or equal in both."""
    outer, inner = config.optional(name, float), keys.optional(name, float)
    if outer is not None and inner is not None and outer != inner:
        raise ValueError(f"config: {name} is {outer} at the top level but {inner} among the rotary keys; one of them must go")
    return next((value for value in (inner, outer) if value is not None), default)


def _scaling(keys: Config, theta: float, max_positions: int | None) -> Scaling:
    old, new = keys.optional("type", str), keys.optional("rope_type", str)
    if old and new and old != new:
        raise ValueError(f"config: type is {old!r} but rope_type is {new!r}; one of them must go")
    match kind := next((name for name in (new, old) if name is not None), "default"):
        case "default":
            return None
        case "linear":
            return Linear(factor=_factor(keys))
        case "llama3":
            return _llama3(keys, max_positions)
        case "yarn":
            return _yarn(keys, theta, max_positions)
    raise ValueError(f"config: rope_type is {kind!r} but must be one of 'default', 'linear', 'llama3', 'yarn'")


def _llama3(keys: Config, max_positions: int | None) -> Llama3:
    low, high = (_positive(keys, name, keys.require(name, float)) for name in ("low_freq_factor", "high_freq_factor"))
    if low > high:
        raise ValueError(f"config: low_freq_factor is {low}, which exceeds high_freq_factor = {high}")
    return Llama3(
        factor=_factor(keys),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position_embeddings=_original_length(keys, max_positions),
    )


def _yarn(keys: Config, theta: float, max_positions: int | None) -> Yarn:
    if theta <= 1:
        raise ValueError(f"config: rope_theta is {theta} but needs a number above 1 for yarn")
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
    fast, slow = keys.optional("beta_fast", float), keys.optional("beta_slow", float)
    return Yarn(
        factor=_positive(keys, "factor", factor),
        original_max_position_embeddings=original,
        beta_fast=_positive(keys, "beta_fast", 32.0 if fast is None else fast),
        beta_slow=_positive(keys, "beta_slow", 1.0 if slow is None else slow),
        truncate=keys.take("truncate", bool, True),
        attention_factor=_positive(keys, "attention_factor", attention_factor),
    )


def _factor(keys: Config) -> float:
    return _positive(keys, "factor", keys.require("factor", float))


def _positive(keys: Config, name: str, value: float) -> float:
    return keys.bounded(name, value, above=0)


def _original_length(keys: Config, max_positions: int | None) -> int:
    value = keys.optional_positive("original_max_position_embeddings")
    if value is None:
        value = max_positions
    if value is None:
        raise ValueError("config: rope scaling needs original_max_position_embeddings, or max_position_embeddings in its place")
    return value
