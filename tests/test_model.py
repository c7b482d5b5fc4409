"""The model as a function: the same logits however the tokens arrive."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import refimpl
from refimpl import Cache, Model
from refimpl.numerics import plain
from refimpl.ops import NumpyOps, Replaced, Rounded, Traced
from tests import loops
from tests.tiny import qwen3, smollm3, tokens

CONFIGS = {
    "qwen3": qwen3(vocab_size=47),
    "qwen3-windows": qwen3(vocab_size=47, use_sliding_window=True, sliding_window=3, max_window_layers=1),
    "smollm3": smollm3(),
    "smollm3-biased-windows": smollm3(attention_bias=True, mlp_bias=True, use_sliding_window=True, sliding_window=3),
}
MODELS = {name: refimpl.init(config, seed=5, dtype="float64") for name, config in CONFIGS.items()}
EVERY = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
SHORT = refimpl.init(qwen3(vocab_size=47, num_hidden_layers=2), dtype="float64")


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def pad(rows: list[np.ndarray], layout: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask: the tokens of each row at the ones of its layout, other tokens at the zeros."""
    mask = np.array(layout)
    padded = np.full(mask.shape, 46)
    for row, places, ones in zip(rows, padded, mask, strict=True):
        places[ones == 1] = row
    return padded, mask


class TestAgainstLoops:
    @pytest.mark.parametrize("name", MODELS)
    def test_logits_equal_a_token_by_token_formulation(self, name: str) -> None:
        config, model = CONFIGS[name], MODELS[name]
        is_qwen, count = config["model_type"] == "qwen3", config["num_hidden_layers"]
        expected_window = {"qwen3-windows": [None, 3, 3], "smollm3-biased-windows": [None, 3, None, None, 3]}
        row = tokens(1, 9)[0].tolist()
        expected = loops.dense_model(
            dict(model.weights),
            row,
            heads=config["num_attention_heads"],
            kv_heads=2,
            head_dim=8 if is_qwen else 6,
            eps=1e-5,
            theta=config["rope_theta"],
            has_rope=[True] * 3 if is_qwen else [True, False, True, True, False],
            windows=expected_window.get(name, [None] * count),
            qk_norm=is_qwen,
            tied=not is_qwen,
        )
        np.testing.assert_allclose(model([row])[0][0], expected, rtol=1e-10, atol=1e-11)


@EVERY
class TestPieces:
    @given(cuts=st.sets(st.integers(1, 8)), seed=st.integers(0, 9))
    def test_prefill_in_pieces_equals_prefill_at_once(self, model: Model, cuts: set[int], seed: int) -> None:
        whole = tokens(2, 9, seed=seed)
        cache, found = None, []
        for piece in np.split(whole, sorted(cuts), axis=1):
            logits, cache = model(piece, cache)
            found.append(logits)
        expected, full_cache = model(whole)
        close(np.concatenate(found, axis=1), expected)
        assert len(cache) == len(full_cache) == 9
        for state, full_state in zip(cache.states, full_cache.states, strict=True):
            close(state["key"], full_state["key"])

    def test_one_token_at_a_time_equals_all_at_once(self, model: Model) -> None:
        whole, cache = tokens(2, 8), None
        expected, _ = model(whole)
        for t in range(8):
            logits, cache = model(whole[:, t : t + 1], cache)
            close(logits[:, 0], expected[:, t])

    def test_a_cache_can_be_continued_twice(self, model: Model) -> None:
        start, (one, other) = tokens(1, 5), tokens(2, 3, seed=1)
        _, cache = model(start)
        before = [state["key"].copy() for state in cache.states]
        for more in (one, other):
            close(model(more[None], cache)[0], model(np.concatenate([start, more[None]], axis=1))[0][:, 5:])
        for state, key in zip(cache.states, before, strict=True):
            np.testing.assert_array_equal(state["key"], key)

    def test_later_tokens_never_change_earlier_logits(self, model: Model) -> None:
        one, other = tokens(2, 8)
        other = np.concatenate([one[:5], other[5:]])
        close(model([one])[0][:, :5], model([other])[0][:, :5])
        assert not np.allclose(model([one])[0][:, 5:], model([other])[0][:, 5:])


@EVERY
class TestPadding:
    @pytest.mark.parametrize(
        "layout",
        [
            pytest.param([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], id="left"),
            pytest.param([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], id="right"),
            pytest.param([[1, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 0]], id="middle"),
            pytest.param([[0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]], id="all-and-almost-all"),
        ],
    )
    def test_a_padded_row_equals_the_row_alone(self, model: Model, layout: list[list[int]]) -> None:
        rows = [tokens(1, sum(ones), seed=i)[0] for i, ones in enumerate(layout)]
        padded, mask = pad(rows, layout)
        logits, _ = model(padded, attention_mask=mask)
        assert np.isfinite(logits).all()
        for row, ones, found in zip(rows, mask, logits, strict=True):
            if row.size:
                close(found[ones == 1], model([row])[0][0])

    @given(st.data())
    def test_padding_anywhere_and_cuts_anywhere(self, model: Model, data: st.DataObject) -> None:
        layout = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=7, max_size=7), min_size=1, max_size=2), label="mask")
        cut = data.draw(st.integers(1, 6), label="cut")
        rows = [tokens(1, sum(ones), seed=i)[0] for i, ones in enumerate(layout)]
        padded, mask = pad(rows, layout)
        first, cache = model(padded[:, :cut], attention_mask=mask[:, :cut])
        second, _ = model(padded[:, cut:], cache, attention_mask=mask)
        logits = np.concatenate([first, second], axis=1)
        for row, ones, found in zip(rows, mask, logits, strict=True):
            if row.size:
                close(found[ones == 1], model([row])[0][0])

    def test_a_left_padded_cache_continues_without_a_mask(self, model: Model) -> None:
        rows, more = [tokens(1, 3)[0], tokens(1, 5, seed=1)[0]], tokens(2, 2, seed=2)
        padded, mask = pad(rows, [[0, 0, 1, 1, 1], [1] * 5])
        _, cache = model(padded, attention_mask=mask)
        logits, _ = model(more, cache)
        for row, new, found in zip(rows, more, logits, strict=True):
            close(found, model([np.concatenate([row, new])])[0][0, len(row) :])

    def test_what_stands_at_padding_does_not_matter(self, model: Model) -> None:
        padded, mask = pad([tokens(1, 4)[0]], [[0, 1, 1, 0, 1, 1]])
        other = np.where(mask == 1, padded, 3)
        found, expected = model(other, attention_mask=mask)[0], model(padded, attention_mask=mask)[0]
        np.testing.assert_array_equal(found[mask == 1], expected[mask == 1])

    @pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.int64, list])
    def test_a_mask_of_ones_changes_nothing(self, model: Model, kind: Any) -> None:
        mask = np.ones((2, 4), int).tolist() if kind is list else np.ones((2, 4), kind)
        np.testing.assert_array_equal(model(tokens(2, 4), attention_mask=mask)[0], model(tokens(2, 4))[0])

    def test_rows_of_a_batch_do_not_see_each_other(self, model: Model) -> None:
        batch = tokens(3, 6)
        logits, _ = model(batch)
        for row, found in zip(batch, logits, strict=True):
            close(found, model([row])[0][0])


class TestPositions:
    @EVERY
    @pytest.mark.parametrize("shift", [-1000, 7, 10**5])
    def test_logits_depend_on_differences_of_positions_only(self, model: Model, shift: int) -> None:
        whole = tokens(1, 7)
        expected, _ = model(whole)
        shifted, _ = model(whole, positions=np.arange(7)[None] + shift)
        np.testing.assert_allclose(shifted, expected, rtol=1e-7, atol=1e-8)

    @EVERY
    def test_counting_by_hand_changes_nothing(self, model: Model) -> None:
        whole, positions = tokens(2, 7), np.tile(np.arange(7, dtype=np.int32), (2, 1))
        first, cache = model(whole[:, :4], positions=positions[:, :4])
        second, _ = model(whole[:, 4:], cache, positions=positions[:, 4:])
        np.testing.assert_array_equal(np.concatenate([first, second], axis=1), model_in_two(model, whole, 4))

    def test_positions_matter_where_there_is_rope(self) -> None:
        stretched = 3 * np.arange(6)[None]
        model = MODELS["qwen3"]
        assert not np.allclose(model(tokens(1, 6), positions=stretched)[0], model(tokens(1, 6))[0])

    def test_positions_do_not_matter_without_rope(self) -> None:
        model = refimpl.init(smollm3(no_rope_layers=[0] * 5), dtype="float64")
        np.testing.assert_array_equal(model(tokens(1, 6), positions=3 * np.arange(6)[None])[0], model(tokens(1, 6))[0])

    def test_visibility_follows_the_order_and_not_the_positions(self) -> None:
        model = MODELS["qwen3"]
        backwards = np.arange(6)[None, ::-1]
        one, other = tokens(2, 6)
        other = np.concatenate([one[:3], other[3:]])
        close(model([one], positions=backwards)[0][:, :3], model([other], positions=backwards)[0][:, :3])


def model_in_two(model: Model, whole: np.ndarray, cut: int) -> np.ndarray:
    first, cache = model(whole[:, :cut])
    return np.concatenate([first, model(whole[:, cut:], cache)[0]], axis=1)


class TestWindow:
    def test_a_token_beyond_the_reach_of_all_windows_changes_nothing(self) -> None:
        # Three layers of window 3 reach 6 tokens back.
        model = refimpl.init({**CONFIGS["qwen3-windows"], "max_window_layers": 0}, dtype="float64")
        one = tokens(1, 10)
        near, far = one.copy(), one.copy()
        far[0, 2], near[0, 3] = (one[0, 2] + 1) % 47, (one[0, 3] + 1) % 47
        np.testing.assert_array_equal(model(far)[0][0, 9], model(one)[0][0, 9])
        assert not np.allclose(model(near)[0][0, 9], model(one)[0][0, 9], rtol=1e-9)

    def test_a_window_of_the_length_changes_nothing(self) -> None:
        wide = refimpl.init({**CONFIGS["qwen3-windows"], "sliding_window": 8}, seed=5, dtype="float64")
        close(wide(tokens(2, 8))[0], MODELS["qwen3"](tokens(2, 8))[0])


class TestFormats:
    @pytest.mark.parametrize("name", MODELS)
    def test_float32_is_close_to_float64(self, name: str) -> None:
        model = refimpl.init(CONFIGS[name], seed=5, dtype="float32")
        logits, cache = model(tokens(2, 9))
        assert logits.dtype == cache.states[0]["key"].dtype == np.float32
        expected = MODELS[name](tokens(2, 9))[0]
        assert np.abs(logits - expected).max() < 2e-5 * np.abs(expected).max()

    @pytest.mark.parametrize("kind", [np.int8, np.int32, np.uint8, np.uint64, list])
    def test_tokens_of_any_integer_format(self, kind: Any) -> None:
        whole = tokens(2, 5)
        same = whole.tolist() if kind is list else whole.astype(kind)
        np.testing.assert_array_equal(SHORT(same)[0], SHORT(whole)[0])

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", None])
    def test_another_format_is_one_sentence(self, dtype) -> None:
        with pytest.raises(ValueError, match=r"^dtype is .* but must be one of float64, float32$"):
            refimpl.init(qwen3(), dtype=dtype)


class TestCache:
    def test_bytes_are_those_of_the_blueprint(self) -> None:
        _, cache = MODELS["qwen3"](tokens(1, 6))
        assert cache.nbytes() == MODELS["qwen3"].blueprint.cache_bytes(6, "float64")

    def test_another_number_of_rows_is_one_sentence(self) -> None:
        _, cache = SHORT(tokens(2, 3))
        with pytest.raises(ValueError, match=r"^tokens have 3 rows but the cache holds 2; they must be equal$"):
            SHORT(tokens(3, 1), cache)

    @pytest.mark.parametrize("layers", [1, 3])
    def test_a_cache_of_another_depth_is_one_sentence(self, layers: int) -> None:
        _, cache = refimpl.init(qwen3(num_hidden_layers=layers), dtype="float64")(tokens(1, 3))
        with pytest.raises(ValueError, match=f"cache .*{layers} layers"):
            SHORT(tokens(1, 1), cache)

    def test_a_cache_of_another_format_is_one_sentence(self) -> None:
        _, cache = refimpl.init(SHORT.blueprint.config, dtype="float32")(tokens(1, 3))
        with pytest.raises(ValueError, match=r"cache .*float32"):
            SHORT(tokens(1, 1), cache)

    @pytest.mark.parametrize("cache", [np.ones((1, 3)), [], {}, "cache"])
    def test_something_else_is_one_sentence(self, cache: Any) -> None:
        with pytest.raises(ValueError, match=r"cache .*needs"):
            SHORT(tokens(1, 3), cache)


class TestBadInput:
    @pytest.mark.parametrize(
        "wrong",
        [[1, 2], 3, [[1.0]], [[True]], [["a"]], [[]], np.zeros((0, 3), int), np.zeros((1, 2, 3), int), None],
    )
    def test_tokens_of_another_shape_or_kind(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match=r"^tokens have shape .* but must be integers \[B, T\] with B and T at least 1$"):
            SHORT(wrong)

    def test_rows_of_unequal_length(self) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - NumPy's own sentence
            SHORT([[1, 2], [3]])

    @pytest.mark.parametrize(("wrong", "low", "high"), [([[-1, 3]], -1, 3), ([[0, 47]], 0, 47)])
    def test_tokens_outside_the_vocabulary(self, wrong: Any, low: int, high: int) -> None:
        with pytest.raises(ValueError, match=rf"^tokens range from {low} to {high} but must lie in 0 \.\. 46$"):
            SHORT(wrong)

    @pytest.mark.parametrize("shape", [(1, 4), (2, 3), (2, 5), (4,), (2, 4, 1)])
    def test_a_mask_of_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"^attention_mask has shape .* but needs \(2, 4\): \[B, cached \+ new tokens\]$"):
            SHORT(tokens(2, 4), attention_mask=np.ones(shape, int))

    def test_a_mask_of_the_new_tokens_alone(self) -> None:
        _, cache = SHORT(tokens(2, 4))
        with pytest.raises(ValueError, match=r"^attention_mask has shape \(2, 1\) but needs \(2, 5\)"):
            SHORT(tokens(2, 1), cache, attention_mask=np.ones((2, 1), int))

    @pytest.mark.parametrize("mask", [[[1.0, 1.0]], [[1, 2]], [[0, -1]], [["a", "b"]]])
    def test_a_mask_of_other_values(self, mask: Any) -> None:
        with pytest.raises(ValueError, match=r"^attention_mask has dtype .* or values other than 0 and 1"):
            SHORT(tokens(1, 2), attention_mask=mask)

    def test_a_mask_that_contradicts_the_cache(self) -> None:
        _, cache = SHORT(tokens(1, 3), attention_mask=[[0, 1, 1]])
        with pytest.raises(
            ValueError, match=r"^attention_mask marks other tokens as padding than the calls that filled the cache"
        ):
            SHORT(tokens(1, 1), cache, attention_mask=[[1, 1, 1, 1]])

    @pytest.mark.parametrize("positions", [[[0.0, 1.0]], [[0]], [0, 1], [[True, False]]])
    def test_positions_of_another_shape_or_kind(self, positions: Any) -> None:
        with pytest.raises(ValueError, match=r"^positions have shape .* but must be integers \(1, 2\), one a token$"):
            SHORT(tokens(1, 2), positions=positions)

    def test_ops_of_another_kind(self) -> None:
        with pytest.raises(ValueError, match=r"^with_ops: got a dict but needs a refimpl.ops.Ops$"):
            SHORT.with_ops({})


class TestTrace:
    MIXER = ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "q_rope", "k_rope", "attention", "o_proj")
    MLP = ("gate_proj", "up_proj", "activation", "down_proj")

    def test_names_every_value_in_order_of_computation(self) -> None:
        layer = [
            "mixer_norm",
            *(f"mixer.{n}" for n in self.MIXER),
            "mixer_residual",
            "mlp_norm",
            *(f"mlp.{n}" for n in self.MLP),
        ]
        layers = [f"layers.{i}.{name}" for i in range(2) for name in [*layer, "output"]]
        expected = ["rope.0.cos", "rope.0.sin", "embedding", *layers, "final_norm", "logits"]
        assert list(SHORT.trace(tokens(1, 3))) == expected

    def test_a_layer_without_rope_has_no_rotated_values(self) -> None:
        names = MODELS["smollm3"].trace(tokens(1, 3))
        assert "layers.0.mixer.q_rope" in names
        assert "layers.1.mixer.q_rope" not in names
        assert "layers.0.mixer.q_norm" not in names

    def test_values_are_those_of_the_call(self) -> None:
        whole = tokens(2, 4)
        values = SHORT.trace(whole, attention_mask=[[0, 1, 1, 1], [1, 1, 1, 1]])
        np.testing.assert_array_equal(values["logits"], SHORT(whole, attention_mask=[[0, 1, 1, 1], [1, 1, 1, 1]])[0])
        close(values["layers.1.mlp_norm"].shape, (2, 4, 20))
        close(values["layers.0.output"] - values["layers.0.mixer_residual"], values["layers.0.mlp.down_proj"])
        assert values["layers.0.mixer.k_rope"].shape == (2, 4, 2, 8)

    def test_yarn_scales_the_frequencies_and_both_cos_and_sin(self) -> None:
        scaling = {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.25, "original_max_position_embeddings": 16}
        model = refimpl.init(qwen3(vocab_size=47, rope_scaling=scaling), dtype="float64")
        values = model.trace(tokens(1, 4))
        # 1000^(-6/8) turns 0.014 times in 16 tokens: divided by 8; position 0 has cos 1
        np.testing.assert_allclose(values["rope.0.cos"][0, 0], 1.25)
        np.testing.assert_allclose(values["rope.0.sin"][0, :, 3], [1.25 * math.sin(t * 1000**-0.75 / 8) for t in range(4)])
        norms = [np.linalg.norm(values[f"layers.0.mixer.{name}"]) for name in ("q_norm", "q_rope", "k_norm", "k_rope")]
        np.testing.assert_allclose([norms[1] / norms[0], norms[3] / norms[2]], 1.25)

    def test_continues_a_cache(self) -> None:
        whole = tokens(1, 5)
        _, cache = SHORT(whole[:, :4])
        close(SHORT.trace(whole[:, 4:], cache)["logits"], SHORT(whole)[0][:, 4:])

    def test_keeps_an_outer_tracer(self) -> None:
        outer = Traced(NumpyOps())
        assert list(SHORT.with_ops(outer).trace(tokens(1, 2))) == list(outer.values)


class TestWithOps:
    def test_another_function_changes_the_result(self) -> None:
        swapped = SHORT.with_ops(Replaced(NumpyOps(), {"swiglu": lambda gate, up: NumpyOps().swiglu(up, gate)}))
        assert not np.allclose(swapped(tokens(1, 4))[0], SHORT(tokens(1, 4))[0])

    def test_leaves_the_model_itself_as_it_was(self) -> None:
        before = SHORT(tokens(1, 4))[0]
        SHORT.with_ops(Replaced(NumpyOps(), {"swiglu": lambda gate, up: gate}))(tokens(1, 4))
        np.testing.assert_array_equal(SHORT(tokens(1, 4))[0], before)

    @pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.1), ("float16", 0.012)])
    @EVERY
    def test_rounded_is_near_and_on_the_grid(self, model: Model, dtype: str, near: float) -> None:
        import ml_dtypes

        expected = model(tokens(1, 6))[0]
        low, cache = model.with_ops(Rounded(NumpyOps(), dtype))(tokens(1, 6))
        values = plain(low)
        np.testing.assert_array_equal(values, values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else "f2").astype("f4"))
        error = np.linalg.norm(values - expected) / np.linalg.norm(expected)
        assert near / 100 < error < near
        more, _ = model.with_ops(Rounded(NumpyOps(), dtype))(tokens(1, 1), cache)
        assert np.isfinite(plain(more)).all()

    def test_a_cache_is_plain_data(self) -> None:
        _, cache = SHORT(tokens(1, 3))
        same = Cache(states=cache.states, attention_mask=cache.attention_mask, dtype=cache.dtype, ring=cache.ring)
        np.testing.assert_array_equal(SHORT(tokens(1, 1), same)[0], SHORT(tokens(1, 1), cache)[0])
