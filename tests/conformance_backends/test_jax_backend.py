"""What jax has itself agrees with the specification, but for what is listed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import conformance
from conformance.backends.jax import backend
from refimpl.layers import attention

needs_jax = pytest.mark.skipif(backend.unavailable() is not None, reason=str(backend.unavailable()))
XFAILS = Path(__file__).parents[2] / ".ci" / "jax.xfails"
LISTED = "0.10."  # another version may do better


@needs_jax
def test_only_listed_cases_fail():
    listed = backend.version.startswith(LISTED)
    dtypes = ["float32", "bfloat16"]
    report = conformance.run(
        backend, k="not drawn", level="layer", dtype=dtypes, max_examples=1, xfails_file=XFAILS if listed else None
    )
    if listed:
        assert report.failures() == []
        assert report.expected_failures()
    assert report.counts()["pass"] > 150
    assert report.too_few == ""


@needs_jax
@pytest.mark.parametrize("queries", [7, 2], ids=["its own window", "a mask"])
def test_the_window_is_as_wide_as_asked_for(queries):
    generator = np.random.default_rng(3)
    q, k, v = (
        generator.standard_normal(shape).astype(np.float32) for shape in ((2, queries, 6, 4), (2, 7, 3, 4), (2, 7, 3, 5))
    )
    options = {"scale": 0.4, "window": 3}
    expected = attention(*(array.astype(np.float64) for array in (q, k, v)), **options)
    assert np.abs(backend.attention(q, k, v, **options) - expected).max() < 2e-6


@needs_jax
def test_64_bits_are_there_for_its_calls_alone():
    import jax

    assert backend.silu(np.ones(3)).dtype == np.float64
    assert not jax.config.jax_enable_x64


def test_importing_the_module_imports_no_jax():
    subprocess.run([sys.executable, "-c", "import sys, conformance.backends.jax; assert 'jax' not in sys.modules"], check=True)


def test_without_jax_it_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert backend.unavailable() == "jax: jax is not installed"
