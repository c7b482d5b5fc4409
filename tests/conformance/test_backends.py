"""The doors, the protocol, known failures, and the expression that selects cases."""

from __future__ import annotations

import sys
import textwrap

import numpy as np
import pytest

from conformance import BackendError, backend_names, load_backend, run
from conformance.backends import BUILT_IN
from conformance.calls import Unsupported
from conformance.select import expression
from refimpl import layers

ADAPTER = """
    import numpy as np

    def rms_norm(x, weight, *, eps):
        wide = x.astype(np.float64)
        y = wide / np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + eps) * weight.astype(np.float64)
        return y.astype(x.dtype)

    def swiglu(gate, up):
        return gate / (1 + np.exp(-gate)) * up
"""


def adapter(tmp_path, text=ADAPTER, name="adapter.py"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return path


def test_a_file_with_two_functions_is_a_backend(tmp_path):
    path = adapter(tmp_path)
    report = run(str(path), max_examples=10)
    assert report.ok, report.failures()
    assert (report.backend, report.reference) == ("adapter", str(path))
    ran = {result.layer for result in report.results if result.verdict == "pass" and result.level == "layer"}
    assert ran == {"rms_norm", "swiglu"}
    others = {result.verdict for result in report.results if result.layer not in ran and result.level == "layer"}
    assert others == {"not covered"}
    assert {result.dtype for result in report.results} <= {"float32", "int64"}
    refused = next(result for result in report.results if result.id.startswith("rms_norm/no_weight"))
    assert refused.verdict == "unsupported"
    assert "weight" in refused.judgement.sentence
    assert {result.layer for result in report.results if result.level == "block" and result.ran} >= {"decoder_layer"}


def test_an_attribute_of_a_file_a_class_and_a_module(tmp_path, monkeypatch):
    text = """
    class Backend:
        name = "mine"
        version = "3.1"
        dtypes = ("float32", "bfloat16")

        def silu(self, x):
            return (x.astype("float64") / (1 + 2.718281828459045 ** -x.astype("float64"))).astype(x.dtype)
    """
    path = adapter(tmp_path, text, "kernels_under_test.py")
    monkeypatch.syspath_prepend(tmp_path)
    for reference in (f"{path}:Backend", "kernels_under_test:Backend"):
        backend = load_backend(reference)
        assert (backend.name, backend.version, backend.reference) == ("mine", "3.1", reference)
        assert list(backend.functions) == ["silu"]
        assert run(reference, k="silu", level="layer", max_examples=5).ok
    sys.modules.pop("kernels_under_test", None)


def test_objects_mappings_and_functions_without_a_signature():
    assert run({"silu": layers.silu}, k="silu", level="layer", max_examples=5).ok
    backend = load_backend({"soft_cap": np.tanh})
    assert isinstance(backend.call("soft_cap", np.zeros(3)), np.ndarray)


def test_options_at_their_default_are_not_passed():
    seen = []

    class Spy:
        @staticmethod
        def rms_norm(x, weight, **options):
            seen.append(options)
            return x

    load_backend(Spy).call("rms_norm", np.ones((2, 3)), np.ones(3), eps=1e-6, zero_centred=False)
    assert seen == [{"eps": 1e-6}]


def test_a_signature_that_does_not_fit_is_unsupported():
    backend = load_backend({"attention": lambda q, k, v, *, scale: q})
    with pytest.raises(Unsupported, match="window"):
        backend.call("attention", np.ones(1), np.ones(1), np.ones(1), scale=1.0, window=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "no function of the vocabulary"),
        ("import no_such_package_at_all", "needs the package 'no_such_package_at_all'"),
        ("1 / 0", "cannot be imported (ZeroDivisionError"),
        ("dtypes = ('float8',)\ndef silu(x): return x", "dtypes is ('float8',)"),
        ("def unavailable(): return 'mine: no device'\ndef silu(x): return x", "mine: no device"),
    ],
)
def test_a_file_that_is_no_backend_is_one_sentence(tmp_path, text, words):
    with pytest.raises(BackendError, match=r"^[^\n]*$") as error:
        load_backend(str(adapter(tmp_path, text)))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("no/such/file.py", "no such file"),
        ("no.such.module", "no backend 'no.such.module'"),
        ("json:no_such_attribute", "no attribute"),
        ("onnxruntim", "did you mean 'onnxruntime'"),
    ],
)
def test_a_reference_to_nothing_is_one_sentence(reference, words):
    with pytest.raises(BackendError, match=r"^[^\n]*$") as error:
        load_backend(reference)
    assert words in str(error.value)


def test_entry_points_are_a_door(monkeypatch, tmp_path):
    from importlib.metadata import EntryPoint

    adapter(tmp_path, ADAPTER, "installed_kernels.py")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("mykernels", "installed_kernels", "refimpl.backends")
    monkeypatch.setattr("conformance.doors.entry_points", lambda group: [entry])
    assert "mykernels" in backend_names()
    assert set(load_backend("mykernels").functions) == {"rms_norm", "swiglu"}


def test_every_built_in_backend_is_listed():
    assert set(BUILT_IN) <= set(backend_names())
    assert load_backend("numpy").name == "numpy"


def write_xfails(tmp_path, text):
    path = tmp_path / "xfails.txt"
    path.write_text(text)
    return path


def test_known_failures_do_not_fail_the_run_and_passes_among_them_are_reported(tmp_path):
    path = write_xfails(tmp_path, "# mine\n\nsilu/*-f32-*  # wrong on purpose  https://example.org/1\ngelu/erf-*  # stale\n")
    wrong = {"silu": lambda x: x, "gelu": layers.gelu}
    report = run(wrong, k="silu or gelu", level="layer", max_examples=0, xfails_file=path)
    assert report.ok
    assert {result.expected for result in report.expected_failures()} == {"wrong on purpose  https://example.org/1"}
    assert [result.layer for result in report.unexpected_passes()] == ["gelu"]
    assert run(wrong, k="silu", level="layer", max_examples=0).exit_code == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("silu/*\n", "xfails.txt:1: 'silu/*' has no reason"),
        ("\nsilu/*  #  \n", "xfails.txt:2: 'silu/*' has no reason"),
        ("silo/*  # typo\n", "xfails.txt:1: 'silo/*' matches no case"),
    ],
)
def test_a_file_of_known_failures_cannot_rot(tmp_path, text, words):
    path = write_xfails(tmp_path, text)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        run("numpy", k="silu", xfails_file=path)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("norm", {"rms_norm/a", "l2_norm/b"}),
        ("norm and not l2", {"rms_norm/a"}),
        ("rms or silu", {"rms_norm/a", "silu/c"}),
        ("not (rms or silu)", {"l2_norm/b"}),
        ("NOT RMS and not silu", {"l2_norm/b"}),
        ("rms_norm/a", {"rms_norm/a"}),
    ],
)
def test_expressions(text, matched):
    ids = {"rms_norm/a", "l2_norm/b", "silu/c"}
    assert {case_id for case_id in ids if expression(text)(case_id)} == matched
