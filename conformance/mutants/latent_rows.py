"""The up-projection of latent attention, read in another order, and what is wrongly made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.computing import computing_in
from conformance.mutants.mutant import Function, layer
from refimpl import layers
from refimpl.numerics import Array

wide = computing_in(np.float32)


def by_head(weight: Array, heads: int) -> Array:
    return weight.reshape(heads, -1, weight.shape[-1])


def _expanding_rows(rows_of: Callable[..., Any]) -> Function:
    @wide
    def expand_latent(latent: Array, k_rope: Array, weight: Array, *, heads: int, v_head_dim: int) -> Any:
        rows = rows_of(by_head(weight, heads), len(weight) // heads - v_head_dim)
        return layers.expand_latent(latent, k_rope, rows.reshape(weight.shape), heads=heads, v_head_dim=v_head_dim)

    return expand_latent


def keys_of_all_heads_first(rows: Array, nope: int) -> Array:
    """The first H·N rows are taken for keys, the rest for values."""
    heads, both, rank = rows.shape
    flat = rows.reshape(-1, rank)
    keys, values = flat[: heads * nope], flat[heads * nope :]
    return np.concatenate([keys.reshape(heads, nope, rank), values.reshape(heads, both - nope, rank)], axis=1)


def values_before_keys(rows: Array, nope: int) -> Array:
    return np.concatenate([rows[:, -nope:], rows[:, :-nope]], axis=1)


def heads_innermost(rows: Array, nope: int) -> Array:
    """Row h + H·i is taken for row i of head h."""
    heads, both, rank = rows.shape
    return rows.reshape(-1, rank).reshape(both, heads, rank).swapaxes(0, 1)


def low_rank_part_dropped(rows: Array, nope: int) -> Array:
    """What an adapter has added to the weight, here its largest component, is missing."""
    flat = rows.reshape(-1, rows.shape[-1])
    u, s, v = np.linalg.svd(flat.astype(np.float64), full_matrices=False)
    return (flat - (u[:, :1] * s[0] @ v[:1]).astype(flat.dtype)).reshape(rows.shape)


@wide
def rope_first_in_the_key(latent: Array, k_rope: Array, weight: Array, *, heads: int, v_head_dim: int) -> Any:
    k, v = layers.expand_latent(latent, k_rope, weight, heads=heads, v_head_dim=v_head_dim)
    return np.concatenate([k[..., -k_rope.shape[-1] :], k[..., : -k_rope.shape[-1]]], axis=-1), v


@wide
def rope_of_the_first_head_alone(latent: Array, k_rope: Array, weight: Array, *, heads: int, v_head_dim: int) -> Any:
    k, v = layers.expand_latent(latent, k_rope, weight, heads=heads, v_head_dim=v_head_dim)
    k[:, :, 1:, -k_rope.shape[-1] :] = 0
    return k, v


EXPANDED = "expand_latent"
MUTANTS = tuple(
    layer(id, EXPANDED, faulty, says)
    for id, faulty, says in (
        (
            "keys-of-all-heads-first",
            _expanding_rows(keys_of_all_heads_first),
            "The up-projection is read as all keys, then all values.",
        ),
        ("values-before-keys", _expanding_rows(values_before_keys), "Of each head's rows the values come first."),
        ("heads-innermost", _expanding_rows(heads_innermost), "Neighbouring rows belong to different heads."),
        (
            "expanded-without-the-adapter",
            _expanding_rows(low_rank_part_dropped),
            "What an adapter adds to the up-projection is missing.",
        ),
        ("rotated-part-first-in-the-key", rope_first_in_the_key, "The rotated part comes first in a key."),
        (
            "rotated-part-for-the-first-head-alone",
            rope_of_the_first_head_alone,
            "Only the first head gets the rotated part.",
        ),
    )
)
