"""Laws of latent attention: its two forms, its cache, and the heads and coordinates that nobody can see."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from conformance.laws.law import Call, Draw, Law
from refimpl.numerics import Array

HEADS, NOPE, ROPE, VALUE, RANK = 3, 6, 4, 5, 8
SCALE = 0.25


class Problem(NamedTuple):
    """q [B, S, H, N + P], latent [B, S, L], k_rope [B, S, P], weight [H·(N + J), L]: a query at every place."""

    q: Array
    latent: Array
    k_rope: Array
    weight: Array

    def at(self, keys: Any, queries: Any = None) -> tuple[Array, ...]:
        """The arguments of a call with some of the keys, and the queries at the same columns or at others."""
        return self.q[:, keys if queries is None else queries], self.latent[:, keys], self.k_rope[:, keys], self.weight


def problem(draw: Draw, *, length: int = 9) -> Problem:
    """Logits of size 4, to which both parts of a key contribute alike."""
    return Problem(
        draw.normal(2, length, HEADS, NOPE + ROPE, scale=3),
        draw.normal(2, length, RANK),
        draw.normal(2, length, ROPE, scale=2),
        draw.normal(HEADS * (NOPE + VALUE), RANK, scale=0.5),
    )


def absorbed_is_expanded(**options: Any) -> Any:
    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        q, *rest = problem(draw)
        k, v = call("expand_latent", *rest, heads=HEADS, v_head_dim=VALUE)
        settings = {"scale": SCALE, **options, **_arrays(draw, options)}
        return call("latent_attention", q, *rest, **settings), call("attention", q, k, v, **settings)

    return sides


def _arrays(draw: Draw, options: dict[str, Any]) -> dict[str, Any]:
    """A temperature a query, and a bias of -inf for every key of another parity, where they are asked for."""
    found: dict[str, Any] = {}
    if "temperature" in options:
        found["temperature"] = draw.input(draw.generator.uniform(0.5, 2, (2, 9)))
    if "bias" in options:
        places = np.arange(9)
        hidden = np.where((places[:, None] - places) % 2 == 1, -np.inf, 0.0)
        found["bias"] = draw.input(np.broadcast_to(hidden, (2, 1, 9, 9)))
    return found


def pieces_are_whole(lengths: tuple[int, ...]) -> Any:
    """The queries of a piece see the latents up to its end."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        found = problem(draw)
        ends = np.cumsum(lengths)
        pieces = [
            call("latent_attention", *found.at(slice(end), slice(end - length, end)), scale=SCALE)
            for length, end in zip(lengths, ends, strict=True)
        ]
        return np.concatenate(pieces, axis=1), call("latent_attention", *found, scale=SCALE)

    return sides


def expansion_in_pieces(call: Call, draw: Draw) -> tuple[Array, Array]:
    """Keys and values side by side."""
    _, latent, k_rope, weight = problem(draw)

    def both(columns: slice) -> Array:
        pair = call("expand_latent", latent[:, columns], k_rope[:, columns], weight, heads=HEADS, v_head_dim=VALUE)
        return np.concatenate(pair, axis=-1)

    return np.concatenate([both(slice(4)), both(slice(4, None))], axis=1), both(slice(None))


def order_of_storage(call: Call, draw: Draw) -> tuple[Array, Array]:
    found = problem(draw)
    order = draw.generator.permutation(9)
    places = {"q_order": np.tile(np.arange(9), (2, 1)), "k_order": np.tile(order, (2, 1))}
    left = call("latent_attention", *found.at(order, slice(None)), scale=SCALE, **places)
    return left, call("latent_attention", *found, scale=SCALE)


def padding(side: str) -> Any:
    """Padding columns with large latents and rotated keys on one side of every row."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        real = problem(draw, length=6)
        noise = [8 * array for array in problem(draw, length=3)[:3]]
        pads, order = np.full(3, -1), np.arange(6)
        joined, kept = ([pads, order], slice(3, None)) if side == "left" else ([order, pads], slice(6))
        padded = [
            np.concatenate([pad, array] if side == "left" else [array, pad], axis=1)
            for pad, array in zip(noise, real[:3], strict=True)
        ]
        places = np.tile(np.concatenate(joined), (2, 1))
        left = call("latent_attention", *padded, real.weight, scale=SCALE, q_order=places, k_order=places)[:, kept]
        return left, call("latent_attention", *real, scale=SCALE)

    return sides


def later_tokens(call: Call, draw: Draw) -> tuple[Array, Array]:
    found, other = problem(draw), problem(draw, length=4)
    changed = [np.concatenate([array[:, :5], later], axis=1) for array, later in zip(found[:3], other[:3], strict=True)]
    left = call("latent_attention", *changed, found.weight, scale=SCALE)[:, :5]
    return left, call("latent_attention", *found, scale=SCALE)[:, :5]


def batch_rows(call: Call, draw: Draw) -> tuple[Array, Array]:
    *arrays, weight = problem(draw)
    alone = [call("latent_attention", *(array[row : row + 1] for array in arrays), weight, scale=SCALE) for row in (0, 1)]
    return np.concatenate(alone), call("latent_attention", *arrays, weight, scale=SCALE)


def permuted_heads(call: Call, draw: Draw) -> tuple[Array, Array]:
    """The heads of q and the rows of the weight in another order, each head's rows together."""
    q, latent, k_rope, weight = problem(draw)
    order = np.roll(np.arange(HEADS), 1)
    moved = weight.reshape(HEADS, -1, RANK)[order].reshape(weight.shape)
    left = call("latent_attention", q[:, :, order], latent, k_rope, moved, scale=SCALE)
    return left, call("latent_attention", q, latent, k_rope, weight, scale=SCALE)[:, :, order]


def permuted_latent(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, latent, k_rope, weight = problem(draw)
    order = draw.generator.permutation(RANK)
    left = call("latent_attention", q, latent[..., order], k_rope, weight[:, order], scale=SCALE)
    return left, call("latent_attention", q, latent, k_rope, weight, scale=SCALE)


def permuted_rope(call: Call, draw: Draw) -> tuple[Array, Array]:
    """What tells layouts of the rotated part apart is the rotation, not the attention."""
    q, latent, k_rope, weight = problem(draw)
    order = draw.generator.permutation(ROPE)
    other = np.concatenate([q[..., :NOPE], q[..., NOPE:][..., order]], axis=-1)
    left = call("latent_attention", other, latent, k_rope[..., order], weight, scale=SCALE)
    return left, call("latent_attention", q, latent, k_rope, weight, scale=SCALE)


def rope_for_all_heads(call: Call, draw: Draw) -> tuple[Array, Array]:
    """Without its unrotated part a query sees the rotated keys alone: attention with one key head."""
    q, latent, k_rope, weight = problem(draw)
    q = np.concatenate([np.zeros_like(q[..., :NOPE]), q[..., NOPE:]], axis=-1)
    _, v = call("expand_latent", latent, k_rope, weight, heads=HEADS, v_head_dim=VALUE)
    shared = np.repeat(k_rope[:, :, None], HEADS, axis=2)
    left = call("latent_attention", q, latent, k_rope, weight, scale=SCALE)
    return left, call("attention", q[..., NOPE:], shared, v, scale=SCALE)


def scale_is_a_longer_query(call: Call, draw: Draw) -> tuple[Array, Array]:
    """Of both parts alike."""
    q, *rest = problem(draw)
    return call("latent_attention", q, *rest, scale=SCALE), call("latent_attention", q / 2, *rest, scale=2 * SCALE)


def _law(name: str, statement: str, sides: Any, *functions: str, phase: str = "prefill") -> Law:
    return Law(name=name, functions=functions or ("latent_attention",), statement=statement, sides=sides, phase=phase)


BOTH = ("latent_attention", "expand_latent", "attention")
FORMS = "queries taken into the latent space see what they see of expanded keys and values"
ONE_BY_ONE = "one token at a time gives what all at once give"
PIECES = "prefill in pieces gives what all at once give"
LAWS = (
    _law("absorbed_is_expanded", FORMS, absorbed_is_expanded(), *BOTH),
    _law("absorbed_is_expanded_temperature", FORMS, absorbed_is_expanded(temperature=True), *BOTH),
    _law("absorbed_is_expanded_selected", FORMS, absorbed_is_expanded(bias=True), *BOTH),
    _law("absorbed_is_expanded_not_causal", FORMS, absorbed_is_expanded(causal=False), *BOTH),
    _law("incremental_is_full", ONE_BY_ONE, pieces_are_whole((1,) * 9), phase="decode"),
    _law("pieces_are_whole", PIECES, pieces_are_whole((3, 1, 5)), phase="pieces"),
    _law("in_pieces", "latents may be expanded in any pieces", expansion_in_pieces, "expand_latent", phase="pieces"),
    _law("order_of_storage", "the order in which latents are stored changes nothing", order_of_storage),
    _law("left_padding", "padding on the left changes nothing", padding("left"), phase="padded"),
    _law("right_padding", "padding on the right changes nothing", padding("right"), phase="padded"),
    _law("later_tokens", "later tokens never change earlier outputs", later_tokens),
    _law("batch_rows", "rows of a batch do not see each other", batch_rows),
    _law("permuted_heads", "heads in another order give their outputs in that order", permuted_heads),
    _law("permuted_latent", "the order of a latent's entries changes nothing", permuted_latent),
    _law("permuted_rope", "the order of a rotated part's entries changes nothing", permuted_rope),
    _law("rope_for_all_heads", "all heads share the rotated key", rope_for_all_heads, *BOTH),
    _law("scale_is_a_longer_query", "the scale is that of both parts of a logit", scale_is_a_longer_query),
)
