"""(e) A checkpoint larger than memory: Kimi K2 Thinking's layout and proportions, INT4 experts, a quarter of the width.

Writes the checkpoint (6.5 GB by default), then runs a prefill and some decode steps in processes of their own: in NumPy,
weights streamed, and exported in place in onnxruntime. Prints seconds and peak memory, and whether both chose the same
tokens. Start it under a limit of memory (of a container, or `systemd-run --scope -p MemoryMax=2G`) to see that it holds;
pages of the mapped files are in `whole`, memory that nobody can take back is `own`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import ml_dtypes
import numpy as np

import refimpl
from refimpl.checkpoint.writer import save_checkpoint
from refimpl.storage import Leaf

RELEASE = "moonshotai/Kimi-K2-Thinking"
QUARTER = {
    "hidden_size": 1792,
    "intermediate_size": 4608,
    "moe_intermediate_size": 512,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "q_lora_rank": 384,
    "kv_lora_rank": 128,
    "vocab_size": 40_960,
}
PROMPT, STEPS = 32, 4
SHARD = 1 << 30
NIBBLE_DEVIATION = 4.6  # of the codes -8 .. 7, all as likely


class RandomTensors(Mapping[str, Any]):
    """The tensors on disk of a blueprint, drawn when asked for: no more than one is in memory."""

    def __init__(self, leaves: Mapping[str, Leaf]) -> None:
        self._leaves = leaves

    def __getitem__(self, name: str) -> Any:
        shape, drawn = self._leaves[name].shape, np.random.default_rng(crc32(name.encode()))
        if name.endswith("_packed"):
            return drawn.integers(-(1 << 31), 1 << 31, shape, np.int32)
        if name.endswith("_shape"):
            rows, words = self._leaves[name.replace("_shape", "_packed")].shape
            return np.array([rows, 8 * words], np.int32)
        if name.endswith("_scale"):
            return np.full(shape, (32 * shape[1]) ** -0.5 / NIBBLE_DEVIATION, ml_dtypes.bfloat16)
        if len(shape) == 1:
            return np.ones(shape, ml_dtypes.bfloat16)
        return (drawn.standard_normal(shape, np.float32) * shape[-1] ** -0.5).astype(ml_dtypes.bfloat16)

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--layers", type=int, default=11)
    arguments.add_argument("--directory", type=Path, help="where the checkpoint is, or is written and stays")
    arguments.add_argument("--part", choices=sorted(PARTS), help="run this part alone, on an existing checkpoint")
    given = arguments.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given.directory)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = given.directory or Path(temporary)
        if not (directory / "config.json").exists():
            write(directory, given.layers)
        size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        print(f"checkpoint: {size / 1e9:.2f} GB, {refimpl.blueprint(directory).num_parameters() / 1e9:.2f} G parameters")
        chosen = [run_part(part, directory) for part in ("numpy", "export", "onnxruntime")]
        print(f"same tokens: {chosen[0] == chosen[2]}")


def write(directory: Path, layers: int) -> None:
    """The checkpoint, in shards."""
    config = {**refimpl.blueprint(RELEASE).config, **QUARTER, "num_hidden_layers": layers}
    blueprint = refimpl.blueprint(config)
    directory.mkdir(parents=True, exist_ok=True)
    leaves = blueprint.layouts[0].leaves(blueprint.parameters())
    save_checkpoint(directory, config, RandomTensors(leaves), max_shard_bytes=SHARD)


def run_part(part: str, directory: Path) -> Any:
    """One part in a process of its own; what it chose."""
    command = [sys.executable, __file__, "--part", part, "--directory", str(directory)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    chosen = found.pop("tokens")
    print(f"  {part:<12} " + "   ".join(f"{name} {value}" for name, value in found.items()))
    return chosen


def in_numpy(directory: Path) -> dict[str, Any]:
    """Prefill and decode steps with streamed weights."""
    model = refimpl.load(directory, dtype="float32", stream=True)
    cache = None

    def step(tokens: Any) -> Any:
        nonlocal cache
        logits, cache = model(tokens, cache)
        return logits

    return decoded(step, model.blueprint.vocab_size)


def exported(directory: Path) -> dict[str, Any]:
    """The export in place."""
    from export import export_onnx

    result = export_onnx(directory, directory / "model.onnx", weights="in-place")
    return {"seconds": round(result.seconds, 1), "MB written": round(result.bytes_written / 1e6, 1), **memory(), "tokens": None}


def in_onnxruntime(directory: Path) -> dict[str, Any]:
    """The same steps through the exported graph."""
    import onnxruntime

    start = time.perf_counter()
    session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    opened = round(time.perf_counter() - start, 1)
    outputs = [output.name for output in session.get_outputs()]
    blueprint = refimpl.blueprint(directory)
    feed: dict[str, Any] = {
        f"past_key_values.{index}.{name}": np.zeros((1, 0, *entry.shape), np.float32)
        for index, layer in enumerate(blueprint.state())
        for name, entry in layer.items()
    }
    seen = 0

    def step(tokens: Any) -> Any:
        nonlocal seen
        length = tokens.shape[1]
        feed["input_ids"] = tokens
        feed["attention_mask"] = np.ones((1, seen + length), np.int64)
        feed["position_ids"] = np.arange(seen, seen + length)[None]
        results = dict(zip(outputs, session.run(None, feed), strict=True))
        feed.update({name.replace("present", "past_key_values"): v for name, v in results.items() if name != "logits"})
        seen += length
        return results["logits"]

    return {"open s": opened, **decoded(step, blueprint.vocab_size)}


def decoded(step: Any, vocab_size: int) -> dict[str, Any]:
    """Greedy steps from a fixed prompt: seconds, memory, and the chosen tokens."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, (1, PROMPT))
    chosen, times = [], []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        logits = step(tokens)
        times.append(time.perf_counter() - start)
        tokens = np.argmax(logits[:, -1:], axis=-1)
        chosen.append(int(tokens[0, 0]))
    return {
        f"prefill of {PROMPT} s": round(times[0], 1),
        "a step s": round(sum(times[1:]) / STEPS, 2),
        **memory(),
        "tokens": chosen,
    }


def memory() -> dict[str, Any]:
    """Peak MB of the process, and what of it is not pages of files at the end."""
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak MB, whole": round(whole / 1e3), "own MB at the end": round(int(own.split()[1]) / 1e3)}


PARTS = {"numpy": in_numpy, "export": exported, "onnxruntime": in_onnxruntime}

if __name__ == "__main__":
    main()
