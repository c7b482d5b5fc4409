"""The examples in other languages: they are built where their compiler is, pass, and fail when broken, on the layer that is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from conformance import load_backend, run

EXAMPLES = Path(__file__).parents[2] / "examples"
needs_compiler = pytest.mark.skipif(not (shutil.which("make") and shutil.which("g++")), reason="needs make and g++")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs node")
JAVASCRIPT = f"exec:{EXAMPLES / 'javascript' / 'runner.mjs'}"


def built(directory, *arguments):
    """The door of the C++ example, made in a directory of its own."""
    shutil.copytree(EXAMPLES / "cpp", directory, ignore=shutil.ignore_patterns("runner"))
    subprocess.run(["make", "-C", str(directory), "CXX=g++", "CXXFLAGS=-std=c++17 -O1 -Wall -Werror", *arguments], check=True)
    return f"exec:{directory / 'runner'}"


def verdicts(report):
    return {verdict for verdict, count in report.counts().items() if count}


@needs_compiler
def test_the_example_in_cpp_passes_every_case_of_its_layers(tmp_path):
    door = built(tmp_path / "cpp")
    layers = load_backend(door).functions
    report = run(door, level="layer", dtype="float32", max_examples=0, workers=0)
    covered = [result for result in report.results if result.layer in layers]
    assert {result.verdict for result in covered} == {"pass"}
    assert {result.layer for result in covered} == set(layers)
    others = run(door, level="layer", dtype=["float64", "bfloat16"], max_examples=0, k="attention/sink or l2_norm", workers=0)
    assert verdicts(others) == {"pass"}
    assert verdicts(run(door, k="attention_block and f32 or law/attention_window", dtype="float32", workers=0)) == {"pass"}


@needs_compiler
def test_the_example_in_cpp_fails_with_a_window_one_too_long(tmp_path):
    door = built(tmp_path / "cpp", "DEFINES=-DBROKEN_WINDOW")
    report = run(door, level="layer", dtype="float32", max_examples=3, k="attention/ or window or silu/", workers=0)
    assert {result.layer for result in report.failures()} == {"attention", "sliding_window_mask", "attention_mask"}


@needs_node
def test_the_example_in_javascript_passes_and_fails_when_broken(monkeypatch):
    layers = "rms_norm/plain or rotary_embedding/ or top_k_softmax_router/ or clamped_swiglu/ or linear/bias"
    report = run(JAVASCRIPT, level="layer", dtype="float32", max_examples=0, k=layers, workers=0)
    covered = [result for result in report.results if result.layer in load_backend(JAVASCRIPT).functions]
    assert {result.verdict for result in covered} == {"pass"}
    monkeypatch.setenv("REFIMPL_EXAMPLE_BROKEN", "1")
    broken = run(JAVASCRIPT, level="layer", dtype="float32", max_examples=0, k="rotary_embedding/ or silu/", workers=0)
    assert {result.layer for result in broken.failures()} == {"rotary_embedding"}
