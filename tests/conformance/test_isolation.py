"""Worker processes: what hangs or ends is reported, the run goes on, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from conformance import BackendError, run, threads
from refimpl.layers import silu
from tests.conformance import fragile

LARGE = "silu/large-any-f32-t5f7"  # the one hand-picked case of silu that is 7 wide


def results_of(backend, **options):
    options = {"workers": 1, "max_examples": 0, **options}
    report = run(backend, k="silu/ or gelu/", level="layer", dtype="float32", **options)
    return {result.id: result for result in report.results if result.ran}


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (fragile.leave, "crash", "ended its process (exit status 0)"),
        (fragile.segfault, "crash", "ended its process (SIGSEGV)"),
        (fragile.hang, "timeout", "gave no answer within 1.5 s"),
        (fragile.hang_in_compiled_code, "timeout", "gave no answer within 1.5 s"),
    ],
)
def test_a_case_that_takes_its_process_along_is_an_error_and_the_run_goes_on(function, kind, words):
    found = results_of(fragile.OnShape(function, 7), timeout=1.5)
    lost = found.pop(LARGE)
    assert (lost.verdict, lost.judgement.kind, lost.judgement.sentence) == ("error", kind, words)
    assert {result.verdict for result in found.values()} == {"pass"}
    assert {result.layer for result in found.values()} == {"silu", "gelu"}
    assert not multiprocessing.active_children()


def test_after_three_losses_the_others_of_a_function_are_not_asked():
    found = results_of({"gelu": fragile.leave_whatever, "silu": silu})
    sentences = [result.judgement.sentence for result in found.values() if result.layer == "gelu"]
    assert len(sentences) == 4
    assert [sentence.startswith("not asked") for sentence in sentences] == [False, False, False, True]
    assert {result.verdict for result in found.values() if result.layer == "silu"} == {"pass"}


def test_what_a_backend_has_started_ends_with_it(tmp_path):
    started = fragile.Starting(str(tmp_path / "pid"))
    assert results_of(started, timeout=1.5)[LARGE].judgement.kind == "timeout"
    assert not started.alive()


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ({"silu": lambda x: x}, "mapping: cannot be sent to worker processes"),
        (fragile.OnlyHere(), "OnlyHere: cannot be made in a worker process (RuntimeError: not in a worker)"),
        (
            fragile.LeavesWhenMade(),
            "LeavesWhenMade: cannot be loaded in a worker process, which ended its process (exit status 5)",
        ),
    ],
)
def test_a_backend_that_cannot_travel_is_one_sentence(backend, words):
    with pytest.raises(BackendError, match=r"^[^\n]*$") as error:
        results_of(backend)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(("said", "workers", "seen"), [(None, 2, "2"), (None, 1, "None"), ("3", 2, "3")])
def test_workers_share_the_cores_unless_the_user_has_said_how_many_threads(monkeypatch, said, workers, seen):
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    found = results_of({"silu": fragile.say_threads, "gelu": fragile.gelu}, workers=workers)
    assert f"threads: {seen}" in found[LARGE].judgement.sentence
    assert os.environ.get("OMP_NUM_THREADS") == said


def test_an_interrupt_passes_and_ends_the_workers():
    with pytest.raises(KeyboardInterrupt):
        results_of({"silu": fragile.interrupt})
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": -1}, "workers is -1"),
        ({"workers": 1, "timeout": 0}, "timeout is 0 but needs seconds"),
        ({"workers": 1, "timeout": "1"}, "timeout is '1' but needs seconds"),
        ({"workers": 0, "timeout": 1}, "timeout needs worker processes"),
        ({"workers": None, "executor": 5}, "executor is 5 but needs a method submit"),
        ({"workers": 2, "executor": 5}, "executor has workers of its own"),
    ],
)
def test_wrong_arguments_are_one_sentence(options, words):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        results_of("numpy", **options)
    assert words in str(error.value)
