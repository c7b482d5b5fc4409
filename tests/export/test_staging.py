"""An export replaces the graph and its data together or not at all, and leaves nothing else behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from export import ExportError, export_onnx
from export.lowerings import LOWERINGS
from refimpl.model import Model
from tests.export.exported_models import assert_close, open_session, write_checkpoint
from tests.tiny import qwen3, smollm3, tokens

WIDE = smollm3(vocab_size=2500, hidden_size=128, intermediate_size=256, num_hidden_layers=2, no_rope_layers=[1, 0])


def wide(seed: int) -> Model:
    """A model that is too large to be one file."""
    return refimpl.init(WIDE, seed=seed)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def not_a_number(f: Any, gate: Any, up: Any) -> Any:
    return f.Log(f.Sub(LOWERINGS["swiglu"](f, gate, up), 1e9))


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.fixture(params=["nothing before", "a graph before"])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, bytes]:
    if request.param == "a graph before":
        export_onnx(wide(0), tmp_path / "b.onnx", verify=True)
        assert sorted(contents(tmp_path)) == ["b.onnx", "b.onnx.data"]
    return contents(tmp_path)


@pytest.mark.parametrize(
    ("layer", "body", "error"),
    [("swiglu", not_a_number, ExportError), ("lm_head", interrupted, KeyboardInterrupt), ("lm_head", None, ExportError)],
)
def test_a_failed_copy_changes_nothing(
    tmp_path: Path, before: dict[str, bytes], layer: str, body: Callable[..., Any], error: type[BaseException]
) -> None:
    with pytest.raises(error):
        export_onnx(wide(1), tmp_path / "b.onnx", verify=True, lowerings={**LOWERINGS, layer: body})
    assert contents(tmp_path) == before
    assert {file.name for file in tmp_path.iterdir()} == set(before)


def test_a_model_that_is_not_a_number_changes_nothing(tmp_path: Path, before: dict[str, bytes]) -> None:
    model = wide(1)
    broken = {name: np.full_like(array, np.nan) if "norm" in name else array for name, array in model.weights.items()}
    with np.errstate(all="ignore"), pytest.raises(ExportError, match=r"/b\.onnx: prefill in onnxruntime is off by nan"):
        export_onnx(replace(model, weights=broken), tmp_path / "b.onnx", verify=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), KeyboardInterrupt()])
def test_a_failure_while_files_are_moved_changes_nothing(
    tmp_path: Path, before: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, failing: int, error: BaseException
) -> None:
    moves: list[Path] = []
    move = os.replace

    def failing_once(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == failing + 1:
            raise error
        move(source, target)

    monkeypatch.setattr(os, "replace", failing_once)
    with pytest.raises((ExportError, KeyboardInterrupt)):
        export_onnx(wide(1), tmp_path / "b.onnx")
    assert contents(tmp_path) == before


def test_an_interrupt_after_the_last_move_leaves_the_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_onnx(wide(0), tmp_path / "b.onnx")
    move = os.replace

    def interrupted_after_the_graph(source: Path, target: Path) -> None:
        move(source, target)
        if target == tmp_path / "b.onnx":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted_after_the_graph)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(wide(1), tmp_path / "b.onnx")
    assert sorted(contents(tmp_path)) == ["b.onnx", "b.onnx.data"]
    assert_close(open_session(tmp_path / "b.onnx")(tokens(1, 5))[0], wide(1)(tokens(1, 5))[0])


def test_a_new_copy_replaces_graph_and_data(tmp_path: Path) -> None:
    for seed in range(2):
        export_onnx(wide(seed), tmp_path / "b.onnx", verify=True)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["b.onnx", "b.onnx.data"]
        assert_close(open_session(tmp_path / "b.onnx")(tokens(1, 5))[0], wide(seed)(tokens(1, 5))[0])


@pytest.mark.parametrize("body", [not_a_number, interrupted])
def test_a_failed_graph_in_place_changes_nothing(tmp_path: Path, body: Callable[..., Any]) -> None:
    write_checkpoint(tmp_path, qwen3(), max_shard_bytes=6000)
    export_onnx(tmp_path, tmp_path / "b.onnx", verify=True)
    before = contents(tmp_path)
    with pytest.raises((ExportError, KeyboardInterrupt)):
        export_onnx(tmp_path, tmp_path / "b.onnx", taps=True, verify=True, lowerings={**LOWERINGS, "swiglu": body})
    assert contents(tmp_path) == before


def test_a_directory_in_the_place_of_the_data_stays(tmp_path: Path) -> None:
    (tmp_path / "b.onnx.data").mkdir()
    with pytest.raises(ExportError, match=r"b\.onnx\.data: cannot be written \(Is a directory\)"):
        export_onnx(wide(0), tmp_path / "b.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["b.onnx.data"]
