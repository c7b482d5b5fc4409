"""What the benchmarks share: a random Qwen3 checkpoint made with transformers, and interleaved timing."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def save_qwen3(directory: Path, *, layers: int = 12, hidden: int = 1024, vocab: int = 32_000) -> Path:
    """A randomly initialised float32 Qwen3 in `directory`."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return directory


def load_eager(directory: Path) -> Any:
    """The checkpoint in transformers: eager attention, float32, THREADS threads."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="float32", attn_implementation="eager")
    return model.eval()


def medians(tasks: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Median seconds of each task; the tasks take turns, so that a slow spell of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def report(title: str, seconds: dict[str, float], *, baseline: str) -> None:
    """One line a task: its median and its ratio to the baseline (below 1 is faster)."""
    print(title)
    for name, value in seconds.items():
        print(f"  {name:<24} {value * 1e3:10.2f} ms   {value / seconds[baseline]:6.2f} x {baseline}")
