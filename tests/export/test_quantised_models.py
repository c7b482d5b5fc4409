"""Whole models whose weights are stored in a few bits: in place, decoded in the graph, and never held decoded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import export.assembly
import export.model
import refimpl
from export import export_onnx
from export.engine import checkpoint_session
from export.runtimes import onnxruntime_run
from refimpl.checkpoint import open_checkpoint, save_checkpoint
from refimpl.model import Model
from tests.export.exported_models import RUNTIMES, assert_close, open_session, write_checkpoint
from tests.tiny import qwen3, tokens

EXPERTS = 5
CONFIG = {
    "model_type": "minimax_m2",
    "vocab_size": 61,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rotary_dim": 12,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
FP8 = {"quant_method": "fp8", "fmt": "float8_e4m3fn", "weight_block_size": [40, 24]}
INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
        }
    },
}
STORAGES: dict[str, dict[str, Any]] = {
    "fp8": FP8,
    "fp8, powers of two": {**FP8, "scale_fmt": "ue8m0"},
    "fp8, e5m2": {**FP8, "fmt": "float8_e5m2"},
    "int4": INT4,
    "int4, experts alone": {**INT4, "ignore": ["lm_head", "re:.*self_attn.*"]},
}


def write(directory: Path, storage: str, *, max_shard_bytes: int | None = None, dtype: Any = ml_dtypes.bfloat16) -> Model:
    """A checkpoint of random weights; returns the specification in float64 of what was stored."""
    config = {**CONFIG, "quantization_config": STORAGES[storage]}
    model = refimpl.init(config, seed=3)
    arrays = {name: model.weights[name].astype(dtype) for name in model.blueprint.parameters()}
    save_checkpoint(directory, config, model.blueprint.layouts[0].write(arrays), max_shard_bytes=max_shard_bytes)
    return refimpl.load(directory, "float64")


def external(path: Path) -> dict[str, tuple[str, int, int]]:
    """The byte ranges that a graph reads."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if entries := {entry.key: entry.value for entry in tensor.external_data}:
            found[tensor.name] = entries["location"], int(entries["offset"]), int(entries["length"])
    return found


@pytest.mark.parametrize("max_shard_bytes", [None, 20000])
@pytest.mark.parametrize("storage", STORAGES)
def test_in_place(tmp_path: Path, storage: str, max_shard_bytes: int | None) -> None:
    specification = write(tmp_path, storage, max_shard_bytes=max_shard_bytes)
    before = set(tmp_path.iterdir())
    result = export_onnx(tmp_path, tmp_path / "model.onnx", verify=True)
    assert set(tmp_path.iterdir()) - before == {result.path}
    onnx.checker.check_model(str(result.path), full_check=True)
    expected = specification(tokens(2, 7))[0]
    for runtime in RUNTIMES:
        assert_close(open_session(result.path, runtime)(tokens(2, 7))[0], expected)


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("storage", STORAGES)
def test_copied_in_float64(tmp_path: Path, storage: str, inline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.model, "INLINE_PARAMETERS", 1 << 18 if inline else 0)
    expected = write(tmp_path, storage)(tokens(2, 7))[0]
    result = export_onnx(tmp_path, tmp_path / "model.onnx", weights="copy", dtype="float64")
    assert (tmp_path / "model.onnx.data").exists() != inline
    for runtime in RUNTIMES:
        assert_close(open_session(result.path, runtime)(tokens(2, 7))[0], expected, "float64")


@pytest.mark.parametrize("storage", ["fp8", "int4"])
def test_dense_weights_are_the_bytes_of_the_checkpoint(tmp_path: Path, storage: str) -> None:
    write(tmp_path, storage)
    path = export_onnx(tmp_path, tmp_path / "model.onnx").path
    found = external(path)
    for name, info in open_checkpoint(tmp_path).tensors.items():
        if name.endswith("_shape"):
            assert name not in found
        elif ".experts." not in name:
            assert found[name] == (info.file.name, info.offset, info.nbytes)
    held = [tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer if not tensor.external_data]
    assert not [tensor.name for tensor in held if "weight" in tensor.name]


@pytest.mark.parametrize("storage", ["fp8", "int4"])
def test_experts_are_regions_of_each_format(tmp_path: Path, storage: str) -> None:
    write(tmp_path, storage)
    path = export_onnx(tmp_path, tmp_path / "model.onnx").path
    regions = {name: span for name, span in external(path).items() if name.endswith(".region")}
    assert len(regions) == 2 * CONFIG["num_hidden_layers"]  # type: ignore[operator]
    functions = [each.name for each in onnx.load(path, load_external_data=False).functions]
    assert len([name for name in functions if name.startswith("routed_experts")]) == 1
    for name, info in open_checkpoint(tmp_path).tensors.items():
        if ".experts." in name and not name.endswith("_shape"):
            around = [start <= info.offset and info.offset + info.nbytes <= start + size for _, start, size in regions.values()]
            assert any(around)


def test_an_engine_computes_in_the_format_of_what_is_not_quantised(tmp_path: Path) -> None:
    expected = write(tmp_path, "fp8", dtype=np.float64)(tokens(2, 7))[0]
    assert_close(checkpoint_session(tmp_path, onnxruntime_run)(tokens(2, 7))[0], expected, "float64")


# Loads the graph and takes a step; prints how much anonymous memory each took.
PROBE = """
import json, sys
import numpy as np
from pathlib import Path
from export.runtimes import onnxruntime_run
from export.session import Session

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

graph = Path(sys.argv[1])
before = anonymous()
session = Session(graph, onnxruntime_run(graph, threads=1))
loaded = anonymous() - before
session(np.array([[7]]))
print(json.dumps({"loaded": 1024 * loaded, "after": 1024 * (anonymous() - before)}))
"""


def anonymous_bytes(graph: Path) -> dict[str, int]:
    command = [sys.executable, "-c", PROBE, str(graph)]
    found: dict[str, int] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


LAYERS = 6
WIDE = {**CONFIG, "hidden_size": 1024, "num_attention_heads": 32, "head_dim": 64, "num_hidden_layers": LAYERS}
PROJECTION = 1024 * 32 * 64 * 4  # bytes in float32 of the largest matrix, of which a layer has two


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
@pytest.mark.parametrize("storage", ["fp8", "int4", "bfloat16"])
def test_dense_weights_are_decoded_one_at_a_time(tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if storage == "bfloat16":
        monkeypatch.setattr(export.assembly, "HELD_BYTES", 0)
        write_checkpoint(tmp_path, WIDE, "bfloat16")
    else:
        config = {**WIDE, "quantization_config": STORAGES[storage]}
        model = refimpl.init(config)
        save_checkpoint(tmp_path, config, model.blueprint.layouts[0].write(dict(model.weights)))
    found = anonymous_bytes(export_onnx(tmp_path, tmp_path / "model.onnx").path)
    everything = 2 * LAYERS * PROJECTION
    assert found["loaded"] < everything / 4
    assert found["after"] < everything * 2 / 3


@pytest.mark.parametrize("late", [False, True])
def test_casts_wait_where_they_would_fill_memory(tmp_path: Path, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    specification = write_checkpoint(tmp_path, qwen3(), "bfloat16")
    size = 4 * specification.blueprint.num_parameters()
    monkeypatch.setattr(export.assembly, "HELD_BYTES", size - 1 if late else size)
    path = export_onnx(tmp_path, tmp_path / "model.onnx", verify=True).path
    graph = onnx.load(path, load_external_data=False).graph
    stored = set(open_checkpoint(tmp_path).tensors)
    cast = {node.input[0] for node in graph.node if node.op_type == "Cast"}
    vectors = {name for name, info in open_checkpoint(tmp_path).tensors.items() if len(info.shape) == 1}
    assert stored & cast == (vectors if late else stored - {"model.embed_tokens.weight"})
    for runtime in RUNTIMES:
        assert_close(open_session(path, runtime)(tokens(2, 7))[0], specification(tokens(2, 7))[0])


def test_the_graph_does_not_grow_with_the_experts(tmp_path: Path) -> None:
    sizes = []
    for experts in (4, 64):
        directory = tmp_path / str(experts)
        config = {**CONFIG, "num_local_experts": experts, "quantization_config": INT4}
        model = refimpl.init(config)
        save_checkpoint(directory, config, model.blueprint.layouts[0].write(dict(model.weights)))
        path = export_onnx(directory, directory / "model.onnx").path
        sizes.append((len(onnx.load(path, load_external_data=False).graph.initializer), path.stat().st_size))
    assert sizes[0][0] == sizes[1][0]
    # What grows is where each expert lies: of three matrices the words and the scales, a beginning and an end of eight bytes.
    assert sizes[1][1] - sizes[0][1] <= 2 * 60 * 3 * 2 * 2 * 8 + 100
