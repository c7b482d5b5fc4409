"""Ops and their wrappers: names, order, replacement and rounding."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from refimpl.layers import VOCABULARY, rms_norm, silu
from refimpl.numerics import LazyArray, LowPrecision, plain
from refimpl.ops import GLUE, NumpyOps, Ops, Replaced, Rounded, Traced, Wrapper
from tests.tiny import normal

BF16 = ml_dtypes.bfloat16


def to_bf16(x: Any) -> np.ndarray:
    return np.asarray(x).astype(BF16).astype(np.float32)


class Recorder(Ops):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple, dict]] = []

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        self.calls.append((name, values, options))
        return values[0]


class TestGlue:
    ops = NumpyOps()

    def test_heads_are_consecutive_runs(self) -> None:
        x = np.arange(12.0).reshape(1, 1, 12)
        assert self.ops.split_heads(x, heads=3).tolist() == [[[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]]]

    @pytest.mark.parametrize("heads", [0, -2, 1.5])
    def test_heads_must_be_a_positive_integer(self, heads) -> None:
        with pytest.raises(ValueError, match=f"split_heads: heads is {heads!r} but needs a positive integer"):
            self.ops.split_heads(normal(1, 1, 12), heads=heads)

    def test_the_past_must_have_the_shape_of_the_new(self) -> None:
        with pytest.raises(ValueError, match=r"append: new has shape \(2, 2, 1, 4\)"):
            self.ops.append(normal(1, 3, 1, 4), normal(2, 2, 1, 4))

    def test_merging_undoes_splitting(self) -> None:
        x = normal(2, 3, 12)
        np.testing.assert_array_equal(self.ops.merge_heads(self.ops.split_heads(x, heads=4)), x)

    def test_heads_must_divide_the_width(self) -> None:
        with pytest.raises(ValueError, match="split_heads: the last axis has 12 entries, which 5 heads do not divide"):
            self.ops.split_heads(normal(1, 1, 12), heads=5)

    def test_splitting_cuts_the_last_axis_in_order(self) -> None:
        first, second = self.ops.split(np.arange(10.0).reshape(1, 2, 5), sizes=(2, 3))
        assert first.tolist() == [[[0, 1], [5, 6]]]
        assert second.tolist() == [[[2, 3, 4], [7, 8, 9]]]

    def test_concatenation_undoes_it(self) -> None:
        x = normal(2, 3, 4, 7)
        np.testing.assert_array_equal(self.ops.concat(*self.ops.split(x, sizes=(4, 1, 2))), x)

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ((2, 4), r"the last axis has 5 entries but the sizes \(2, 4\) need 6"),
            ((5, 0), r"sizes\[1\] is 0 but needs a positive integer"),
        ],
    )
    def test_sizes_must_fill_the_width(self, sizes, message: str) -> None:
        with pytest.raises(ValueError, match=f"^split: {message}"):
            self.ops.split(normal(1, 2, 5), sizes=sizes)

    def test_parts_differ_in_the_last_axis_alone(self) -> None:
        with pytest.raises(ValueError, match=r"^concat: shapes \(1, 2, 5\), \(1, 3, 5\) differ in more than the last axis"):
            self.ops.concat(normal(1, 2, 5), normal(1, 3, 5))

    def test_append_puts_the_new_entries_last(self) -> None:
        past, new = normal(2, 3, 1, 4), normal(2, 2, 1, 4, seed=1)
        y = self.ops.append(past, new)
        np.testing.assert_array_equal(y[:, :3], past)
        np.testing.assert_array_equal(y[:, 3:], new)

    def test_add_does_not_broadcast(self) -> None:
        assert self.ops.add(np.array([1.0]), np.array([2.0])).tolist() == [3]
        with pytest.raises(ValueError, match=r"add: y has shape \(1,\) but needs \(2,\), the shape of x"):
            self.ops.add(np.ones(2), np.ones(1))


class TestOps:
    @pytest.mark.parametrize("name", [*VOCABULARY, *GLUE])
    def test_every_name_of_the_vocabulary_goes_through_call(self, name: str) -> None:
        ops = Recorder()
        getattr(ops, name)("x", "w", option=3)
        assert ops.calls == [(name, ("x", "w"), {"option": 3})]

    @pytest.mark.parametrize("ops", [NumpyOps(), Wrapper(NumpyOps()), Traced(NumpyOps())])
    def test_an_unknown_name_is_an_attribute_error(self, ops: Ops) -> None:
        with pytest.raises(AttributeError, match="'rms_nrom' is not in the vocabulary"):
            ops.rms_nrom(np.ones(3))

    def test_numpy_is_the_layer_itself(self) -> None:
        x, weight = normal(2, 3), normal(3, seed=1)
        np.testing.assert_array_equal(NumpyOps().rms_norm(x, weight, eps=1e-6), rms_norm(x, weight, eps=1e-6))

    def test_a_wrapper_passes_everything_on(self) -> None:
        inner = Traced(Recorder())
        outer = Wrapper(inner)
        with outer.scope("a"), outer.scope("b"):
            assert outer.tap("t", 1) == 1
        outer.silu(2)
        assert inner.values == {"a.b.t": 1}
        assert inner.inner.calls == [("silu", (2,), {})]
        assert outer.constant("c") == "c"


class TestTraced:
    def test_names_are_the_path_of_scopes_in_order_of_computation(self) -> None:
        ops = Traced(NumpyOps())
        with ops.scope("layers.1"):
            ops.tap("norm", 1)
            with ops.scope("mixer"):
                ops.tap("q", 2)
            ops.tap("output", 3)
        ops.tap("logits", 4)
        assert list(ops.values.items()) == [
            ("layers.1.norm", 1), ("layers.1.mixer.q", 2), ("layers.1.output", 3), ("logits", 4),
        ]  # fmt: skip

    def test_a_scope_ends_when_its_body_fails(self) -> None:
        ops = Traced(NumpyOps())
        with pytest.raises(RuntimeError), ops.scope("a"):
            raise RuntimeError
        ops.tap("t", 1)
        assert list(ops.values) == ["t"]

    def test_tracers_nest(self) -> None:
        inner = Traced(NumpyOps())
        outer = Traced(inner)
        with outer.scope("a"):
            outer.tap("t", 1)
        assert inner.values == outer.values == {"a.t": 1}


class TestReplaced:
    def test_answers_its_names_and_passes_the_rest_on(self) -> None:
        ops = Replaced(NumpyOps(), {"silu": lambda x: x * 0, "add": lambda x, y: x - y})
        x = np.array([1.0, 2.0])
        assert ops.silu(x).tolist() == [0, 0]
        assert ops.add(x, x).tolist() == [0, 0]
        np.testing.assert_array_equal(ops.gelu(x), NumpyOps().gelu(x))

    def test_passes_options(self) -> None:
        seen = {}
        Replaced(NumpyOps(), {"rms_norm": lambda x, **options: seen.update(options)}).rms_norm(1, eps=0.5)
        assert seen == {"eps": 0.5}

    def test_an_unknown_name_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"no such function in the vocabulary: mlp, rmsnorm$"):
            Replaced(NumpyOps(), {"rmsnorm": rms_norm, "silu": silu, "mlp": silu})

    def test_the_outermost_replacement_wins(self) -> None:
        inner = Replaced(NumpyOps(), {"silu": lambda x: "inner"})
        assert Replaced(inner, {"silu": lambda x: "outer"}).silu(1) == "outer"
        assert Replaced(inner, {}).silu(1) == "inner"


class TestRounded:
    def test_weights_and_results_are_rounded(self) -> None:
        x, weight = normal(3, 8, dtype="float32"), normal(5, 8, seed=1, dtype="float32")
        y = Rounded(NumpyOps(), "bfloat16").linear(x, weight)
        np.testing.assert_array_equal(plain(y), to_bf16(to_bf16(x) @ to_bf16(weight).T))
        assert isinstance(y, LowPrecision)

    def test_float64_inputs_are_rounded_too(self) -> None:
        x = normal(50)
        y = plain(Rounded(NumpyOps(), "float16").silu(x))
        assert y.dtype == np.float32
        assert (y == y.astype("f2").astype("f4")).all()

    def test_options_that_are_arrays_are_rounded(self) -> None:
        one = np.ones((1, 1, 1, 1), np.float32)
        seen = {}
        ops = Rounded(Replaced(NumpyOps(), {"attention": lambda *a, **o: seen.update(o) or a[0]}), "bfloat16")
        ops.attention(one, one, one, scale=0.1, sinks=np.array([0.1], np.float32), k_order=np.array([[300]]))
        assert plain(seen["sinks"]).tolist() == to_bf16(np.float32([0.1])).tolist()
        assert seen["scale"] == 0.1
        assert seen["k_order"].tolist() == [[300]]

    def test_angles_stay_in_float32(self) -> None:
        # in bfloat16 position 1001 would be 1000 and 0.3 would be 0.30078
        cos, sin = Rounded(NumpyOps(), "bfloat16").rope_cos_sin(np.array([[1001]]), np.array([0.3], np.float32))
        angle = np.float32(1001) * np.float32(0.3)
        assert plain(cos).item() == to_bf16(math.cos(angle)).item()
        assert plain(sin).item() == to_bf16(math.sin(angle)).item()

    def test_the_correction_bias_of_a_router_stays_in_float32(self) -> None:
        for dtype in (np.float32, np.float64):
            bias = np.array([3.0, 3.0 + 2.0**-12], dtype)
            assert Rounded(NumpyOps(), "bfloat16").sigmoid_router(np.zeros((1, 2), dtype), bias, top_k=1)[0].tolist() == [[1]]

    def test_a_lazy_stack_is_rounded_when_an_entry_is_read(self) -> None:
        arrays = [normal(*shape, seed=i) for i, shape in enumerate([(3, 4), (5, 2, 4), (5, 2, 4), (5, 4, 2)])]
        choices = np.array([[0], [4], [0]]), np.ones((3, 1))

        class Stack(LazyArray):
            def __init__(self, array: np.ndarray) -> None:
                self.shape, self.dtype, self.array = array.shape, array.dtype, array

            def __getitem__(self, index: Any) -> np.ndarray:
                assert index in (0, 4)
                return self.array[index]

        ops, (x, *stacks) = Rounded(NumpyOps(), "bfloat16"), arrays
        found = ops.routed_experts(x, *choices, *map(Stack, stacks))
        np.testing.assert_array_equal(plain(found), plain(ops.routed_experts(x, *choices, *stacks)))

    def test_tokens_and_places_are_not_rounded(self) -> None:
        table = np.eye(1002, 2, dtype=np.float32)
        table[1001] = [5, 6]
        assert plain(Rounded(NumpyOps(), "bfloat16").embedding(np.array([[1001]]), table)).tolist() == [[[5, 6]]]

    @pytest.mark.parametrize("name", ["float32", "float64", "int8"])
    def test_only_narrow_formats(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"dtype is '{name}' but must be one of bfloat16, float16"):
            Rounded(NumpyOps(), name)
