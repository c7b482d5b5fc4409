"""Reports of runs that write, or fail to write, at the same time; and a report on standard output with nothing beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conformance import run
from refimpl.layers import silu


def reports():
    chosen = {"k": "silu/", "level": "layer", "dtype": "float32", "max_examples": 0}
    return run({"silu": silu, "name": "first" * 5000}, **chosen), run({"silu": silu, "name": "second"}, **chosen)


def test_of_two_writers_one_wins_whole(tmp_path):
    path, (first, second) = tmp_path / "report.json", reports()
    whole = {first.to_json(), second.to_json()}
    first.to_json(path)
    with ThreadPoolExecutor(2) as executor:
        writers = [executor.submit(lambda one=one: [one.to_json(path) for _ in range(40)]) for one in (first, second)]
        while not all(writer.done() for writer in writers):
            assert path.read_text() in whole
    assert path.read_text() in whole
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path, (first, second) = tmp_path / "report.json", reports()
    first.to_json(path)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\)$"):
        second.to_json(path)
    assert path.read_text() == first.to_json()
    assert os.listdir(tmp_path) == ["report.json"]


def test_links_and_pipes_stay_what_they_are(tmp_path):
    report, _ = reports()
    (tmp_path / "link.json").symlink_to(tmp_path / "report.json")
    report.to_json(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "report.json").read_text() == report.to_json()
    report.to_json("/dev/null")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_compiled_code_prints_is_not_in_the_report(tmp_path, workers):
    adapter = tmp_path / "loud.py"
    adapter.write_text(
        'import os\nos.write(1, b"import\\n")\nfrom tests.conformance.fragile import print_below_python as silu\n'
    )
    command = "import sys; from refimpl.cli import status; sys.exit(status(sys.argv[1:]))"
    arguments = ["conform", adapter, "-k", "silu/large", "--json", "-", "-n", workers]
    done = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["counts"]["pass"] == 1, done.stderr
    assert done.stderr.count("printed") >= 2
    assert "import" in done.stderr
