"""What stays in float32 beside bfloat16: in what a backend is given, in what it must return, and in how that is judged."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from conformance.backend import as_backend
from conformance.backends import numpy as specification
from conformance.case import Workspace
from conformance.cases import FAMILIES
from conformance.laws import LAWS
from refimpl.layers import VOCABULARY
from refimpl.layers.precision import WIDE, converted

BF16 = np.dtype(ml_dtypes.bfloat16)
RULES = ("linear_attention", "gated_linear_attention", "delta_rule", "gated_delta_rule", "ssd")


def edge_case(function: str, dtype: str, phase: str = "pieces"):
    family = FAMILIES[function]
    return next(family.case(one, dtype) for one in family.edges if one.phase == phase and one.parameters.get("state"))


def with_state(function: str, change):
    def wrong(*values, **options):
        y, state = getattr(specification, function)(*values, **options)
        return y, change(state)

    return as_backend({function: wrong, "dtypes": ("bfloat16",)})


@pytest.mark.parametrize("function", sorted(WIDE))
def test_the_table_names_arguments_and_results_that_there_are(function: str) -> None:
    from inspect import signature

    assert set(WIDE[function].arguments) <= set(signature(VOCABULARY[function]).parameters)


def test_positions_and_keywords_are_told_apart_by_their_names() -> None:
    values, options = converted("gated_delta_rule", "qkvgb", {"state": "s", "scale": 1}, narrow=lambda x: x, wide=lambda x: [x])
    assert (values, options) == (("q", "k", "v", ["g"], "b"), {"state": ["s"], "scale": 1})


def test_a_backend_is_given_both_formats() -> None:
    case = next(c for c in FAMILIES["gated_delta_rule"].cases("bfloat16") if "state" in c.arrays)
    formats = {name: array.dtype for name, array in case.arrays.items()}
    narrow, wide = dict.fromkeys(("q", "k", "v", "beta"), BF16), dict.fromkeys(("g", "state"), np.dtype(np.float32))
    assert formats == narrow | wide
    g = case.arrays["g"]
    assert not np.array_equal(g, g.astype(BF16).astype(np.float32))


@pytest.mark.parametrize("function", RULES)
def test_the_state_must_come_back_in_float32(function: str, tmp_path) -> None:
    judgement = edge_case(function, "bfloat16").judge(with_state(function, lambda s: s.astype(BF16)), Workspace(tmp_path))
    assert (judgement.kind, judgement.sentence) == ("dtype", "returned dtype bfloat16 but needs float32")


@pytest.mark.parametrize("function", RULES)
def test_a_state_that_was_rounded_on_its_way_is_far_outside(function: str, tmp_path) -> None:
    backend = with_state(function, lambda s: s.astype(BF16).astype(np.float32))
    judgement = edge_case(function, "bfloat16").judge(backend, Workspace(tmp_path))
    assert judgement.kind == "numeric"
    assert judgement.share > 100


@pytest.mark.parametrize("function", RULES)
def test_laws_of_the_state_are_as_strict(function: str, tmp_path) -> None:
    """The state is rounded on its way from one piece to the next alone."""

    def wrong(*values, state=None, **options):
        state = state if state is None else state.astype(BF16).astype(np.float32)
        return getattr(specification, function)(*values, state=state, **options)

    law = next(law for law in LAWS if law.functions[0] == function and law.name == "steps_state")
    judgement = law.case("bfloat16").judge(as_backend({function: wrong, "dtypes": ("bfloat16",)}), Workspace(tmp_path))
    assert judgement.kind == "law"
    assert judgement.share > 10


def test_a_decay_in_bfloat16_is_outside(tmp_path) -> None:
    def narrow(a, a_log, dt_bias):
        return specification.softplus_decay(a, a_log, dt_bias).astype(BF16).astype(np.float32)

    backend = as_backend({"softplus_decay": narrow, "dtypes": ("bfloat16",)})
    for case in FAMILIES["softplus_decay"].cases("bfloat16"):
        assert case.judge(backend, Workspace(tmp_path)).kind == "numeric", case.id
