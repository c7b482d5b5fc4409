"""Models with states that do not grow, as graphs: every kind of call, in every opset that differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import refimpl
from export import export_onnx
from export.lowerings.chunked import CHUNK
from tests.export.exported_models import RUNTIMES, open_session, write_checkpoint
from tests.export.recurrent_models import QWEN3_NEXT, RECURRENT_MODELS
from tests.tiny import tokens

LENGTH = 2 * CHUNK + 5
# The gated norm makes a result of any size out of one that is next to nothing, where a query is orthogonal to all keys: float32
# keeps few digits of it.
ALLOWED = {"float64": 1e-11, "float32": 2e-3}


def assert_close(result: np.ndarray, expected: np.ndarray) -> None:
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=ALLOWED[str(result.dtype)] * np.abs(expected).max())


@pytest.fixture(scope="module", params=RECURRENT_MODELS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[refimpl.Model, Path]:
    directory = tmp_path_factory.mktemp("model")
    return write_checkpoint(directory, RECURRENT_MODELS[request.param], "bfloat16", max_shard_bytes=9000), directory


# Of operators there is float32 alone; the standard form is compared in float64.
FORMS = {23: "float64", 27: "float32"}


@pytest.fixture(params=[(runtime, opset) for runtime in RUNTIMES for opset in FORMS])
def pair(request: pytest.FixtureRequest, checkpoint: tuple[refimpl.Model, Path]) -> tuple[refimpl.Model, Any]:
    runtime, opset = request.param
    specification, directory = checkpoint
    path = directory / f"{opset}.onnx"
    if not path.exists():
        export_onnx(directory, path, weights="copy", dtype=FORMS[opset], opset=opset)
    return specification, open_session(path, runtime)


@pytest.mark.parametrize("opset", [23, 24, 27, 28])
def test_verified(checkpoint: tuple[refimpl.Model, Path], opset: int) -> None:
    directory = checkpoint[1]
    export_onnx(directory, directory / "verified.onnx", opset=opset, verify=True)


def test_pieces_shorter_and_longer_than_a_chunk(pair: Any) -> None:
    specification, session = pair
    sequence = tokens(2, LENGTH)
    cache, pieces = None, []
    for piece in np.split(sequence, [2, 3, CHUNK + 4, CHUNK + 9], axis=1):
        logits, cache = session(piece, cache)
        pieces.append(logits)
    assert_close(np.concatenate(pieces, axis=1), specification(sequence)[0])


@pytest.mark.parametrize("padding", [[0, 1, 2], [LENGTH - 1], [3, 7, CHUNK + 2]])
def test_padding_touches_no_state(pair: Any, padding: list[int]) -> None:
    specification, session = pair
    sequence, step = tokens(2, LENGTH), tokens(2, 1, seed=1)
    mask = np.ones_like(sequence)
    mask[1, padding] = 0
    alone = sequence[1:, mask[1] == 1]
    logits, cache = session(sequence, attention_mask=mask)
    assert_close(logits[1:, mask[1] == 1], specification(alone)[0])
    following, _ = session(step, cache)
    assert_close(following[1:], specification(np.concatenate([alone, step[1:]], axis=1))[0][:, -1:])


def test_states_have_fixed_shapes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, QWEN3_NEXT)
    result = export_onnx(tmp_path, tmp_path / "model.onnx", taps=True)
    graph = onnx.load(result.path, load_external_data=False).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    channels = 2 * 2 * 7 + 6 * 5
    for side in ("past_key_values", "present"):
        assert {name for name in shapes if name.startswith(f"{side}.0.")} == {
            f"{side}.0.conv_state",
            f"{side}.0.recurrent_state",
        }
        assert shapes[f"{side}.0.conv_state"] == ["batch_size", channels, 3]
        assert shapes[f"{side}.2.recurrent_state"] == ["batch_size", 6, 7, 5]
    assert "layers.0.mixer.delta_rule" in shapes


def test_taps_are_those_of_the_specification(checkpoint: tuple[refimpl.Model, Path]) -> None:
    specification, directory = checkpoint
    session = open_session(export_onnx(directory, directory / "taps.onnx", weights="copy", dtype="float64", taps=True).path)
    sequence = tokens(1, LENGTH)
    found, expected = session.trace(sequence), specification.trace(sequence)
    mixers = [name for name in expected if ".mixer." in name and name in found]
    assert {"conv", "q", "log_decay", "beta", "delta_rule", "norm"} <= {name.rsplit(".", 1)[1] for name in mixers}
    for name in mixers:
        assert_close(found[name], expected[name])
