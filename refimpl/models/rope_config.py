"""The rotary keys of a config.json, old (`rope_theta`, `rope_scaling`) and new (`rope_parameters`), as a `Rope`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refimpl.blocks import Linear, Llama3, Rope, Yarn
from refimpl.config import Config
from refimpl.layers import yarn_attention_factor, yarn_softmax_factor

Scaling = Linear | Llama3 | Yarn | None


def read_rope(
    config: Config,
    *,
    head_dim: int,
    default_theta: float,
    partial: bool = False,
    default_dim: int | None = None,
    default_scaling: Mapping[str, Any] | None = None,
    beside: tuple[str, ...] = (),
) -> Rope:
    """The rotation of all layers of a model that has one.

    Keys: rope_theta, rope_scaling {type | rope_type, ...}, rope_parameters {rope_type, rope_theta, ...},
    partial_rotary_factor, max_position_embeddings (the original length where a scaling does not name it). Where two keys
    say the same thing they must agree. partial: whether the architecture rotates a part of a head where it is told to;
    default_dim: how many entries where it is not told; absent, all.
    default_scaling: the scaling of an architecture that has one where both keys are null or absent.
    beside: rotary keys of the architecture that say nothing of the rotation.
    """
    old, new = config.optional("rope_scaling", dict), config.optional("rope_parameters", dict)
    given = _agreed(old, new) or (default_scaling if new is None else None) or {}
    theta = ("rope_theta", default_theta)
    return _rope(config, given, head_dim=head_dim, theta=theta, partial=partial, default_dim=default_dim, beside=beside)


def read_ropes(config: Config, *, head_dim: int, thetas: Mapping[str, tuple[str, float]]) -> dict[str, Rope]:
    """The rotation of each kind of layer, where every kind has one of its own.

    thetas: of each kind the top-level key of its base, and the default of that. Keys beside these: rope_scaling, which is
    that of the first kind alone; rope_parameters {kind: {rope_type, rope_theta, ...}}.
    """
    old, new = config.optional("rope_scaling", dict), config.optional("rope_parameters", dict) or {}
    first = next(iter(thetas))
    for kind, keys in new.items():
        if kind not in thetas or not (keys is None or isinstance(keys, dict)):
            raise ValueError(f"config: rope_parameters is {new} but needs an object for each of {', '.join(thetas)}")
    return {
        kind: _rope(config, _agreed(old if kind == first else None, new.get(kind)), head_dim=head_dim, theta=theta)
        for kind, theta in thetas.items()
    }


def _agreed(old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    """The rotary keys in their old and in their new place, of which one may be empty."""
    if old and new and old != new:
        raise ValueError("config: rope_scaling and rope_parameters are both set and differ; one of them must go")
    return new or old or {}


def _rope(
    config: Config,
    parameters: Mapping[str, Any],
    *,
    head_dim: int,
    theta: tuple[str, float],
    partial: bool = False,
    default_dim: int | None = None,
    beside: tuple[str, ...] = (),
) -> Rope:
    """The rotation that `parameters` describe, with the base under the top-level key theta[0], by default theta[1]."""
    max_positions = config.optional_positive("max_position_embeddings")
    keys = Config({"model_type": config.name, **parameters})
    told = _either(config, keys, "rope_theta", outer_name=theta[0])
    base = keys.bounded("rope_theta", theta[1] if told is None else told, above=0)
    rotary_dim = _rotary_dim(config, keys, head_dim, partial=partial, default=default_dim or head_dim)
    scaling = _scaling(keys, base, max_positions)
    keys.ignore(*beside)
    keys.finish()
    return Rope(rotary_dim=rotary_dim, theta=base, scaling=scaling)


def _rotary_dim(config: Config, keys: Config, head_dim: int, *, partial: bool, default: int) -> int:
    """How many entries of a head are rotated, from `partial_rotary_factor` where there is one."""
    name = "partial_rotary_factor"
    share = _either(config, keys, name)
    if share is None:
        if default % 2:
            raise ValueError(f"config: {default} of {head_dim} entries of a head are to be rotated, but they go in pairs")
        return default
    keys.bounded(name, share, above=0)
    if share > 1 or (share < 1 and not partial):
        need = "needs at most 1" if partial else f"{config.name!r} rotates whole heads"
        raise ValueError(f"config: {name} is {share} but {need}")
    rotary_dim = int(head_dim * share)
    if rotary_dim < 2 or rotary_dim % 2:
        raise ValueError(
            f"config: {name} is {share}, which makes {rotary_dim} of {head_dim} entries rotate, but they go in pairs"
        )
    return rotary_dim


def _either(config: Config, keys: Config, name: str, *, outer_name: str | None = None) -> float | None:
    """A key that stands at the top level (there under `outer_name`), among the rotary keys, or equal in both; None: nowhere."""
    outer_name = outer_name or name
    outer, inner = config.optional(outer_name, float), keys.optional(name, float)
    if outer is not None and inner is not None and outer != inner:
        raise ValueError(
            f"config: {outer_name} is {outer} at the top level but {inner} among the rotary keys; one of them must go"
        )
    return outer if inner is None else inner


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
        softmax_factor=yarn_softmax_factor(factor, mscale_all_dim=mscale_all_dim),
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
