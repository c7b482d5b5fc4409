"""Weights that are stored with axes of size 1, alone or in shares, in a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
from export import export_onnx
from refimpl.checkpoint import save_checkpoint
from tests.export.exported_models import RUNTIMES, assert_close, open_session
from tests.models.test_kimi_linear import config
from tests.tiny import tokens


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("form", range(3))
@pytest.mark.parametrize("weights", ["in-place", "copy"])
def test_taps_and_rates_are_found_in_every_form(form: int, weights: Any, runtime: str, tmp_path: Path) -> None:
    drawn = refimpl.init(config(num_hidden_layers=2, linear_attn_config=None, layer_types=["linear_attention"] * 2), seed=2)
    values = dict(drawn.blueprint.config)
    save_checkpoint(tmp_path, values, drawn.blueprint.layouts[form].write(drawn.weights))
    export_onnx(tmp_path, tmp_path / "model.onnx", weights=weights)
    text = tokens(2, 7, vocab_size=53)
    expected, _ = refimpl.load(tmp_path, "float64")(text)
    assert_close(np.asarray(open_session(tmp_path / "model.onnx", runtime)(text)[0]), expected)
