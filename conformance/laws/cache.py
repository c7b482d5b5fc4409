"""Laws of the ring cache and of temperatures, with attention around them."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.laws.attention import SCALE, problem
from conformance.laws.law import Call, Draw, Law
from refimpl.layers import token_order
from refimpl.numerics import Array

LENGTH, WINDOW = 11, 4


def ring_is_contiguous(lengths: tuple[int, ...], *, padding: int = 0, **span: int) -> Any:
    """Pieces over a ring of the last tokens, against all at once. padding: columns that the second row lacks on the left."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        q, k, v = problem(draw, length=LENGTH)
        mask = np.ones((2, LENGTH), np.int64)
        mask[1, :padding] = 0
        order = token_order(mask)
        window = next(iter(span.values()))
        rings: list[Array] = []
        found, start = [], 0
        for length in lengths:
            new, end = slice(start, start + length), start + length
            held = [call("ring_order", order[:, :start], window=window)] if start else []
            keys, values = (
                np.concatenate([*rings[index : index + 1], array[:, new]], axis=1) for index, array in enumerate((k, v))
            )
            places = {"q_order": order[:, new], "k_order": np.concatenate([*held, order[:, new]], axis=1)}
            found.append(call("attention", q[:, new], keys, values, scale=SCALE, **places, **span))
            rings = [
                call("ring_append", array[:, new], order[:, :end], *rings[index : index + 1], window=window)
                for index, array in enumerate((k, v))
            ]
            start = end
        whole = call("attention", q, k, v, scale=SCALE, q_order=order, k_order=order, **span)
        return np.concatenate(found, axis=1), whole

    return sides


def pieces_leave_the_same_ring(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, order = draw.normal(2, LENGTH, 3), np.tile(np.arange(LENGTH), (2, 1))
    ring: tuple[Array, ...] = ()
    for start, end in ((0, 2), (2, 3), (3, 9), (9, 11)):
        ring = (call("ring_append", x[:, start:end], order[:, :end], *ring, window=WINDOW),)
    return ring[0], call("ring_append", x, order, window=WINDOW)


def temperature_of_one(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, v = problem(draw)
    ones = np.ones(q.shape[:2], q.dtype)
    left = call("attention", q, k, v, scale=SCALE, softcap=4.0, temperature=ones)
    return left, call("attention", q, k, v, scale=SCALE, softcap=4.0)


def temperature_is_scale(call: Call, draw: Draw) -> tuple[Array, Array]:
    q, k, v = problem(draw)
    left = call("attention", q, k, v, scale=SCALE, temperature=np.full(q.shape[:2], 0.5, q.dtype))
    return left, call("attention", q, k, v, scale=SCALE / 2)


def temperature_is_a_longer_query(call: Call, draw: Draw) -> tuple[Array, Array]:
    """Temperatures 1/2, 1 and 2, each query its own."""
    q, k, v = problem(draw)
    temperature = draw.generator.choice([0.5, 1.0, 2.0], q.shape[:2]).astype(q.dtype)
    left = call("attention", q, k, v, scale=SCALE, temperature=temperature)
    return left, call("attention", q * temperature[:, :, None, None], k, v, scale=SCALE)


def near_positions(function: str, **options: Any) -> Any:
    """Positions before the temperature grows."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        positions = np.arange(8).reshape(2, 4)
        temperature = call(function, positions, **options)
        return temperature, np.ones_like(temperature)

    return sides


def square_is_twice(call: Call, draw: Draw) -> tuple[Array, Array]:
    length = 9
    positions = np.full((1, 1), length**2)
    temperature = call("log_length_temperature", positions, length=length)
    return temperature, np.full_like(temperature, 2)


def _law(name: str, statement: str, sides: Any, *functions: str, **options: Any) -> Law:
    return Law(name=name, functions=functions, statement=statement, sides=sides, **options)


RINGS = ("ring_append", "ring_order", "attention")
RING = "attention over a ring and the new tokens is attention over all"
WIDE = ("float64", "float32")
NEAR = "the temperature is 1 until it grows"
LAWS = (
    _law("is_contiguous", RING, ring_is_contiguous((3, 6, 2), window=WINDOW), *RINGS, phase="pieces"),
    _law("is_contiguous", RING, ring_is_contiguous((6, 1, 1, 1, 1, 1), window=WINDOW), *RINGS, phase="decode"),
    _law("is_contiguous", RING, ring_is_contiguous((4, 6, 1), padding=3, window=WINDOW), *RINGS, phase="padded"),
    _law("is_contiguous_chunk", RING, ring_is_contiguous((6, 3, 2), chunk=WINDOW), *RINGS, phase="pieces"),
    _law("pieces", "pieces of any lengths leave the same ring", pieces_leave_the_same_ring, "ring_append", phase="pieces"),
    _law("temperature_of_one", "a temperature of 1 changes nothing", temperature_of_one, "attention", phase="prefill"),
    _law("temperature_is_scale", "one temperature for all is a scale", temperature_is_scale, "attention", phase="prefill"),
    _law(
        "temperature_of_queries",
        "without a cap a temperature is a longer query",
        temperature_is_a_longer_query,
        "attention",
        phase="prefill",
    ),
    _law("near", NEAR, near_positions("log_length_temperature", length=7), "log_length_temperature", dtypes=WIDE),
    _law("near", NEAR, near_positions("log_floor_temperature", scale=0.5, floor=9), "log_floor_temperature", dtypes=WIDE),
    _law("square", "the square of the length has temperature 2", square_is_twice, "log_length_temperature", dtypes=WIDE),
)
