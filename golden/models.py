"""The golden models: one small checkpoint an architecture, and what the specification makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import refimpl
from golden.configs import CONFIGS
from refimpl.checkpoint import save_checkpoint
from refimpl.numerics import Array

PREFILL, TOTAL = 19, 23


def tokens(name: str) -> Array:
    """Two rows of prompt and continuation, the first as `PREFILL` tokens at once and the rest one at a time."""
    return np.random.default_rng(len(name)).integers(0, CONFIGS[name]["vocab_size"], (2, TOTAL))


def save(name: str, target: Path) -> None:
    """Write the checkpoint of a golden model: seeded weights, stored in float32."""
    model = refimpl.init(CONFIGS[name], seed=2026, dtype="float32")
    tensors = model.blueprint.layouts[0].write(model.weights)
    save_checkpoint(target, CONFIGS[name], tensors)


def run(checkpoint: Path, token_ids: Array) -> dict[str, Array]:
    """The specification in float64: the taps of the first row's prefill, the logits of both rows and of each cached step."""
    model = refimpl.load(checkpoint, dtype="float64")
    prompt, rest = token_ids[:, :PREFILL], token_ids[:, PREFILL:]
    results = {f"prefill.{name}": value for name, value in model.trace(prompt[:1]).items()}
    results["prefill.logits"], cache = model(prompt)
    for step in range(rest.shape[1]):
        logits, cache = model(rest[:, step : step + 1], cache)
        results[f"decode.{step}.logits"] = logits
    return results
