"""Experts against a loop over tokens and choices, and the two forms against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.layers import expert_mixture, routed_experts
from refimpl.numerics import LazyArray, LowPrecision, low_precision, plain
from tests.tiny import normal

BF16 = ml_dtypes.bfloat16
FORMS = pytest.mark.parametrize("form", [expert_mixture, routed_experts])
CLAMPED = {"activation": "clamped_swiglu", "alpha": 1.702, "limit": 1.25}
ACTIVATIONS = [{}, {"activation": "gelu"}, {"activation": "gelu_tanh"}, CLAMPED]
NAMES = ("x", "indices", "weights", "gate", "up", "down", "gate_bias", "up_bias", "down_bias")


def arguments(
    shape: tuple[int, ...] = (3,), E: int = 4, A: int = 2, D: int = 3, F: int = 5, *, seed: int = 0
) -> dict[str, Any]:
    """Every argument, all of them away from 0; the choices of a token are distinct."""
    rng = np.random.default_rng(seed)
    tokens = math.prod(shape)
    order = np.argsort(rng.random((tokens, E)), axis=-1)[:, :A]
    return {
        "x": normal(*shape, D, seed=seed),
        "indices": order.reshape(*shape, A),
        "weights": 0.2 + rng.random((*shape, A)),
        "gate": normal(E, F, D, seed=seed + 1),
        "up": normal(E, F, D, seed=seed + 2),
        "down": normal(E, D, F, seed=seed + 3),
        "gate_bias": normal(E, F, seed=seed + 4),
        "up_bias": normal(E, F, seed=seed + 5),
        "down_bias": normal(E, D, seed=seed + 6),
    }


def call(form: Callable[..., Any], given: dict[str, Any], **options: Any) -> np.ndarray:
    return form(*(given.get(name) for name in NAMES), **options)


def activate(gate: float, up: float, activation: str = "silu", alpha: float = 0.0, limit: float = 0.0) -> float:
    if activation == "clamped_swiglu":
        gate, up = min(gate, limit), max(-limit, min(up, limit)) + 1
        return gate / (1 + math.exp(-alpha * gate)) * up
    if activation == "gelu":
        return gate / 2 * math.erfc(-gate / math.sqrt(2)) * up
    if activation == "gelu_tanh":
        return gate / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) * up
    return gate / (1 + math.exp(-gate)) * up


def affine(matrix: np.ndarray, vector: list[float], bias: np.ndarray | None) -> list[float]:
    sums = [math.fsum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix.tolist()]
    return sums if bias is None else [total + b for total, b in zip(sums, bias.tolist(), strict=True)]


def loop(given: dict[str, Any], *, scale_input: bool = False, **activation: Any) -> np.ndarray:
    """One token after the other, one of its experts after the other."""
    y = np.zeros(given["x"].shape)
    biases = [given.get(f"{name}_bias") for name in ("gate", "up", "down")]
    for token in np.ndindex(given["x"].shape[:-1]):
        shares: dict[int, float] = {}
        for expert, weight in zip(given["indices"][token].tolist(), given["weights"][token].tolist(), strict=True):
            shares[expert] = shares.get(expert, 0.0) + weight
        for expert, share in shares.items():
            if share == 0:
                continue
            gate_bias, up_bias, down_bias = (None if bias is None else bias[expert] for bias in biases)
            entry = [(share if scale_input else 1) * value for value in given["x"][token].tolist()]
            pairs = zip(
                affine(given["gate"][expert], entry, gate_bias), affine(given["up"][expert], entry, up_bias), strict=True
            )
            output = affine(given["down"][expert], [activate(g, u, **activation) for g, u in pairs], down_bias)
            y[token] += [value if scale_input else share * value for value in output]
    return y


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Any sizes, no tokens too; experts chosen twice by a token and weights of 0; any of the biases; every option."""
    E, A, D, F = (draw(st.integers(1, 4), label=letter) for letter in "EADF")
    shape = draw(st.sampled_from([(), (1,), (4,), (2, 3), (0,), (2, 0)]), label="shape")
    seed = draw(st.integers(0, 999), label="seed")
    given, rng = arguments(shape, E, min(A, E), D, F, seed=seed), np.random.default_rng(seed)
    given["indices"] = rng.integers(0, E, (*shape, A))
    given["weights"] = rng.standard_normal((*shape, A)) * rng.integers(0, 3, (*shape, A))
    for name in draw(st.sets(st.sampled_from(NAMES[6:])), label="absent"):
        del given[name]
    options = {
        **draw(st.sampled_from(ACTIVATIONS), label="activation"),
        "scale_input": draw(st.booleans(), label="scale_input"),
    }
    return given, options


class Recorded(LazyArray):
    """A stack that remembers which entries were read."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape, self.dtype, self.reads = array.shape, array.dtype, []
        self._array = array

    def __getitem__(self, index: Any) -> np.ndarray:
        self.reads.append(int(index))
        return self._array[index]


class TestExpertMixture:
    @given(problems())
    def test_equals_the_loop(self, problem) -> None:
        given, options = problem
        found = call(expert_mixture, given, **options)
        assert found.shape == given["x"].shape
        np.testing.assert_allclose(found, loop(given, **options), rtol=1e-11, atol=1e-12)

    @FORMS
    def test_r1_the_weight_multiplies_the_whole_output_its_last_bias_included(self, form) -> None:
        given = arguments()
        doubled = {**given, "weights": 2 * given["weights"]}
        np.testing.assert_allclose(call(form, doubled), 2 * call(form, given), rtol=1e-13)
        silent = {**given, "down": np.zeros_like(given["down"])}
        expected = np.einsum("ta,tad->td", given["weights"], given["down_bias"][given["indices"]])
        np.testing.assert_allclose(call(form, silent), expected, rtol=1e-13)

    @FORMS
    def test_r1_an_expert_of_weight_0_adds_nothing_even_where_it_is_infinite(self, form) -> None:
        given = arguments()
        given["weights"][:, 1] = 0
        given["indices"][:, 0], given["indices"][:, 1] = [0, 1, 2], 3
        expected = call(form, {**given, "indices": given["indices"][:, :1], "weights": given["weights"][:, :1]})
        given["down_bias"][3] = np.inf
        np.testing.assert_allclose(call(form, given), expected, rtol=1e-14)

    @FORMS
    def test_r2_scale_input_scales_the_input_and_sums_the_output_as_it_is(self, form) -> None:
        given = arguments(A=1)
        scaled = {**given, "x": given["x"] * given["weights"], "weights": np.ones_like(given["weights"])}
        np.testing.assert_allclose(call(form, given, scale_input=True), call(form, scaled), rtol=1e-13)
        assert not np.allclose(call(form, given, scale_input=True), call(form, given), rtol=0.05)

    @FORMS
    def test_r2_an_expert_of_weight_0_adds_nothing_whatever_its_biases(self, form) -> None:
        given = arguments()
        given["weights"][:] = 0
        np.testing.assert_array_equal(call(form, given, scale_input=True), 0)

    @FORMS
    def test_r3_biases_come_before_the_activation_and_its_clamp(self, form) -> None:
        # The products of x are 0, so the clamp sees the biases alone: gate 9 becomes 2, up -9 becomes -2.
        one, zero = np.ones((1, 1, 1)), np.zeros((1, 1, 1))
        y = form(
            np.ones((1, 1)), np.array([[0]]), np.ones((1, 1)), zero, zero, one,
            np.array([[9.0]]), np.array([[-9.0]]), None, activation="clamped_swiglu", alpha=0.5, limit=2.0,
        )  # fmt: skip
        assert math.isclose(y.item(), 2 / (1 + math.exp(-1)) * (-2 + 1), rel_tol=1e-14)

    @FORMS
    def test_r3_gate_and_up_are_not_exchanged(self, form) -> None:
        given = arguments()
        swapped = {
            **given,
            "gate": given["up"],
            "up": given["gate"],
            "gate_bias": given["up_bias"],
            "up_bias": given["gate_bias"],
        }
        np.testing.assert_allclose(call(form, given), loop(given), rtol=1e-12)
        assert not np.allclose(call(form, swapped), call(form, given), rtol=0.05)

    @FORMS
    @pytest.mark.parametrize("scale_input", [False, True])
    def test_r4_renumbered_experts_change_nothing(self, form, scale_input: bool) -> None:
        given, permutation = arguments((6,), E=5), np.array([3, 0, 4, 1, 2])
        renumbered = {
            **{name: array[permutation] if name not in NAMES[:3] else array for name, array in given.items()},
            "indices": np.argsort(permutation)[given["indices"]],
        }
        expected = call(form, given, scale_input=scale_input)
        np.testing.assert_allclose(call(form, renumbered, scale_input=scale_input), expected, rtol=1e-12, atol=1e-14)

    @FORMS
    def test_r4_the_order_of_the_choices_of_a_token_changes_nothing(self, form) -> None:
        given = arguments(A=3)
        turned = {**given, "indices": given["indices"][:, ::-1], "weights": given["weights"][:, ::-1]}
        np.testing.assert_allclose(call(form, turned), call(form, given), rtol=1e-13)

    @FORMS
    def test_r5_all_experts_chosen_give_the_dense_mixture(self, form) -> None:
        given = arguments(E=4, A=4)
        alone = [
            call(form, {**given, "indices": np.full((3, 1), e), "weights": np.ones((3, 1))}) for e in range(4)
        ]  # fmt: skip
        of_expert = np.take_along_axis(given["weights"], np.argsort(given["indices"], axis=-1), axis=-1)
        expected = sum(of_expert[:, e : e + 1] * y for e, y in enumerate(alone))
        np.testing.assert_allclose(call(form, given), expected, rtol=1e-12)

    @FORMS
    @pytest.mark.parametrize("scale_input", [False, True])
    def test_r5_the_weights_of_an_expert_that_is_chosen_twice_add_up(self, form, scale_input: bool) -> None:
        given = arguments(A=2)
        given["indices"][:, 1] = given["indices"][:, 0]
        once = {**given, "indices": given["indices"][:, :1], "weights": given["weights"].sum(axis=-1, keepdims=True)}
        np.testing.assert_allclose(
            call(form, given, scale_input=scale_input), call(form, once, scale_input=scale_input), rtol=1e-13
        )


class TestRoutedExperts:
    @given(problems())
    def test_r6_equals_the_mixture(self, problem) -> None:
        given, options = problem
        found = call(routed_experts, given, **options)
        assert found.shape == given["x"].shape
        np.testing.assert_allclose(found, call(expert_mixture, given, **options), rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("scale_input", [False, True])
    def test_r6_a_token_does_not_depend_on_the_others(self, scale_input: bool) -> None:
        given = arguments((7,), E=3)
        whole = call(routed_experts, given, scale_input=scale_input)
        for token in range(7):
            alone = {**given, **{name: given[name][token] for name in NAMES[:3]}}
            np.testing.assert_allclose(call(routed_experts, alone, scale_input=scale_input), whole[token], rtol=1e-12)

    @pytest.mark.parametrize("seed", range(3))
    def test_r7_only_the_matrices_of_chosen_experts_are_read_and_each_once(self, seed: int) -> None:
        given = arguments((4,), E=9, seed=seed)
        lazy = {name: Recorded(given[name]) for name in ("gate", "up", "down")}
        np.testing.assert_array_equal(call(routed_experts, {**given, **lazy}), call(routed_experts, given))
        for stack in lazy.values():
            assert sorted(stack.reads) == np.unique(given["indices"]).tolist()

    def test_r7_an_expert_with_weight_0_alone_is_not_read(self) -> None:
        given = arguments((2,), E=4, A=1)
        given["indices"][:], given["weights"][:] = [[1], [3]], [[0.0], [0.5]]
        stack = Recorded(given["gate"])
        call(routed_experts, {**given, "gate": stack})
        assert stack.reads == [3]

    @pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
    def test_r7_without_tokens_nothing_is_read(self, shape: tuple[int, ...]) -> None:
        given = arguments(shape)
        lazy = {name: Recorded(given[name]) for name in ("gate", "up", "down")}
        assert call(routed_experts, {**given, **lazy}).shape == (*shape, 3)
        assert all(stack.reads == [] for stack in lazy.values())

    def test_r7_numbers_of_an_expert_that_nobody_chose_do_not_matter(self) -> None:
        given = arguments((4,), E=3)
        given["indices"] = np.tile([0, 2], (4, 1))
        expected = call(routed_experts, given)
        for name in NAMES[3:]:
            given[name][1] = np.nan
        np.testing.assert_array_equal(call(routed_experts, given), expected)

    def test_the_mixture_takes_lazy_stacks_too(self) -> None:
        given = arguments()
        lazy = {name: Recorded(given[name]) for name in ("gate", "up", "down")}
        np.testing.assert_array_equal(call(expert_mixture, {**given, **lazy}), call(expert_mixture, given))


@FORMS
class TestFormats:
    @pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
    def test_indices_of_any_integer_format(self, form, kind) -> None:
        given = arguments()
        np.testing.assert_array_equal(call(form, {**given, "indices": given["indices"].astype(kind)}), call(form, given))

    @pytest.mark.parametrize("options", ACTIVATIONS)
    def test_keeps_the_dtype_and_the_inputs(self, form, options: dict) -> None:
        given = {n: a.astype(np.float32) if n != "indices" else a for n, a in arguments((2, 3)).items()}
        before = {name: array.copy() for name, array in given.items()}
        y = call(form, given, **options)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, loop(given, **options), rtol=1e-4, atol=1e-5)
        for name, array in before.items():
            np.testing.assert_array_equal(given[name], array)

    @pytest.mark.parametrize("scale_input", [False, True])
    def test_t1_low_precision_rounds_every_step_and_sums_in_order_of_the_experts(self, form, scale_input: bool) -> None:
        # Eighths, whose products float32 holds exactly, so that the order inside a product does not matter.
        rng = np.random.default_rng(1)
        given = {
            n: np.float32(rng.integers(-16, 17, a.shape) / 8) for n, a in arguments((6,), A=3, D=4).items() if n != "indices"
        }
        given["weights"] = rng.random((6, 3)).astype(BF16).astype(np.float32)
        given["indices"] = arguments((6,), A=3)["indices"]

        def low(x: np.ndarray) -> np.ndarray:
            return np.asarray(x).astype(BF16).astype(np.float32)

        expected = np.zeros((6, 4), np.float32)
        for t, e in sorted(np.ndindex(6, 4), key=lambda place: place[1]):
            if e not in given["indices"][t]:
                continue
            share = given["weights"][t, given["indices"][t].tolist().index(e)]
            x = low(given["x"][t] * share) if scale_input else given["x"][t]
            gate, up = (low(low(given[n][e] @ x) + given[f"{n}_bias"][e]) for n in ("gate", "up"))
            product = low(low(gate / (1 + np.exp(-gate))) * up)
            output = low(low(given["down"][e] @ product) + given["down_bias"][e])
            expected[t] = low(expected[t] + (output if scale_input else low(output * share)))
        narrow = {n: low_precision(a, BF16) if n != "indices" else a for n, a in given.items()}
        y = call(form, narrow, scale_input=scale_input)
        assert isinstance(y, LowPrecision)
        np.testing.assert_array_equal(plain(y), expected)


@FORMS
class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "shape", "message"),
        [
            ("x", (), r"x has shape \(\) but needs \[..., D\]"),
            ("gate", (4, 5, 2), r"gate has shape \(4, 5, 2\) but needs \[E, F, D\] with D = 3 as in x"),
            ("up", (4, 4, 3), r"up has shape \(4, 4, 3\) but needs \[E, F, D\] with F = 5 as in gate"),
            ("down", (4, 5, 3), r"down has shape \(4, 5, 3\) but needs \[E, D, F\] with D = 3 as in x"),
            ("gate_bias", (4, 3), r"gate_bias has shape \(4, 3\) but needs \[E, F\] with F = 5 as in gate"),
            ("up_bias", (3, 5), r"up_bias has shape \(3, 5\) but needs \[E, F\] with E = 4 as in gate"),
            ("down_bias", (4, 5), r"down_bias has shape \(4, 5\) but needs \[E, D\] with D = 3 as in x"),
            ("weights", (3, 1), r"weights has shape \(3, 1\) but needs \[..., A\] with A = 2 as in indices"),
            ("weights", (2, 2), r"indices have shape \(3, 2\) and weights \(2, 2\) but x \(3, 3\) needs \(3, 2\)"),
            ("x", (2, 3), r"indices have shape \(3, 2\) and weights \(3, 2\) but x \(2, 3\) needs \(2, 2\)"),
        ],
    )
    def test_another_shape_is_one_sentence(self, form, name: str, shape: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=f"^{form.__name__}: {message}$"):
            call(form, {**arguments(), name: np.ones(shape)})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"indices": np.ones((3, 2))}, "indices has dtype float64 but needs integers"),
            ({"indices": np.full((3, 2), 4)}, r"indices range from 4 to 4 but must lie in 0 \.\. 3"),
            ({"indices": np.array([[0, 1], [2, -1], [0, 1]])}, r"indices range from -1 to 2 but must lie in 0 \.\. 3"),
            ({"weights": np.ones((3, 2), int)}, "weights has dtype int64 but needs float64 or float32"),
            ({"down": np.ones((4, 3, 5), np.float32)}, "down has dtype float32 but x has float64; they must be equal"),
            (
                {"gate": Recorded(np.ones((4, 5, 3), np.float32))},
                "gate has dtype float32 but x has float64; they must be equal",
            ),
            ({"gate": [[1.0]]}, r"gate is a list but needs a NumPy array of shape \[E, F, D\]"),
        ],
    )
    def test_other_values_are_one_sentence(self, form, change: dict, message: str) -> None:
        with pytest.raises(ValueError, match=f"^{form.__name__}: {message}"):
            call(form, {**arguments(), **change})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"activation": "relu"}, "activation is 'relu' but must be one of silu, gelu, gelu_tanh, clamped_swiglu"),
            ({"alpha": 1.0}, "alpha and limit belong to clamped_swiglu, but activation is 'silu'"),
            ({"activation": "gelu", "limit": 1.0}, "alpha and limit belong to clamped_swiglu, but activation is 'gelu'"),
            ({"activation": "clamped_swiglu", "alpha": 1.0}, "limit is None but needs a positive number"),
            ({"activation": "clamped_swiglu", "limit": 1.0}, "alpha is None but needs a finite number"),
            ({**CLAMPED, "limit": 0}, "limit is 0 but needs a positive number"),
            ({"scale_input": 1}, "scale_input is 1 but needs True or False"),
        ],
    )
    def test_other_options_are_one_sentence(self, form, options: dict, message: str) -> None:
        for shape in [(3,), (0,)]:
            with pytest.raises(ValueError, match=f"^{form.__name__}: {message}$"):
                call(form, arguments(shape), **options)

    def test_no_choices_give_zeros(self, form) -> None:
        given = arguments()
        none = {**given, "indices": given["indices"][:, :0], "weights": given["weights"][:, :0]}
        np.testing.assert_array_equal(call(form, none), np.zeros((3, 3)))
