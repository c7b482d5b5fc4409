"""Linear attention in chunks is the recurrence: at every length, chunk and cut, with padding anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refimpl import layers
from refimpl.layers.chunked import unit_lower_inverse
from tests.layers.test_linear_attention import KINDS, B, G, H, J, K, T, columns, every_kind, inputs, run, unit
from tests.tiny import normal

CHUNKS = (1, 2, 3, 7, 16, 64)


def in_chunks(rule: str, given: dict[str, np.ndarray], size: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    return getattr(layers, f"{rule}_chunked")(*given.values(), scale=0.7, chunk_size=size, **options)


def assert_same(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...], tolerance: float = 1e-12) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max(initial=0) <= tolerance * max(1.0, np.abs(theirs).max(initial=0))


@every_kind
@pytest.mark.parametrize("size", CHUNKS)
def test_every_length(rule: str, channel: bool, size: int) -> None:
    given, state = inputs(rule, channel, length=70), normal(B, H, K, J)
    for length in range(1, 71):
        part = columns(given, slice(length))
        assert_same(in_chunks(rule, part, size, state=state), run(rule, part, state=state))


@every_kind
@pytest.mark.parametrize("size", CHUNKS)
def test_every_cut(rule: str, channel: bool, size: int) -> None:
    """A first piece, and the rest from its state: of a prefill a chunk's remainder, of decode a single token."""
    given, state = inputs(rule, channel, length=19), normal(B, H, K, J)
    whole = run(rule, given, state=state)
    for cut in range(1, 19):
        first, between = in_chunks(rule, columns(given, slice(cut)), size, state=state)
        second, after = run(rule, columns(given, slice(cut, None)), state=between)
        assert_same((np.concatenate([first, second], axis=1), after), whole)


@every_kind
@pytest.mark.parametrize("size", CHUNKS)
def test_padding_anywhere(rule: str, channel: bool, size: int) -> None:
    given = inputs(rule, channel, length=21)
    real = np.random.default_rng(size).random((B, 21)) < 0.6
    order = np.where(real, np.cumsum(real, axis=1) - 1, -1)
    for placed in (order, np.where(np.arange(B)[:, None] == 0, -1, order), np.full_like(order, -1)):
        assert_same(in_chunks(rule, given, size, order=placed), run(rule, given, order=placed))


@every_kind
def test_padding_may_hold_anything(rule: str, channel: bool) -> None:
    given, order = inputs(rule, channel), np.array([[0, -1, 1, 2, 3]] * B)
    expected = in_chunks(rule, given, 4, order=order)
    noisy = {name: array.copy() for name, array in given.items()}
    for array in noisy.values():
        array[:, 1] = np.nan
    assert_same(in_chunks(rule, noisy, 4, order=order), expected, 0)


@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("size", [16, 64])
def test_steep_decays_neither_overflow_nor_lose_digits(channel: bool, size: int) -> None:
    """e^-30 for a third of the tokens: sums from the start reach -700, of which float32 keeps four decimals."""
    given = inputs("gated_delta_rule", channel, length=70)
    steep = np.random.default_rng(3).random(given["g"].shape) < 0.33
    given["g"] = np.where(steep, -30.0, 0.05 * given["g"])
    single = {name: np.float32(array) for name, array in given.items()}
    exact = run("gated_delta_rule", {name: np.float64(array) for name, array in single.items()})
    assert_same(in_chunks("gated_delta_rule", single, size), exact, 5e-7)


@every_kind
def test_float32_is_near_float64(rule: str, channel: bool) -> None:
    single = {name: np.float32(array) for name, array in inputs(rule, channel, length=200).items()}
    exact = run(rule, {name: np.float64(array) for name, array in single.items()})
    for size in (16, 64):
        found = in_chunks(rule, single, size)
        assert [array.dtype for array in found] == [np.float32, np.float32]
        assert_same(found, exact, 1e-6)


def test_keys_that_repeat_are_no_trouble() -> None:
    """Corrections of 1 below the diagonal, of which a sum of powers has terms of 10^18."""
    given = inputs("delta_rule", False, length=64)
    given["k"] = np.broadcast_to(unit(1, 1, G, K, seed=1), given["k"].shape)
    given["beta"] = np.ones_like(given["beta"])
    assert_same(in_chunks("delta_rule", given, 64), run("delta_rule", given))


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13])
def test_the_inverse_is_one(size: int) -> None:
    below = np.tril(normal(2, 3, size, size), -1)
    identity = np.eye(size)
    product = (identity + below) @ unit_lower_inverse(below)
    np.testing.assert_allclose(product, np.broadcast_to(identity, product.shape), atol=1e-10)
    assert (np.triu(unit_lower_inverse(below)) == identity).all()


@pytest.mark.parametrize(("rule", "channel"), KINDS[:1])
@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_a_chunk_is_a_positive_number_of_tokens(rule: str, channel: bool, size: Any) -> None:
    with pytest.raises(ValueError, match=rf"{rule}_chunked: chunk_size is {size!r} but needs"):
        in_chunks(rule, inputs(rule, channel), size)


def test_wrong_shapes_are_refused_as_by_the_recurrence() -> None:
    given = inputs("delta_rule", False) | {"k": np.zeros((B, T, 3, K))}
    with pytest.raises(ValueError, match=r"delta_rule_chunked: k has shape \(2, 5, 3, 4\) but needs"):
        in_chunks("delta_rule", given, 2)
