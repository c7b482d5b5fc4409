"""Every variant on every way to call a model: the specification and the peer mean the same."""

from __future__ import annotations

import numpy as np

from .comparison import FLOAT32_ROUNDING, SHORT_SUMS, SUMS, Array, Pair, assert_agree, relative_error, rounding_of_results

LENGTH = 29


def ones_except(shape: tuple[int, int], row: int, padding: slice) -> Array:
    mask = np.ones(shape, np.int64)
    mask[row, padding] = 0
    return mask


def assert_agree_in_pieces(pair: Pair, tokens: Array, ends: list[int], mask: Array | None = None) -> None:
    """Both continue their own cache over the pieces of `tokens` that stop at `ends`."""
    ours = theirs = None
    for start, stop in zip([0, *ends], ends, strict=False):
        piece = tokens[:, start:stop]
        seen = None if mask is None else mask[:, :stop]
        actual, ours = pair.model(piece, ours, attention_mask=seen)
        expected, theirs = pair.peer(piece, theirs, attention_mask=seen)
        real = None if mask is None else mask[:, start:stop]
        if real is None or real.any():
            assert_agree(actual, expected, real=real)


def test_prefill(pair: Pair) -> None:
    tokens = pair.tokens(3, LENGTH)
    assert_agree(pair.model(tokens)[0], pair.peer(tokens)[0])


def test_prefill_in_float32(pair: Pair) -> None:
    tokens = pair.tokens(3, LENGTH)
    logits, _ = pair.load("float32")(tokens)
    assert logits.dtype == np.float32
    error = relative_error(logits, pair.peer(tokens)[0])
    # In models that norm next to nothing a single rounding of each result may cost as much already.
    sums = SUMS if pair.variant.recurrent else SHORT_SUMS
    assert error < FLOAT32_ROUNDING or error < sums * rounding_of_results(pair, tokens)


def test_prefill_in_pieces(pair: Pair) -> None:
    assert_agree_in_pieces(pair, pair.tokens(2, LENGTH), [4, 5, 12, 27, 29])


def test_decode_token_by_token(pair: Pair) -> None:
    assert_agree_in_pieces(pair, pair.tokens(2, LENGTH), [*range(1, LENGTH + 1)])


def test_left_padding(positioned_pair: Pair) -> None:
    tokens = positioned_pair.tokens(2, LENGTH)
    mask = ones_except(tokens.shape, 1, slice(0, 8))
    assert_agree(
        positioned_pair.model(tokens, attention_mask=mask)[0], positioned_pair.peer(tokens, attention_mask=mask)[0], real=mask
    )


def test_left_padding_then_pieces_then_decode(positioned_pair: Pair) -> None:
    tokens = positioned_pair.tokens(3, LENGTH)
    mask = ones_except(tokens.shape, 1, slice(0, 8)) * ones_except(tokens.shape, 2, slice(0, 1))
    assert_agree_in_pieces(positioned_pair, tokens, [5, 14, 26, 27, 28, 29], mask)


def test_right_padding(pair: Pair) -> None:
    tokens = pair.tokens(2, LENGTH)
    mask = ones_except(tokens.shape, 0, slice(17, None))
    assert_agree(pair.model(tokens, attention_mask=mask)[0], pair.peer(tokens, attention_mask=mask)[0], real=mask)


def test_padding_anywhere_and_on_after_it(unwindowed_pair: Pair) -> None:
    tokens = unwindowed_pair.tokens(3, LENGTH)
    mask = np.random.default_rng(5).integers(0, 2, tokens.shape)
    assert_agree_in_pieces(unwindowed_pair, tokens, [11, 12, 13, 23, LENGTH], mask)


def test_a_padded_row_is_the_row_alone(pair: Pair) -> None:
    """At once and in two pieces, with padding anywhere, of which the peer gets to see nothing."""
    tokens = pair.tokens(2, LENGTH)
    mask = np.random.default_rng(6).binomial(1, 0.75, tokens.shape)
    at_once, _ = pair.model(tokens, attention_mask=mask)
    first, cache = pair.model(tokens[:, :11], attention_mask=mask[:, :11])
    second, _ = pair.model(tokens[:, 11:], cache, attention_mask=mask)
    for row, real in enumerate(mask == 1):
        alone, _ = pair.peer(tokens[row : row + 1, real])
        assert_agree(at_once[row : row + 1, real], alone)
        assert_agree(np.concatenate([first, second], axis=1)[row : row + 1, real], alone)


def test_positions_far_beyond_the_original_length(positioned_pair: Pair) -> None:
    """Relative distances up to the thousands (or the size of a table), in no order, unlike in the rows, also behind a cache."""
    tokens = positioned_pair.tokens(2, LENGTH)
    positions = np.random.default_rng(9).integers(0, positioned_pair.variant.learned_positions or 5000, tokens.shape)
    expected, _ = positioned_pair.peer(tokens, positions=positions)
    assert_agree(positioned_pair.model(tokens, positions=positions)[0], expected)
    first, cache = positioned_pair.model(tokens[:, :20], positions=positions[:, :20])
    second, _ = positioned_pair.model(tokens[:, 20:], cache, positions=positions[:, 20:])
    assert_agree(np.concatenate([first, second], axis=1), expected)
