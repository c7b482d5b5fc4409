"""The golden tensors hold, and a golden tensor that does not hold is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import golden
import golden.configs
from golden.manifest import read_manifest, read_tensors, sha256, write_manifest, write_tensors
from refimpl import layers

STORED = golden.directory()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED, tmp_path / "golden"))


def problems(root: Path | None = None) -> dict[str, str]:
    return {verdict.id: verdict.problem for verdict in golden.verify(root) if verdict.problem is not None}


def test_every_stored_tensor_holds() -> None:
    assert problems() == {}


def test_every_layer_has_a_golden() -> None:
    functions = {entry["function"] for entry in read_manifest(STORED)["entries"] if entry["kind"] == "layer"}
    assert functions == set(layers.VOCABULARY)


def test_the_models_are_confirmed_by_another_implementation() -> None:
    confirmed = [entry["confirmed_by"] for entry in read_manifest(STORED)["entries"] if entry["kind"] == "model"]
    assert len(confirmed) == len(golden.configs.CONFIGS)
    for by in confirmed:
        assert by["implementation"] in ("transformers", "tests/peers/grok.py in torch")
        assert by["version"]
        assert by["largest_relative_error"] < 1e-10


def test_all_of_it_is_small() -> None:
    for folder, largest in {"layers": 3_000_000, "models": 1_200_000 * len(golden.configs.CONFIGS)}.items():
        assert sum(path.stat().st_size for path in (STORED / folder).rglob("*") if path.is_file()) < largest


def test_making_is_reproducible(tmp_path: Path) -> None:
    first, second = (golden.make(tmp_path / name) for name in ("first", "second"))
    files = [path.relative_to(first) for path in sorted(first.rglob("*")) if path.is_file()]
    assert files
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_altered_bytes_are_found(copy: Path) -> None:
    path = copy / "layers/rms_norm/plain-any-f64-b2t5d24.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert list(problems(copy)) == ["rms_norm/plain-any-f64-b2t5d24"]


def test_other_numbers_are_found_even_with_a_fitting_sha(copy: Path) -> None:
    manifest = read_manifest(copy)
    entry = next(entry for entry in manifest["entries"] if entry["id"].startswith("swiglu/"))
    tensors = read_tensors(copy / entry["file"])
    tensors["out"] = tensors["out"] * (1 + 1e-9)
    write_tensors(copy / entry["file"], tensors, {})
    entry["sha256"] = sha256(copy / entry["file"])
    del manifest["schema"]
    write_manifest(copy, manifest)
    assert "differs by 1.0e-09" in problems(copy)[entry["id"]]


def test_a_missing_and_an_unlisted_file_are_found(copy: Path) -> None:
    (copy / "layers/silu").rename(copy / "layers/other")
    found = problems(copy)
    assert any("no such file" in problem for name, problem in found.items() if name.startswith("silu/"))
    assert any("not listed" in problem for problem in found.values())


def test_a_changed_specification_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = layers.VOCABULARY["rms_norm"]
    monkeypatch.setitem(layers.VOCABULARY, "rms_norm", lambda x, *rest, eps, **options: right(x, *rest, eps=2 * eps, **options))
    found = problems()
    assert any(name.startswith("rms_norm/tiny") for name in found)
    assert "model/qwen3" in found


def test_an_unconfirmed_disagreement_stops_making(tmp_path: Path) -> None:
    def confirm(folder: Path, tokens: np.ndarray) -> tuple[np.ndarray, str, str]:
        vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
        return np.ones((*tokens.shape, vocabulary)), "another", "1"

    with pytest.raises(golden.GoldenError, match="another 1 differs by"):
        golden.make(tmp_path / "made", confirm=confirm)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 0}'])
def test_a_broken_manifest_is_one_sentence(copy: Path, text: str) -> None:
    (copy / "MANIFEST.json").write_text(text)
    with pytest.raises(golden.GoldenError, match=r"MANIFEST\.json: not"):
        list(golden.verify(copy))


def test_making_never_replaces_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(golden.GoldenError, match="directory of their own"):
        golden.make(tmp_path)
    assert (tmp_path / "kept.txt").read_text() == "kept"


def test_a_failed_making_leaves_what_was_there(copy: Path) -> None:
    def confirm(folder: Path, tokens: np.ndarray) -> tuple[np.ndarray, str, str]:
        raise RuntimeError("the peer is not well")

    with pytest.raises(RuntimeError):
        golden.make(copy, confirm=confirm)
    assert problems(copy) == {}
