"""A decode step reads the matrices of the chosen experts and of no other, whatever the layout on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import refimpl
from export import export_onnx
from refimpl.checkpoint import save_checkpoint
from refimpl.numerics import Array
from refimpl.storage import Leaf

EXPERTS, CHOSEN = 64, 2
# A kernel may map a file in pieces of this size, of which two border on each tensor that is read; an expert has six.
PIECE, TENSORS = 2 << 20, 6
COMMON = {
    "vocab_size": 61,
    "hidden_size": 1024,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts_per_tok": CHOSEN,
    "max_position_embeddings": 64,
}
QWEN3_MOE = {
    **COMMON,
    "model_type": "qwen3_moe",
    "num_experts": EXPERTS,
    "moe_intermediate_size": 512,
    "intermediate_size": 300,
}
GPT_OSS = {**COMMON, "model_type": "gpt_oss", "num_local_experts": EXPERTS, "intermediate_size": 512, "sliding_window": 8}
MINIMAX = {
    **COMMON,
    "model_type": "minimax_m2",
    "num_local_experts": EXPERTS,
    "intermediate_size": 1024,
    "quantization_config": {"quant_method": "fp8", "fmt": "float8_e4m3fn", "weight_block_size": [128, 128]},
}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
GROUPS = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*self_attn.*"],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4}},
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "one tensor an expert": QWEN3_MOE,
    "stacked": GPT_OSS,
    "mxfp4": {**GPT_OSS, "quantization_config": {"quant_method": "mxfp4"}},
    "fp8": MINIMAX,
    "int4": {**MINIMAX, "quantization_config": GROUPS},
}
# Loads the graph and takes one step; prints how many bytes of the checkpoint are mapped into memory after each, and how much
# anonymous memory both took.
PROBE = """
import json, sys
import numpy as np
from pathlib import Path
from export.runtimes import onnxruntime_run
from export.session import Session

def kilobytes(path, key):
    total, inside = 0, False
    for line in open("/proc/self/smaps"):
        if "-" in line.split()[0] and ":" not in line.split()[0]:
            inside = line.rstrip().endswith(path)
        elif inside and line.startswith(key + ":"):
            total += int(line.split()[1])
    return total

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

graph, weights = sys.argv[1:]
before = anonymous()
session = Session(Path(graph), onnxruntime_run(Path(graph), threads=1))
loaded = kilobytes(weights, "Rss")
session(np.array([[7]]))
print(json.dumps({"loaded": loaded, "after": kilobytes(weights, "Rss"), "anonymous": anonymous() - before}))
"""


def save(config: dict[str, Any], directory: Path) -> tuple[int, int]:
    """A checkpoint in bfloat16, or in a few bits; the bytes of the experts and of everything else."""
    blueprint = refimpl.blueprint(config)
    noise = (np.random.default_rng(0).standard_normal(1 << 20) / 16).astype(ml_dtypes.bfloat16)
    # Bytes that are small numbers as scales in UE8M0, and in FP8.
    small: Array = np.random.default_rng(1).integers(96, 128, 1 << 20).astype(np.uint8)
    formats = {"U8": small, "F8_E4M3": (small & 63).view(ml_dtypes.float8_e4m3fn), "I32": small.view(np.int32)}

    def drawn(leaf: Leaf) -> Array:
        return np.resize(next((formats[each] for each in leaf.formats if each in formats), noise), leaf.shape)

    leaves = blueprint.layouts[0].leaves(blueprint.parameters())
    tensors = {name: drawn(leaf) for name, leaf in leaves.items()}
    save_checkpoint(directory, config, tensors)
    experts = sum(array.nbytes for name, array in tensors.items() if "experts" in name)
    return experts, sum(array.nbytes for array in tensors.values()) - experts


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads the mapped pages from /proc")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_chosen_experts_are_read(layout: str, tmp_path: Path) -> None:
    experts, rest = save(LAYOUTS[layout], tmp_path)
    graph = export_onnx(tmp_path, tmp_path / "model.onnx").path
    command = [sys.executable, "-c", PROBE, str(graph), str(tmp_path / "model.safetensors")]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    chosen = experts * CHOSEN // EXPERTS
    # The dense weights may be read when the graph is loaded.
    slack = rest + 2 * PIECE * TENSORS * CHOSEN
    assert found["loaded"] * 1024 <= rest
    assert chosen // 2 < found["after"] * 1024 < chosen + slack < experts
    # What is chosen is copied to be computed with; a copy of all experts in float32 would be twice their bytes and more.
    assert found["anonymous"] * 1024 < experts
