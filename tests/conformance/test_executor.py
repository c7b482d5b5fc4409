"""Where cases are judged does not show in the report."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from conformance import BackendError, run
from conformance.backends import numpy as specification
from refimpl.layers import rms_norm, silu
from tests.conformance import fragile

CHOSEN = "silu/ or rms_norm/ or rope_cos_sin/ or smollm3/tied or smollm3_batch"


def options(**changed):
    return {"k": CHOSEN, "dtype": "bfloat16", "max_examples": 3, **changed}


@pytest.fixture(scope="module")
def serial():
    return run("numpy", **options())


def test_worker_processes(serial):
    report = run("numpy", **options(workers=2))
    assert [result.id for result in report.results] == [result.id for result in serial.results]
    assert report.to_json() == serial.to_json()


def test_threads(serial, capsys):
    with ThreadPoolExecutor(4) as executor:
        assert run("numpy", **options(executor=executor)).to_json() == serial.to_json()
    print("standard output is what it was")
    assert "as it was" not in capsys.readouterr().err


def test_a_process_pool(serial):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert run("numpy", **options(executor=executor)).to_json() == serial.to_json()


def test_dask(serial):
    distributed = pytest.importorskip("distributed")
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        assert run("numpy", **options(executor=client.get_executor())).to_json() == serial.to_json()


@pytest.mark.parametrize("backend", [specification, {"rms_norm": rms_norm, "silu": silu}, fragile.OnShape(silu, 7)])
def test_modules_mappings_and_objects_travel(backend):
    chosen = {"k": "silu or rms_norm", "level": "layer", "dtype": "float32", "max_examples": 0}
    report = run(backend, timeout=60.0, **chosen)
    assert report.score == 1
    assert report.to_json() == run(backend, **chosen).to_json()


def test_progress_and_known_failures(tmp_path):
    class Recorder:
        def __init__(self):
            self.events = []

        def start(self, total):
            self.events.append(total)

        def advance(self, result):
            self.events.append((result.id, result.expected))

        def finish(self):
            self.events.append("finished")

    recorder, xfails = Recorder(), tmp_path / "xfails"
    xfails.write_text("silu/*  # another function\n")
    report = run({"silu": fragile.gelu}, k="silu/", level="layer", xfails_file=xfails, workers=1, progress=recorder)
    assert report.ok
    first, *events, last = recorder.events
    assert (first, last) == (len(events), "finished")
    assert sorted(events) == sorted((result.id, "another function") for result in report.results)


class Failing:
    """An executor whose futures have failed."""

    def __init__(self, error):
        self.error = error

    def submit(self, function, *arguments):
        future = Future()
        future.set_exception(self.error)
        return future


def test_what_an_executor_loses_is_an_error():
    executor = Failing(BrokenProcessPool("terminated abruptly"))
    report = run("numpy", k="silu/", level="layer", dtype="float32", executor=executor)
    assert {(result.verdict, result.judgement.kind) for result in report.results} == {("error", "crash")}
    assert report.results[0].judgement.sentence == "the executor lost it: BrokenProcessPool: terminated abruptly"


def test_what_cannot_be_sent_to_an_executor_is_one_sentence():
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor,
        pytest.raises(BackendError, match=r"^mapping: cannot be sent to the executor's workers [^\n]*$"),
    ):
        run({"silu": lambda x: x}, k="silu/", executor=executor)
