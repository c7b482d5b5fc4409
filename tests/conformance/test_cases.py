"""Ids: unique, stable, readable, and enough to make the case again."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance import cases, find_case
from conformance.case import LEVELS, TOKENS
from conformance.cases import FAMILIES
from conformance.family import LayerCase
from conformance.readings import InFormat
from conformance.strategies import layer_cases

# Codes of formats that have NaN or infinity, and keys that are hidden by -inf.
NOT_FINITE = {"fp8_block_decode", "key_selection", "mxfp4_decode"}
FINITE = sorted(FAMILIES.keys() - NOT_FINITE)


def test_ids_are_unique_and_follow_the_grammar():
    ids = [case.id for case in cases()]
    assert len(set(ids)) == len(ids)
    grammar = rf"[a-z0-9_]+/[a-z0-9_]+-(prefill|pieces|decode|padded|any)-({'|'.join(TOKENS.values())})(-[a-z0-9]+)?"
    for case_id in ids:
        assert re.fullmatch(grammar, case_id), case_id


def test_every_level_has_cases_at_every_dtype():
    for level in LEVELS:
        for dtype in ("float64", "float32", "bfloat16", "float16"):
            assert any(case.dtype == dtype for case in cases(dtypes=[dtype], levels=[level]))


def test_an_id_makes_the_same_case_again():
    for case in cases(dtypes=["bfloat16"], levels=["layer"])[::5]:
        again = find_case(case.id)
        assert again.id == case.id
        if isinstance(case, LayerCase):
            for name, array in case.arrays.items():
                assert array.tobytes() == again.arrays[name].tobytes()


@pytest.mark.parametrize("function", FAMILIES)
def test_a_drawn_id_spells_out_the_whole_case(function):
    family = FAMILIES[function]

    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(layer_cases(function, family.dtypes[-1]))
    def check(case):
        again = find_case(case.id)
        assert isinstance(again, LayerCase)
        assert again.id == case.id
        assert again.arrays.keys() == case.arrays.keys()
        assert all(again.arrays[name].tobytes() == array.tobytes() for name, array in case.arrays.items())
        options = {name: value for name, value in case.options.items() if not isinstance(value, np.ndarray)}
        assert options == {name: again.options[name] for name in options}

    check()


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(FINITE).flatmap(lambda name: layer_cases(name, FAMILIES[name].dtypes[-1])))
def test_drawn_cases_fit_their_dtype(case):
    outputs = case.evaluate(InFormat("float16"))
    assert all(np.isfinite(output).all() for output in outputs if output.dtype.kind == "f")


@pytest.mark.parametrize(
    ("case_id", "sentence"),
    [
        ("attention/nothing", "no case 'attention/nothing'"),
        ("attention/drawn[queries=1]-f32", "cannot be read"),
        ("attention/drawn[colour=1,seed=3]-f32", "cannot be read"),
    ],
)
def test_an_unknown_id_is_one_sentence(case_id, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        find_case(case_id)


def test_a_function_without_the_dtype_is_refused():
    with pytest.raises(ValueError, match="rope_cos_sin has no cases at 'float16'"):
        layer_cases("rope_cos_sin", "float16")
