"""Backends that return, raise, print or set what they should not: a verdict or one sentence, and the run goes on."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from conformance import BackendError, load_backend, run
from conformance.backends import numpy as specification
from refimpl.layers import VOCABULARY


def run_norm(change, **options):
    def changed(x, weight=None, **rest):
        return change(x)

    return run({"rms_norm": changed}, k="rms_norm", dtype=["float32", "bfloat16"], max_examples=3, **options)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda x: x.astype(object), "dtype"),
        (lambda x: np.full(x.shape, "a"), "dtype"),
        (lambda x: np.zeros(x.shape, [("a", "f4"), ("b", "f4")]), "dtype"),
        (lambda x: np.zeros(x.shape, "M8[s]"), "dtype"),
        (lambda x: x.astype(np.complex64), "dtype"),
        (lambda x: np.ma.MaskedArray(x), "dtype"),
        (lambda x: x.astype(np.int32), "dtype"),
        (lambda x: (x,), "shape"),
        (lambda x: (), "shape"),
        (lambda x: (x, x), "shape"),
        (lambda x: np.array(1.0, x.dtype), "shape"),
        (lambda x: np.zeros((0,), x.dtype), "shape"),
        (lambda x: np.broadcast_to(x.dtype.type(0), (10**6, 10**6)), "shape"),
    ],
)
def test_a_result_that_is_none_is_a_failure_everywhere(change, kind):
    ran = [result for result in run_norm(change).results if result.ran]
    assert {result.level for result in ran} == {"layer", "law"}
    assert {(result.verdict, result.judgement.kind) for result in ran if result.level == "layer"} == {("fail", kind)}
    assert "error" not in {result.verdict for result in ran}


@pytest.mark.parametrize("change", [lambda y: y[0], lambda y: np.stack(y), list, lambda y: (*y, y[0])])
def test_a_pair_that_is_none_is_a_failure_everywhere(change):
    report = run({"rope_cos_sin": lambda *a, **k: change(specification.rope_cos_sin(*a, **k))}, max_examples=2)
    ran = [result for result in report.results if result.ran]
    assert {result.level for result in ran} == {"layer", "block", "law"}
    assert {result.verdict for result in ran} == {"fail"}


@pytest.mark.parametrize("value", [1.5, "x", None, np.zeros(()), np.zeros((1, 1)), np.zeros((3,), object)])
@pytest.mark.parametrize("function", ["attention", "rotary_embedding", "token_order", "causal_mask", "linear", "embedding"])
def test_one_value_for_everything_is_a_failure_everywhere(function, value):
    report = run({function: lambda *values, **options: value}, k=f"{function} or attention_block", max_examples=2)
    found = {result.level: result.verdict for result in report.results if result.ran}
    assert found.pop("law", "fail") in ("fail", "pass")  # a law may hold for one value too
    assert set(found.values()) == {"fail"}


class Dumb(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [Dumb(), GeneratorExit(), BaseException("down"), SystemExit(2), Exception("a\nb")])
def test_whatever_a_call_raises_is_an_error(error):
    def raising(x):
        raise error

    report = run_norm(raising)
    found = {(result.verdict, result.judgement.sentence) for result in report.results if result.ran}
    assert {verdict for verdict, _ in found} == {"error"}
    assert all(type(error).__name__ in sentence and "\n" not in sentence for _, sentence in found)


def test_an_interrupt_passes():
    def interrupting(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_norm(interrupting)


def test_a_vocabulary_that_changes_is_a_shape_failure():
    def load(directory):
        model = specification.load(directory)

        def engine(tokens, cache=None):
            logits, state = model(tokens, cache)
            return (logits if cache is None else logits[..., :-1]), state

        return engine

    report = run({"load": load}, k="smollm3/tied or law/smollm3", dtype="float32")
    failed = {result.id.split("-")[1]: result.judgement for result in report.failures()}
    assert failed.keys() == {"pieces", "decode"}
    assert {judgement.kind for judgement in failed.values()} == {"shape"}


class Needs:
    def __init__(self, argument):
        pass


class Leaves:
    def __init__(self):
        raise SystemExit(1)


class Nameless:
    @property
    def name(self):
        raise Dumb

    silu = staticmethod(VOCABULARY["silu"])


def backend_with(**attributes):
    return {"silu": VOCABULARY["silu"], **attributes}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Needs, "Needs: making an instance raised TypeError"),
        (Leaves, "Leaves: making an instance raised SystemExit: 1"),
        (Nameless, "Nameless: its name raised Dumb"),
        (backend_with(unavailable=lambda: 1 / 0), "mapping: unavailable() raised ZeroDivisionError"),
        (backend_with(unavailable=lambda x: None), "mapping: unavailable() raised TypeError"),
        (backend_with(dtypes=5), "mapping: dtypes is 5"),
        (backend_with(dtypes=[np.float32]), "mapping: dtypes is [<class 'numpy.float32'>]"),
        (np, "numpy: dtypes is <module"),
        ("numpy:", "the attribute after the colon is missing"),
        ("json", "json: a module of Python's standard library"),
        ("pickle", "pickle: a module of Python's standard library"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(source, words):
    with pytest.raises(BackendError, match=r"^[^\n]*$") as error:
        load_backend(source)
    assert words in str(error.value)


@pytest.mark.parametrize("text", ["import sys; sys.exit('a' + chr(10) + 'b')", "raise BaseException('a' + chr(10) + 'b')"])
def test_an_import_that_leaves_is_one_sentence(tmp_path, text):
    path = tmp_path / "adapter.py"
    path.write_text(text)
    with pytest.raises(BackendError, match=r"^[^\n]*cannot be imported[^\n]*: a\)$"):
        load_backend(str(path))


def test_an_import_that_ends_the_process_is_shown_with_its_line(tmp_path):
    path = tmp_path / "adapter.py"
    path.write_text("import ctypes\nctypes.string_at(0)\n")
    command = [sys.executable, "-c", "import refimpl.cli; refimpl.cli.main()", "conform", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode < 0
    assert f'File "{path}", line 2' in ended.stderr


def test_a_module_with_load_alone_is_a_backend(tmp_path, monkeypatch):
    (tmp_path / "only_load.py").write_text("def load(directory):\n    raise NotImplementedError('later')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_backend("only_load").loads_models
    assert load_backend(str(tmp_path / "only_load.py")).loads_models


LOUD = """
    import numpy as np
    from conformance.backends import numpy as specification
    print("import")
    np.seterr(all="raise")

    def silu(x):
        print("call")
        result = specification.silu(x)
        np.seterr(all="raise")
        return result

    def load(directory):
        print("load")
        return specification.load(directory)
"""


def test_prints_and_settings_of_a_backend_stay_with_it(tmp_path, capsys):
    path = tmp_path / "loud.py"
    path.write_text(textwrap.dedent(LOUD))
    before = np.geterr()
    assert run(str(path), k="silu or smollm3/tied", max_examples=3).ok
    assert np.geterr() == before
    printed = capsys.readouterr()
    assert printed.out == ""
    assert {"import", "call", "load"} <= set(printed.err.split())


def test_the_settings_of_the_caller_do_not_reach_the_suite():
    with np.errstate(all="raise"):
        assert run("numpy", dtype="float16", k="silu or softcap or gated_mlp_block", max_examples=5).ok
