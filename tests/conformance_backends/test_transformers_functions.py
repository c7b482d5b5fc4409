"""The functions of transformers as layers: what they get wrong is listed, and nothing else is."""

from pathlib import Path

import numpy as np
import pytest

import conformance
from conformance.backends.transformers_functions import backend
from refimpl import layers

pytestmark = pytest.mark.skipif(backend.unavailable() is not None, reason=str(backend.unavailable()))
XFAILS = Path(__file__).parents[2] / ".ci" / "transformers-functions.xfails"
LISTED = "5.24."  # another version may do better


def test_only_listed_cases_fail():
    listed = backend.version.startswith(LISTED)
    # Searches would make smaller what is known to fail, for minutes.
    report = conformance.run(backend, k="not drawn", level="layer", max_examples=1, xfails_file=XFAILS if listed else None)
    assert report.counts()["pass"] > 350
    assert report.counts()["error"] == 0
    assert report.too_few == ""
    if listed:
        assert report.failures() == []
        assert len(report.expected_failures()) >= 10


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("tokens", [1, 6], ids=["recurrence", "chunks"])
@pytest.mark.parametrize("decays", [(), (5,)], ids=["head", "channel"])
def test_every_form_of_the_delta_rule_runs(tokens, decays):
    q, k, v = normal(2, tokens, 2, 5), normal(2, tokens, 2, 5) / 3, normal(2, tokens, 4, 3)
    g, beta = -np.abs(normal(2, tokens, 4, *decays)), np.abs(normal(2, tokens, 4)) / 4
    y, state = backend.gated_delta_rule(q, k, v, g, beta, normal(2, 4, 5, 3), scale=0.7)
    wide = [array.astype(np.float64) for array in (q, k, v, g, beta, normal(2, 4, 5, 3))]
    expected, expected_state = layers.gated_delta_rule(*wide, scale=0.7)
    assert np.abs(y - expected).max() < 3e-6
    assert np.abs(state - expected_state).max() < 3e-6


def test_a_state_that_was_given_is_not_written_to():
    state = normal(2, 5, 3)
    before = state.copy()
    backend.causal_conv1d(normal(2, 4, 5), normal(5, 4), None, state)
    assert np.array_equal(state, before)


def test_infinite_logits_do_not_pass_a_router():
    with pytest.raises(NotImplementedError, match="infinite ones do not pass a matrix"):
        backend.top_k_softmax_router(np.array([[1, -np.inf, 2]], np.float32), top_k=1)
