"""Sharded checkpoints in bfloat16, exported in place: windows of one token, and decode far beyond the first calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import golden.configs
import refimpl
from export import export_onnx
from tests.export.exported_models import assert_close, open_session, write_checkpoint
from tests.tiny import qwen3, smollm3, tokens

LENGTH, PROMPT = 150, 3
CONFIGS: dict[str, dict[str, Any]] = {
    "every layer sees one token": qwen3(use_sliding_window=True, sliding_window=1, max_window_layers=0),
    "one layer sees everything": qwen3(use_sliding_window=True, sliding_window=1, max_window_layers=1),
    "no windows": smollm3(),
    "a window that fills up late": smollm3(use_sliding_window=True, sliding_window=70),
    "windows, sinks and experts": golden.configs.CONFIGS["gpt_oss"],
    "chunks": golden.configs.CONFIGS["llama4_text"],
}


@pytest.fixture(params=CONFIGS)
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[refimpl.Model, Any]:
    specification = write_checkpoint(tmp_path, CONFIGS[request.param], "bfloat16", max_shard_bytes=5000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    result = export_onnx(tmp_path, tmp_path / "model.onnx", verify=True)
    return specification, open_session(result.path)


def test_decode_far_beyond_the_prompt(exported: tuple[refimpl.Model, Any]) -> None:
    specification, session = exported
    sequence = tokens(1, LENGTH)
    expected, _ = specification(sequence)
    logits, cache = session(sequence[:, :PROMPT])
    pieces = [logits]
    for index in range(PROMPT, LENGTH):
        logits, cache = session(sequence[:, index : index + 1], cache)
        pieces.append(logits)
    assert_close(np.concatenate(pieces, axis=1), expected)


def test_padded_rows_decode_as_the_rows_alone(exported: tuple[refimpl.Model, Any]) -> None:
    specification, session = exported
    sequence, padding = tokens(2, LENGTH), 7
    mask = np.ones_like(sequence)
    mask[1, :padding] = 0
    logits, cache = session(sequence[:, :-2], attention_mask=mask[:, :-2])
    for index in (LENGTH - 2, LENGTH - 1):
        logits, cache = session(sequence[:, index : index + 1], cache)
    assert_close(logits[:1, 0], specification(sequence[:1])[0][:, -1])
    assert_close(logits[1:, 0], specification(sequence[1:, padding:])[0][:, -1])


def test_a_window_of_one_token_makes_the_past_irrelevant(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CONFIGS["every layer sees one token"], "bfloat16", max_shard_bytes=5000)
    export_onnx(tmp_path, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx")
    sequence = tokens(1, 80)
    other = np.concatenate([(sequence[:, :-1] + 1) % 47, sequence[:, -1:]], axis=1)
    assert (session(sequence)[0][:, 0] != session(other)[0][:, 0]).any()
    np.testing.assert_array_equal(session(sequence)[0][:, -1], session(other)[0][:, -1])
