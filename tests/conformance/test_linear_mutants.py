"""Faults of linear attention: in each function that has them, in each format, the cases of that function alone find them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from conformance.backend import as_backend
from conformance.cases import FAMILIES
from conformance.family import as_tuple
from conformance.judge import judge
from conformance.mutants import chunks, convolution, decay, gated_norm, linear_attention, recurrent_state, state_space
from conformance.mutants.by_name import computed
from conformance.mutants.chunks import Chunks
from conformance.mutants.linear_attention import RULES, recurrence

CHAPTERS = (convolution, decay, linear_attention, recurrent_state, chunks, state_space, gated_norm)
PAIRS = [(mutant, name) for chapter in CHAPTERS for mutant in chapter.MUTANTS for name in mutant.functions]
DTYPES = ("float64", "float32", "bfloat16", "float16")


@cache
def problems(function, dtype):
    """The hand-picked cases of a function, each with what is expected of it."""
    return [(case, case.expected()) for case in FAMILIES[function].cases(dtype)]


def judgements(name, function, dtype):
    backend = as_backend({name: function})
    for case, expected in problems(name, dtype):
        with np.errstate(all="ignore"):
            outputs = as_tuple(case.ask(backend))
        yield case.id, judge(outputs, expected, dtype, axes=case.family.axes)


@pytest.mark.parametrize(("mutant", "name"), PAIRS, ids=lambda one: getattr(one, "id", one))
def test_a_fault_is_found_by_the_cases_of_its_own_function_in_every_format(mutant, name):
    for dtype in mutant.dtypes:
        assert any(judgement.verdict == "fail" for _, judgement in judgements(name, mutant.functions[name], dtype)), dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [recurrence, Chunks()], ids=["recurrence", "chunks"])
@pytest.mark.parametrize("name", RULES)
def test_what_the_faults_are_put_into_is_right(name, form, dtype):
    for case_id, judgement in judgements(name, computed(name, form), dtype):
        assert judgement.verdict == "pass", (case_id, judgement)


@pytest.mark.parametrize("name", RULES)
def test_a_state_that_is_rounded_shows_in_what_is_handed_on_even_where_results_are_as_narrow(name):
    rounded = next(one for one in linear_attention.MUTANTS if one.id == "gdn-state-stored-in-model-dtype").functions[name]
    for case, expected in problems(name, "bfloat16"):
        results = case.ask(as_backend({name: rounded}))
        if case.arrays["v"].shape[1] > 5 and "nothing" not in case.id:
            assert judge(results[1:], expected[1:], "bfloat16", axes=["BHKJ"]).verdict == "fail", case.id
