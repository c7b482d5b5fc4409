"""Grok 2.5 as it is read and wired here agrees with the peer that was written from what the published engines compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl

from .comparison import FLOAT32_ROUNDING, Array, assert_agree, relative_error

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.usefixtures("_one_thread")

LENGTH = 29
TOKENS = np.random.default_rng(0).integers(0, 67, (3, LENGTH))
RAMP = {"rope_theta": 20, "original_max_position_embeddings": 30, "beta_fast": 3}  # its bounds, 1 and 4, lie inside a head
STEP = {"original_max_position_embeddings": 6, "beta_fast": 1}  # both bounds are 0
# Each away from the configuration that the peer's own tests show to be moved by every one of them.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_scaling_named": {"rope_type": None},
    "yarn": {"rope_type": "yarn", **RAMP},
    "yarn_linear": {"rope_type": "yarn_linear", **RAMP, "extrapolation_factor": 0.8},
    "yarn_log": {"rope_type": "yarn_log", **RAMP},
    "yarn_log_extrapolation": {"rope_type": "yarn_log", **RAMP, "extrapolation_factor": 0.8, "attn_factor": 3.0},
    "yarn_step": {"rope_type": "yarn", **STEP},
    "yarn_log_step": {"rope_type": "yarn_log", **STEP},
    "yarn_defaults": {"rope_type": "yarn", "extrapolation_factor": None, "beta_fast": None, "beta_slow": None},
    "theta_scale": {"rope_type": "theta_scale"},
    "theta_scale_short": {"rope_type": "theta_scale", "original_max_position_embeddings": 9, "scaling_factor": 2.5},
    "whole_part_of_theta": {"rope_theta": 20.9},
    "default_theta": {"rope_theta": None},
    "experts_alone": {"residual_moe": False},
    "experts_alone_of_the_only_width": {"residual_moe": None, "moe_intermediate_size": None},
    "one_width": {"moe_intermediate_size": None},
    "tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "tanh_by_its_old_name": {"hidden_act": "gelu_new"},
    "one_expert": {"num_experts_per_tok": 1},
    "all_experts": {"num_experts_per_tok": 5},
    "caps_left_out": {
        "attn_logit_softcapping": None,
        "router_logit_softcapping": None,
        "final_logit_softcapping": None,
        "attn_temperature_len": None,
    },
    "caps_off": {"attn_logit_softcapping": 0, "router_logit_softcapping": -1.0, "final_logit_softcapping": 0},
    "temperature_off": {"attn_temperature_len": -1},
    "temperature_from_the_third": {"attn_temperature_len": 2},
    "one_key_head": {"num_key_value_heads": 1},
    "as_many_key_heads": {"num_key_value_heads": 6},
    "default_head_size": {"head_dim": None, "num_hidden_layers": 1},
    "other_numbers": {"embedding_multiplier_scale": 0.7, "output_multiplier_scale": 1.9, "rms_norm_eps": 0.2},
    "bfloat16": {"torch_dtype": "bfloat16"},
}
Pair = tuple[refimpl.Model, Any]


def read(directory: Path, settings: dict[str, Any], **options: Any) -> Pair:
    from .grok import GrokPeer, write_grok

    write_grok(directory, settings, **options)
    return refimpl.load(directory, dtype="float64"), GrokPeer(directory)


@pytest.fixture(scope="module", params=SETTINGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    seed = list(SETTINGS).index(request.param)
    return read(tmp_path_factory.mktemp(request.param), SETTINGS[request.param], seed=seed)


def in_pieces(model: Any, tokens: Array, ends: list[int], mask: Array | None = None) -> Array:
    cache, logits = None, []
    for start, stop in zip([0, *ends], ends, strict=False):
        seen = None if mask is None else mask[:, :stop]
        piece, cache = model(tokens[:, start:stop], cache, attention_mask=seen)
        logits.append(piece)
    return np.concatenate(logits, axis=1)


def test_prefill(pair: Pair) -> None:
    model, peer = pair
    assert_agree(model(TOKENS)[0], peer(TOKENS)[0])


@pytest.mark.parametrize("ends", [[4, 5, 12, 27, 29], [*range(1, LENGTH + 1)]], ids=["pieces", "decode"])
def test_pieces_and_decode(pair: Pair, ends: list[int]) -> None:
    model, peer = pair
    assert_agree(in_pieces(model, TOKENS, ends), peer(TOKENS)[0])


@pytest.mark.parametrize("padding", [slice(0, 8), slice(17, None), slice(5, 12)], ids=["left", "right", "middle"])
@pytest.mark.parametrize("ends", [[LENGTH], [3, 14, 26, 27, 28, 29]], ids=["at_once", "pieces"])
def test_padding(pair: Pair, padding: slice, ends: list[int]) -> None:
    model, peer = pair
    mask = np.ones_like(TOKENS)
    mask[1, padding] = 0
    ours, theirs = in_pieces(model, TOKENS, ends, mask), in_pieces(peer, TOKENS, ends, mask)
    assert_agree(ours[mask == 1], theirs[mask == 1])


def test_positions_far_beyond_the_lengths(pair: Pair) -> None:
    """Of the temperature and of the original length, in no order, unequal in the rows, also behind a cache."""
    model, peer = pair
    positions = np.random.default_rng(9).integers(0, 5000, TOKENS.shape)
    expected, _ = peer(TOKENS, positions=positions)
    assert_agree(model(TOKENS, positions=positions)[0], expected)
    first, cache = model(TOKENS[:, :20], positions=positions[:, :20])
    rest, _ = model(TOKENS[:, 20:], cache, positions=positions[:, 20:])
    assert_agree(np.concatenate([first, rest], axis=1), expected)


@pytest.mark.parametrize(("ranks", "expert_width"), [(1, 36), (2, 36), (3, 36), (4, 36), (8, 40), (12, 36)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stream", [False, True], ids=["held", "streamed"])
def test_the_layout_of_the_release(tmp_path: Path, ranks: int, expert_width: int, dtype: str, stream: bool) -> None:
    settings = {"torch_dtype": dtype, "moe_intermediate_size": expert_width}
    whole, _ = read(tmp_path / "whole", settings, seed=ranks)
    _, peer = read(tmp_path / "split", settings, seed=ranks, ranks=ranks)
    model = refimpl.load(tmp_path / "split", stream=stream)
    logits, _ = model(TOKENS)
    assert_agree(logits, peer(TOKENS)[0])
    np.testing.assert_array_equal(logits, whole(TOKENS)[0])


def test_float32_is_as_close_as_float32_can_be(tmp_path: Path) -> None:
    _, peer = read(tmp_path, {"rope_type": "yarn_log", **RAMP})
    logits, _ = refimpl.load(tmp_path, dtype="float32")(TOKENS)
    assert logits.dtype == np.float32
    assert relative_error(logits, peer(TOKENS)[0]) < FLOAT32_ROUNDING


def test_the_peer_confirms_golden_logits(tmp_path: Path) -> None:
    from .reference import float64_logits

    model, _ = read(tmp_path, {})
    logits, implementation, version = float64_logits(tmp_path, TOKENS)
    assert_agree(model(TOKENS)[0], logits)
    assert implementation == "tests/peers/grok.py in torch"
    assert version
