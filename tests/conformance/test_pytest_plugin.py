"""The plug-in of pytest: a project runs the suite inside its own tests."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from conformance.threads import cores

# A checkout that was installed before the plug-in was there does not know it by itself.
INSTALLED = [] if any(entry.name == "refimpl" for entry in entry_points(group="pytest11")) else ["-p", "refimpl_pytest"]
ROOT = Path(__file__).parents[2]
ADAPTER = """
from refimpl.layers import rms_norm, silu as right


def silu(x):
    return right(x) * (1.5 if x.shape[-1] == 7 else 1)


def gelu(x, *, approximate=None):
    raise NotImplementedError("no gelu yet")
"""
LARGE = "silu/large-any-f32-t5f7"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "kernels.py").write_text(ADAPTER)
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    return tmp_path


def call(project, *arguments):
    """Exit status and output of pytest in the directory of a project."""
    command = [sys.executable, "-m", "pytest", *INSTALLED, "-p", "no:cacheprovider", "-rA", *arguments]
    environment = {"PYTHONPATH": f"{project}:{ROOT}", "PATH": "", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def suite(project, *arguments, level="layer"):
    options = ("--pyargs", "conformance", "--refimpl-backend=kernels", "--refimpl-max-examples=2", f"--refimpl-level={level}")
    return call(project, *options, *arguments)


def test_one_item_a_case_with_its_verdict(project):
    status, said = suite(project, "-k", "rms_norm or silu or gelu and not geglu")
    assert status == 1
    assert re.search(rf"FAILED \S*suite.py::{LARGE}", said)
    assert f"refimpl reproduce {LARGE} --backend kernels" in said
    assert "::rms_norm/plain-any-f32-b2t5d24" in said
    assert "unsupported: no gelu yet" in said
    assert "Traceback" not in said


def test_a_node_id_chooses_one_case(project):
    status, said = call(project, f"{ROOT}/conformance/suite.py::silu/around_zero-any-f32-b2t5f24", "--refimpl-backend=kernels")
    assert status == 0, said
    assert "1 passed" in said


def test_known_failures_are_xfail_and_strict(project):
    known = project / "xfails"
    known.write_text("silu/large-*  # a factor  https://example.org/1\n")
    status, said = suite(project, "-k", "silu/large", f"--refimpl-xfails-file={known}")
    assert status == 0, said
    assert "1 xfailed" in said
    assert "a factor  https://example.org/1" in said
    known.write_text("silu/around*  # right in truth\n")
    status, said = suite(project, "-k", "silu/around", f"--refimpl-xfails-file={known}")
    assert status == 1
    assert "XPASS(strict)" in said


@pytest.mark.parametrize("xdist", [(), ("-n", "2")], ids=["here", "xdist"])
def test_too_few_that_ran_are_no_success(project, xdist):
    if xdist:
        pytest.importorskip("xdist")
    status, said = suite(project, "-k", "gelu/", *xdist)
    assert status == 5
    assert re.search(r"refimpl: 0 of \d+ cases ran but at least 1 must", said)
    status, said = suite(project, "-k", "silu/around", "--refimpl-min-cases=5", *xdist)
    assert status == 5
    assert re.search(r"refimpl: \d of \d cases ran but at least 5 must", said)
    assert suite(project, "-k", "silu/around or rms_norm/plain", "--refimpl-min-cases=2", *xdist)[0] == 0
    assert call(project, "test_own.py", "--refimpl-backend=kernels", *xdist)[0] == 0


def test_workers_of_xdist_give_the_same(project):
    pytest.importorskip("xdist")
    status, said = suite(project, "-k", "silu or rms_norm", "-n", "2")
    alone, _ = suite(project, "-k", "silu or rms_norm")
    assert status == alone == 1
    assert f"refimpl reproduce {LARGE} --backend kernels" in said


def test_workers_of_xdist_share_the_cores(project):
    pytest.importorskip("xdist")
    (project / "kernels.py").write_text(
        "import os\n\ndef silu(x):\n    raise NotImplementedError(f\"threads: {os.environ.get('OMP_NUM_THREADS')}\")\n"
    )
    _, said = suite(project, "-k", "silu/", "-n", "2")
    assert f"threads: {max(1, cores() // 2)}" in said
    _, said = suite(project, "-k", "silu/")
    assert "threads: None" in said


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--refimpl-backend=kernel", "no backend 'kernel'"),
        ("--refimpl-dtype=float8", "dtype is 'float8' but must be one of"),
        ("--refimpl-level=floor", "level is 'floor' but must be one of"),
        ("--refimpl-profile=often", "profile is 'often' but must be one of dev, ci, nightly"),
        ("--refimpl-seed=-1", "seed is -1"),
        ("--refimpl-xfails-file=nowhere", "nowhere: cannot be read"),
    ],
)
def test_a_wrong_option_is_one_sentence(project, option, words):
    status, said = suite(project, option)
    assert status == 2, said  # as of any file that cannot be collected
    assert words in said
    assert "Traceback" not in said


def test_other_runs_are_left_alone(project):
    (project / "test_own.py").write_text(
        "import sys\n\ndef test_own():\n    assert not {'conformance', 'refimpl', 'numpy'} & set(sys.modules)\n"
    )
    status, said = call(project, "-p", "no:hypothesispytest")
    assert status == 0, said
    assert "1 passed" in said
    status, said = call(project, "--pyargs", "conformance")
    assert status == 5, said
