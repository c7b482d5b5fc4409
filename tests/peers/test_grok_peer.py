"""The peer of Grok 2.5 agrees with itself, and everything that a configuration can say of the model changes its logits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .comparison import Array, assert_agree, relative_error

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

LENGTH = 29
TOKENS = np.random.default_rng(0).integers(0, 67, (3, LENGTH))


@pytest.fixture(scope="module")
def peer(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from .grok import GrokPeer, write_grok

    return GrokPeer(write_grok(tmp_path_factory.mktemp("grok"), {}))


def with_settings(directory: Path, settings: dict[str, Any], **options: Any) -> Any:
    from .grok import GrokPeer, write_grok

    return GrokPeer(write_grok(directory, settings, **options))


def in_pieces(peer: Any, tokens: Array, ends: list[int], mask: Array | None = None) -> Array:
    cache, logits = None, []
    for start, stop in zip([0, *ends], ends, strict=False):
        seen = None if mask is None else mask[:, :stop]
        piece, cache = peer(tokens[:, start:stop], cache, attention_mask=seen)
        logits.append(piece)
    return np.concatenate(logits, axis=1)


def test_everything_is_float64(peer: Any) -> None:
    logits, cache = peer(TOKENS)
    assert logits.shape == (3, LENGTH, 67)
    assert logits.dtype == np.float64
    formats = {tensor.dtype for tensor in (*cache.keys, *cache.values, *peer.tensors.values(), peer.frequencies)}
    assert formats == {torch.float64}


@pytest.mark.parametrize("ends", [[4, 5, 12, 27, 29], [*range(1, LENGTH + 1)]])
def test_pieces_are_the_whole(peer: Any, ends: list[int]) -> None:
    assert_agree(in_pieces(peer, TOKENS, ends), peer(TOKENS)[0])


def test_a_call_does_not_change_the_cache_it_continues(peer: Any) -> None:
    _, cache = peer(TOKENS[:, :20])
    first, _ = peer(TOKENS[:, 20:], cache)
    again, _ = peer(TOKENS[:, 20:], cache)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("padding", [slice(0, 8), slice(17, None)])
@pytest.mark.parametrize("ends", [[LENGTH], [3, 14, 26, 27, 28, 29]])
def test_a_padded_row_is_the_row_alone(peer: Any, padding: slice, ends: list[int]) -> None:
    mask = np.ones_like(TOKENS)
    mask[1, padding] = 0
    logits = in_pieces(peer, TOKENS, ends, mask)
    assert np.isfinite(logits).all()
    for row in range(3):
        real = mask[row] == 1
        assert_agree(logits[row : row + 1, real], peer(TOKENS[row : row + 1, real])[0])


def test_given_positions_replace_the_counted_ones(peer: Any) -> None:
    counted = np.tile(np.arange(LENGTH), (3, 1))
    expected, _ = peer(TOKENS)
    np.testing.assert_array_equal(peer(TOKENS, positions=counted)[0], expected)
    # The rotation is relative but the temperature, which starts behind position 8, is not.
    assert relative_error(peer(TOKENS, positions=counted + 5)[0], expected) > 0.1


def test_without_temperature_only_distances_between_positions_count(tmp_path: Path) -> None:
    peer = with_settings(tmp_path, {"attn_temperature_len": -1})
    positions = np.random.default_rng(1).integers(0, 500, TOKENS.shape)
    assert_agree(peer(TOKENS, positions=positions + 40)[0], peer(TOKENS, positions=positions)[0])


@pytest.mark.parametrize("ranks", [1, 2, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_layouts_are_the_same_model(tmp_path: Path, ranks: int, dtype: str) -> None:
    whole = with_settings(tmp_path / "whole", {"torch_dtype": dtype}, seed=2)
    split = with_settings(tmp_path / "split", {"torch_dtype": dtype}, seed=2, ranks=ranks)
    assert len(list((tmp_path / "split").glob("*-TP-common.safetensors"))) == 15
    assert len(list((tmp_path / "split").glob("*-TP-0*.safetensors"))) == 3 * ranks
    np.testing.assert_array_equal(split(TOKENS)[0], whole(TOKENS)[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_act": "gelu_pytorch_tanh"},
        {"hidden_act": "gelu_new"},
        {"rope_type": "yarn"},
        {"rope_type": "yarn_linear"},
        {"rope_type": "yarn_log"},
        {"rope_type": "theta_scale"},
        {"rope_theta": 301},
        {"attn_temperature_len": -1},
        {"attn_temperature_len": None},
        {"attn_temperature_len": 9},
        {"residual_moe": False},
        {"residual_moe": None},
        {"num_experts_per_tok": 3},
        {"attn_logit_softcapping": 0},
        {"attn_logit_softcapping": None},
        {"attn_logit_softcapping": 5.6},
        {"router_logit_softcapping": 0},
        {"router_logit_softcapping": 3.6},
        {"final_logit_softcapping": None},
        {"final_logit_softcapping": 4.6},
        {"embedding_multiplier_scale": 3.8},
        {"output_multiplier_scale": 0.7},
        {"rms_norm_eps": 1.1e-3},
    ],
    ids=str,
)
def test_every_switch_moves_the_logits(peer: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    changed = with_settings(tmp_path, settings)
    if "residual_moe" not in settings:  # else other tensors exist, and all are random
        assert all(torch.equal(changed.tensors[name], tensor) for name, tensor in peer.tensors.items())
    assert relative_error(changed(TOKENS)[0], peer(TOKENS)[0]) > 1e-4


@pytest.mark.parametrize("method", ["yarn", "yarn_log", "theta_scale"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_fast", 16),
        ("beta_slow", 3),
        ("extrapolation_factor", 0.9),
        ("scaling_factor", 4.1),
        ("original_max_position_embeddings", 100),
    ],
)
def test_every_number_of_a_scaling_moves_its_frequencies(method: str, key: str, value: float) -> None:
    from .grok import TINY, inverse_frequencies

    before = inverse_frequencies({**TINY, "rope_type": method})
    after = inverse_frequencies({**TINY, "rope_type": method, key: value})
    ramp = key in ("beta_fast", "beta_slow", "extrapolation_factor")
    assert torch.equal(before, after) == (ramp and method == "theta_scale")


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_type": None},
        {"rope_type": ""},
        {"scaling_factor": 9.0},
        {"attn_factor": 9.0},
        {"rope_theta": 300.9},
        {"hidden_act": "gelu"},
        {"attn_temperature_len": LENGTH - 1, "other": {"attn_temperature_len": -1}},
        {"final_logit_softcapping": -1.0, "other": {"final_logit_softcapping": None}},
    ],
    ids=str,
)
def test_what_means_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    other = settings.pop("other", {})
    expected, _ = with_settings(tmp_path / "other", other)(TOKENS)
    np.testing.assert_array_equal(with_settings(tmp_path / "one", settings)(TOKENS)[0], expected)


PUBLISHED = {
    "head_dim": 128,
    "rope_theta": 208533496,
    "original_max_position_embeddings": 8192,
    "scaling_factor": 16.0,
    "extrapolation_factor": 1.0,
    "beta_fast": 8,
    "beta_slow": 1,
}


def published_frequency(method: str, pair: int) -> float:
    """With the published numbers: pairs up to 17 turn more than 8 times over the first 8192 positions, those from 24 less than
    once (the pairs where it happens are 17.02 and 23.97, rounded outwards)."""
    plain = math.exp(-pair / 64 * math.log(208533496))
    interpolated = min(max((pair - 17) / (24 - 17), 0.0), 1.0)
    match method:
        case "original":
            return plain
        case "yarn" | "yarn_linear":
            return plain * (1 - interpolated * (1 - 1 / 16))
        case "yarn_log":
            return plain * 16**-interpolated
        case _:
            stretched = math.log(8192 * 16 / (2 * math.pi)) / math.log(8192 / (2 * math.pi))
            return math.exp(-pair / 64 * math.log(208533496) * stretched)


@pytest.mark.parametrize("method", ["original", "yarn", "yarn_linear", "yarn_log", "theta_scale"])
def test_frequencies_of_the_published_numbers(method: str) -> None:
    from .grok import inverse_frequencies

    expected = [published_frequency(method, pair) for pair in range(64)]
    np.testing.assert_allclose(inverse_frequencies({**PUBLISHED, "rope_type": method}).numpy(), expected, rtol=1e-13)


def test_an_empty_ramp_interpolates_its_own_pair() -> None:
    from .grok import TINY, inverse_frequencies

    # Within 6 positions no pair turns once, so that both ends of the ramp are 0.
    empty = {**TINY, "original_max_position_embeddings": 6, "beta_fast": 1, "rope_type": "yarn"}
    ratio = inverse_frequencies(empty) / inverse_frequencies(TINY)
    assert ratio.tolist() == pytest.approx([0.25] * 7)


def test_temperature_starts_behind_its_length() -> None:
    from .grok import temperature

    found = temperature(torch.tensor([0, 1, 8, 9, 64, 512]), 8)
    assert found.tolist() == pytest.approx([1, 1, 1, math.log(9) / math.log(8), 2, 3], rel=1e-15)
    assert found.dtype == torch.float64
    assert temperature(torch.tensor([3, 900]), 0).tolist() == [1, 1]


def test_the_order_of_the_experts_does_not_matter(peer: Any, tmp_path: Path) -> None:
    other = with_settings(tmp_path, {})
    order = [3, 0, 4, 2, 1]
    for layer in range(3):
        prefix = f"model.layers.{layer}.block_sparse_moe"
        other.tensors[f"{prefix}.gate.weight"] = peer.tensors[f"{prefix}.gate.weight"][order]
        for name in ("w1", "w2", "w3"):
            for new, old in enumerate(order):
                source = peer.tensors[f"{prefix}.experts.{old}.{name}.weight"]
                other.tensors[f"{prefix}.experts.{new}.{name}.weight"] = source
    assert_agree(other(TOKENS)[0], peer(TOKENS)[0])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sliding_window_size": 5}, "sliding_window_size is 5"),
        ({"global_attn_every_n": 2}, "global_attn_every_n is 2"),
        ({"rope_type": "linear"}, "rope_type is 'linear'"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        with_settings(tmp_path, settings)


def test_a_missing_rank_is_refused(tmp_path: Path) -> None:
    from .grok import GrokPeer, write_grok

    write_grok(tmp_path, {}, ranks=4)
    (tmp_path / "pytorch_model-00007-TP-002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"tensors do not fit: .*experts\.0\.w2\.weight"):
        GrokPeer(tmp_path)
