"""(d) A layer of 64 experts, 4 a token, at 1, 16 and 512 tokens: transformers, NumPy and ONNX; and what a step reads of it."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import THREADS, medians, report

import refimpl
from export.graph import DEFAULT_OPSET, Graph, tensor_type
from export.initialisers import in_place
from export.ops import GraphOps
from export.parameters import Parameters
from export.source import open_source
from refimpl.blocks import Scoped
from refimpl.ops import NumpyOps

EXPERTS, CHOSEN, WIDTH, INNER = 64, 4, 1024, 512
LAYER = "layers.0.mlp"


def main() -> None:
    for stored in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            peer = save_layer(directory, stored)
            read, whole = step_bytes(directory) / 1e6, expert_bytes(directory) / 1e6
            print(f"stored in {stored}: one step reads {read:.1f} MB of the experts' {whole:.1f} MB")
            compare(directory, peer)


def compare(directory: Path, peer: Any) -> None:
    specification = refimpl.load(directory, dtype="float32")
    moe = specification.blueprint.layers[0].mlp
    weights = dict(Scoped(specification.weights, LAYER))
    session = open_layer(directory)
    for tokens in (1, 16, 512):
        x = np.random.default_rng(tokens).standard_normal((1, tokens, WIDTH)).astype(np.float32)
        as_torch = torch.from_numpy(x)
        kinds = ("eager", "batched_mm", "grouped_mm") if tokens < 512 else ("eager", "grouped_mm")
        tasks = {f"transformers {kind}": partial(run_peer, peer, kind, as_torch) for kind in kinds}
        tasks["NumPy"] = partial(moe, NumpyOps(), weights, x)
        tasks["ONNX"] = partial(session.run, None, {"x": x})
        with torch.inference_mode():
            seconds = medians(tasks, rounds=7)
        report(f"  {tokens} tokens, {THREADS} threads", seconds, baseline="transformers eager")


def save_layer(directory: Path, stored: str) -> Any:
    """A Qwen3-MoE of one layer in `directory`; its layer of experts in transformers, float32."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        moe_intermediate_size=INNER,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
    )
    network = Qwen3MoeForCausalLM(config).to(getattr(torch, stored))
    network.save_pretrained(directory)
    return network.float().eval().model.layers[0].mlp


def run_peer(peer: Any, kind: str, x: Any) -> None:
    """The peer's layer through one of its implementations of experts."""
    peer.experts.config._experts_implementation = kind
    peer(x)


def open_layer(directory: Path) -> onnxruntime.InferenceSession:
    """The layer alone as a graph, its weights in place."""
    exported = open_source(directory)
    assert exported.checkpoint is not None
    graph = Graph(DEFAULT_OPSET)
    ops = GraphOps(graph, np.dtype(np.float32))
    x = graph.input("x", tensor_type(np.dtype(np.float32), [1, "tokens", WIDTH]))
    parameters = Parameters(graph, exported.layout, in_place(exported.checkpoint, exported.tensor_names()))
    graph.output(exported.blueprint.layers[0].mlp(ops, Scoped(parameters, LAYER), x), "y")
    path = directory / "layer.onnx"
    path.write_bytes(graph.model("experts", "One layer of experts.", {}).SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    # Idle workers that spin would take the processors from whoever's turn it is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def expert_bytes(directory: Path) -> int:
    """Bytes of all experts on disk."""
    exported = open_source(directory)
    assert exported.checkpoint is not None
    return sum(tensor.nbytes for name, tensor in exported.checkpoint.tensors.items() if ".experts." in name)


def step_bytes(directory: Path) -> int:
    """Bytes of the checkpoint that are mapped into memory after a fresh session has served one token."""
    session = open_layer(directory)
    before = mapped(directory)
    session.run(None, {"x": np.ones((1, 1, WIDTH), np.float32)})
    return mapped(directory) - before


def mapped(directory: Path) -> int:
    """Resident bytes of the maps of the checkpoint's file."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            inside = words[-1] == str(directory / "model.safetensors")
        elif inside and words[0] == "Rss:":
            total += 1024 * int(words[1])
    return total


if __name__ == "__main__":
    main()
