"""Operations that know no padding see the real tokens of a row alone."""

import numpy as np
import pytest

from conformance.backends.rows import consecutive, row_by_row

B, T = 3, 5
ORDER = np.array([[-1, 0, 1, -1, 2], [0, 1, 2, 3, 4], [-1, -1, -1, -1, -1]])
X = np.arange(B * T * 2.0).reshape(B, T, 2)


def running_sum(arrays, state):
    """[B, T, 2] and what it adds up to."""
    (x,) = arrays
    sums = np.cumsum(x, axis=1) + (0 if state is None else state[:, None])
    return sums, sums[:, -1]


def test_padding_is_passed_over_and_results_in_zeros():
    y, state = row_by_row(running_sum, (X,), None, ORDER)
    real = ORDER >= 0
    assert not y[~real].any()
    assert np.array_equal(y[0, real[0]], np.cumsum(X[0, real[0]], axis=0))
    assert np.array_equal(y[1], np.cumsum(X[1], axis=0))
    assert np.array_equal(state, [X[0, real[0]].sum(0), X[1].sum(0), [0, 0]])


def test_a_row_without_real_tokens_keeps_its_state():
    held = np.array([[1.0, 2], [3, 4], [5, 6]])
    _, state = row_by_row(running_sum, (X,), held, ORDER)
    assert np.array_equal(state[2], held[2])
    assert np.array_equal(state[1], held[1] + X[1].sum(0))


def test_without_padding_there_is_one_call():
    calls = []

    def counted(arrays, state):
        calls.append(arrays[0].shape)
        return running_sum(arrays, state)

    row_by_row(counted, (X,), None, np.tile(np.arange(T), (B, 1)))
    row_by_row(counted, (X,), None, None)
    assert calls == [(B, T, 2)] * 2


def test_nothing_but_padding_is_refused():
    with pytest.raises(NotImplementedError, match="all of the tokens are padding"):
        row_by_row(running_sum, (X,), None, np.full((B, T), -1))


@pytest.mark.parametrize(
    ("queries", "keys", "found"),
    [
        ([1, 2], [0, 1, 2], ([0, 1], [0, 1, 2])),
        ([-1, 2], [2, -1, 0, 1], ([1], [2, 3, 0])),
        ([1, 2], [0, 1, 2, 3], None),
        ([2, 3], [0, 2, 3], None),
        ([0, 2], [0, 1, 2], None),
    ],
    ids=["last", "stored in another order", "keys after the queries", "a gap among the keys", "a gap among the queries"],
)
def test_queries_are_the_last_of_keys_without_gaps(queries, keys, found):
    columns = consecutive(np.array([queries]), np.array([keys]), 0)
    assert (columns is None) == (found is None)
    if columns is not None:
        assert [list(one) for one in columns] == list(found)
