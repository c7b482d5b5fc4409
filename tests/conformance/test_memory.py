"""Backends that remember earlier calls are named, and arrays of unusual memory are taken for the numbers in them."""

from __future__ import annotations

import numpy as np
import pytest

import refimpl
from conformance import run
from conformance.backends import numpy as specification
from refimpl.layers import silu
from tests.conformance import fragile


def judged(backend, **options):
    chosen = {"k": "silu/", "level": "layer", "dtype": "float32", "max_examples": 0, **options}
    return [result.judgement for result in run(backend, **chosen).results if result.ran]


def test_results_in_memory_that_the_next_call_writes_are_named():
    for judgement in judged(fragile.OneBuffer()):
        assert (judgement.verdict, judgement.kind) == ("fail", "state")
        assert judgement.sentence == "the result changed when another call was made: results share memory"


def test_a_second_answer_that_is_wrong_is_named():
    first, *_ = judged(fragile.Counting())
    assert (first.verdict, first.kind) == ("fail", "state")
    assert first.sentence.startswith("right once, but wrong a second time with equal inputs: outside the budget")


def test_a_second_answer_that_does_not_come_is_named():
    class Once:
        asked = 0

        def silu(self, x):
            self.asked += 1
            if self.asked > 1:
                raise RuntimeError("out of memory")
            return silu(x)

    first, *_ = judged(Once())
    assert first.kind == "state"
    assert "not a second time with equal inputs: raised RuntimeError: out of memory" in first.sentence


def test_last_bits_may_differ_from_call_to_call():
    generator = np.random.default_rng(0)

    def unsteady(x):
        return np.nextafter(silu(x), np.float32(generator.choice([-np.inf, np.inf])))

    assert {judgement.verdict for judgement in judged({"silu": unsteady})} == {"pass"}


class ReusedLogits:
    """An engine that returns the same memory whenever tokens have the same shape."""

    def load(self, directory):
        model, memory = refimpl.load(directory, dtype="float32"), {}

        def engine(tokens):
            logits = model(tokens)[0]
            memory.setdefault(logits.shape, np.empty_like(logits))[...] = logits
            return memory[logits.shape]

        return engine


def test_logits_in_memory_that_the_next_call_writes_are_named():
    (judgement,) = judged(ReusedLogits(), k="smollm3/tied-prefill", level="model")
    assert (judgement.verdict, judgement.kind) == ("fail", "state")


def transposed(array):
    return np.ascontiguousarray(array.T).T


def spread(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


def locked(array):
    array.flags.writeable = False
    return array


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


@pytest.mark.parametrize("change", [transposed, spread, locked])
def test_memory_of_any_layout_is_right(change):
    def changed(function):
        return lambda *values, **options: change(function(*values, **options))

    functions = {name: changed(getattr(specification, name)) for name in ("silu", "attention", "linear", "rms_norm")}
    report = run(
        functions, dtype="float32", max_examples=2, k="silu or linear/ or rms_norm or attention/window or law/attention"
    )
    assert report.ok
    assert not report.counts()["fail"] + report.counts()["error"]


def test_views_of_inputs_are_judged_by_their_numbers():
    assert {judgement.kind for judgement in judged({"silu": lambda x: x[...]})} == {"numeric"}
    report = run({"rotary_embedding": lambda x, cos, sin, **options: x}, dtype="float32", k="rotary", max_examples=0)
    assert report.exit_code == 1
    assert report.counts()["error"] == 0


def test_swapped_bytes_are_another_format():
    assert {judgement.kind for judgement in judged({"silu": lambda x: swapped(silu(x))})} == {"dtype"}
