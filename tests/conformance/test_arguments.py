"""Wrong arguments of the public face, ids that make no case, and texts that look like markup."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from conformance import cases, find_case, reproduce, run
from conformance.text import summary_table
from refimpl.layers import silu

SENTENCE = r"^[^\n]+$"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 5}, "k is 5 but needs a string"),
        ({"dtype": 5}, "dtype is 5 but must be one of"),
        ({"dtype": np.float32}, "dtype is <class 'numpy.float32'> but must be one of"),
        ({"dtype": []}, "dtype is [] but must be one of"),
        ({"dtype": [["float32"]]}, "dtype is ['float32'] but must be one of"),
        ({"level": 5}, "level is 5 but must be one of"),
        ({"xfails_file": 5}, "xfails_file is 5 but needs a path"),
        ({"xfails_file": b"x"}, "xfails_file is b'x' but needs a path"),
        ({"xfails_file": []}, "xfails_file is [] but needs a path"),
        ({"progress": 5}, "progress is 5 but needs the methods"),
        ({"progress": 0}, "progress is 0 but needs the methods"),
        ({"min_cases": ""}, "min_cases is ''"),
    ],
)
def test_a_wrong_argument_of_run_is_one_sentence(options, words):
    with pytest.raises(ValueError, match=SENTENCE) as error:
        run("numpy", **options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtypes": 5}, "dtype is 5"),
        ({"dtypes": ["x"]}, "dtype is 'x'"),
        ({"levels": 5}, "level is 5"),
        ({"levels": ["x"]}, "level is 'x'"),
        ({"max_examples": -1}, "max_examples is -1"),
        ({"max_examples": None}, "max_examples is None"),
        ({"seed": "a"}, "seed is 'a'"),
    ],
)
def test_a_wrong_argument_of_cases_is_one_sentence(options, words):
    with pytest.raises(ValueError, match=SENTENCE) as error:
        cases(**options)
    assert words in str(error.value)


@pytest.mark.parametrize("case_id", [None, 5, []])
def test_an_id_that_is_no_string_is_one_sentence(case_id):
    with pytest.raises(ValueError, match=r"^the case id is [^\n]* but needs a string"):
        reproduce(case_id, "numpy")


@pytest.mark.parametrize("form", ["to_json", "to_junit", "to_html"])
def test_a_report_that_cannot_be_written_is_one_sentence(form):
    report = run({"silu": silu}, k="silu", level="layer", max_examples=0)
    with pytest.raises(ValueError, match=r"^/nodir/x: cannot be written \(No such file or directory\)$"):
        getattr(report, form)("/nodir/x")
    with pytest.raises(ValueError, match=r"^the path of a report is 5 but needs"):
        getattr(report, form)(5)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("shape='x',eps=1e-5,seed=1", ""),
        ("shape=5,eps=1e-5,seed=1", ""),
        ("shape=(2,3),eps=None,seed=1", ""),
        ("shape=(99999999,99999),eps=1e-5,seed=1", "too many"),
        ("shape=(2,3),eps=1e-5,seed=-1", "seed is -1"),
        ("shape=(2,3),eps=1e-5,seed='a'", "seed is 'a'"),
        ("shape=(2,3),eps=1e-5", "seed is None"),
        ("shape=(-2,3),eps=1e-5,seed=1", "shape is (-2, 3), too small"),
        ("shape=(0,3),eps=1e-5,seed=1", "too small"),
        ("seed=1", "missing a required"),
        ("5", "needs name=value"),
        ("shape=(", "needs name=value"),
        ("shape=open('x'),seed=1", "needs name=value"),
        ("**{},seed=1", ""),
    ],
)
def test_a_drawn_id_that_makes_no_case_is_one_sentence(inside, words):
    with pytest.raises(ValueError, match=SENTENCE) as error:
        find_case(f"rms_norm/drawn[{inside}]-f32")
    said = str(error.value).split("cannot be read: ")[1]
    assert words in said
    assert len(said.split()) > 2


@pytest.mark.parametrize(
    "case_id",
    [
        "token_order/drawn[batch=2,length=3,padding='x',seed=1]-i64",
        "rotary_embedding/drawn[batch=1,length=1,heads=1,width=2,rotated=8,seed=1]-f32",
        "causal_mask/drawn[queries=100000,keys=100000,seed=1]-i64",
        "rotary_embedding/drawn[batch=0,length=0,heads=1,width=2,rotated=5,seed=1]-f32",
    ],
)
def test_parameters_that_do_not_fit_together_are_one_sentence(case_id):
    with pytest.raises(ValueError, match=r"^case id [^\n]* cannot be read: [^\n]+ [^\n]+$"):
        find_case(case_id)


@pytest.mark.parametrize("name", ["[/x]", "[red]mine", "a[bold]"])
def test_a_name_that_looks_like_markup_is_printed_as_it_is(name):
    report = run({"silu": silu, "name": name, "version": "[/]"}, k="silu", level="layer", max_examples=0)
    console = Console(file=io.StringIO(), width=100)
    console.print(summary_table(report))
    assert f"{name} [/]" in console.file.getvalue()
