"""(a) A float32 forward pass of a 12-layer Qwen3 of width 1024 at 256 tokens: NumPy against transformers eager."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import THREADS, load_eager, medians, report, save_qwen3

import refimpl

TOKENS = 256


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = save_qwen3(Path(name))
        specification, peer = refimpl.load(directory, dtype="float32"), load_eager(directory)
        tokens = np.random.default_rng(0).integers(0, 32_000, (1, TOKENS))
        as_torch = torch.from_numpy(tokens)
        with torch.inference_mode():
            seconds = medians({"transformers eager": lambda: peer(as_torch), "NumPy": lambda: specification(tokens)}, rounds=7)
        report(f"forward, {TOKENS} tokens, {THREADS} threads", seconds, baseline="transformers eager")


if __name__ == "__main__":
    main()
