"""(c) Prefill and decode of the exported graph in onnxruntime (CPU) against transformers eager, float32."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import THREADS, load_eager, medians, report, save_qwen3

from export import export_onnx

PAST = 256


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = save_qwen3(Path(name))
        session = open_session(export_onnx(directory, directory / "model.onnx").path)
        peer = load_eager(directory)
        prompt = np.random.default_rng(0).integers(0, 32_000, (1, PAST))
        feeds = graph_feeds(session, prompt, past=None)
        outputs = session.run(None, feeds)
        step = prompt[:, :1]
        next_feeds = graph_feeds(session, step, past=outputs[1:])
        with torch.inference_mode():
            prefill = medians(
                {
                    "transformers eager": lambda: peer(torch.from_numpy(prompt)),
                    "exported graph": lambda: session.run(None, feeds),
                },
                rounds=7,
            )
            cache = peer(torch.from_numpy(prompt), use_cache=True).past_key_values

            def decode() -> None:
                peer(torch.from_numpy(step), past_key_values=cache, use_cache=True)
                cache.crop(-1)

            seconds = medians(
                {"transformers eager": decode, "exported graph": lambda: session.run(None, next_feeds)}, rounds=25
            )
        report(f"prefill, {PAST} tokens, {THREADS} threads", prefill, baseline="transformers eager")
        report(f"decode, 1 token after {PAST}, {THREADS} threads", seconds, baseline="transformers eager")


def open_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    # Idle workers that spin would take the processors from whoever's turn it is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def graph_feeds(session: onnxruntime.InferenceSession, tokens: Any, past: list[Any] | None) -> dict[str, Any]:
    """The inputs of one call; `past` are the `present` outputs of the call before."""
    names = [entry.name for entry in session.get_inputs() if entry.name.startswith("past_key_values")]
    if past is None:
        shapes = {entry.name: entry.shape for entry in session.get_inputs()}
        past = [np.zeros((1, shapes[name][1], 0, shapes[name][3]), np.float32) for name in names]
    length = past[0].shape[2] + tokens.shape[1]
    return {
        "input_ids": tokens,
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length - tokens.shape[1], length)[None],
        **dict(zip(names, past, strict=True)),
    }


if __name__ == "__main__":
    main()
