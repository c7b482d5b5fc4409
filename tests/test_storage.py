"""Recipes: what they need on disk, what they make of it whole and entry by entry, and that writing is reading backwards."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from refimpl.layers import mxfp4_decode
from refimpl.quantized_storage import STORED_BYTES, Mxfp4
from refimpl.storage import (
    STORED_FLOATS,
    Joined,
    Layout,
    Leaf,
    Part,
    Sharded,
    Squeezed,
    Stacked,
    Stored,
    Tensor,
    Transposed,
)
from tests.tiny import normal

F64 = np.dtype(np.float64)
E, F, D = 3, 5, 64  # experts, rows, columns

GATE_UP = Tensor("gate_up")
BYTES = {"blocks": Tensor("blocks"), "scales": Tensor("scales")}


def part(source: Stored, axis: int, start: int, stop: int, step: int, whole: int) -> Part:
    return Part(source=source, axis=axis, start=start, stop=stop, step=step, whole=whole)


def fused_columns(first: int) -> Transposed:
    return Transposed(part(GATE_UP, -1, first, 2 * F, 2, 2 * F))


def fused_mxfp4(first: int) -> Mxfp4:
    parts = (part(BYTES[name], axis, first, 2 * F, 2, 2 * F) for name, axis in (("blocks", -3), ("scales", -2)))
    return Mxfp4(*parts)


# recipe -> the tensors on disk that make a parameter [E, F, D] = [3, 5, 64].
RECIPES: dict[str, tuple[Stored, dict[str, tuple[int, ...]]]] = {
    "tensor": (Tensor("w"), {"w": (E, F, D)}),
    "transposed": (Transposed(Tensor("w")), {"w": (E, D, F)}),
    "rows": (part(Tensor("w"), -2, F, 2 * F, 1, 2 * F), {"w": (E, 2 * F, D)}),
    "every_third_row": (part(Tensor("w"), -2, 1, 3 * F, 3, 3 * F), {"w": (E, 3 * F, D)}),
    "some_columns": (part(Tensor("w"), -1, 2, 2 + D, 1, D + 9), {"w": (E, F, D + 9)}),
    "fused_columns": (fused_columns(1), {"gate_up": (E, D, 2 * F)}),
    "part_of_a_transposed": (part(Transposed(Tensor("w")), -2, 0, F, 1, F + 4), {"w": (E, D, F + 4)}),
    "stacked": (Stacked(tuple(Tensor(f"w{e}") for e in range(E))), {f"w{e}": (F, D) for e in range(E)}),
    "stacked_transposed": (
        Stacked(tuple(Transposed(Tensor(f"w{e}")) for e in range(E))),
        {f"w{e}": (D, F) for e in range(E)},
    ),
    "joined_columns": (Joined(tuple(map(Tensor, "abcd")), -1), dict.fromkeys("abcd", (E, F, D // 4))),
    "sharded": (Sharded("w", -1), {"w": (E, F, D)}),
    "squeezed": (Squeezed(source=Tensor("w"), axes=(-2,)), {"w": (E, F, 1, D)}),
    "squeezed_around": (Squeezed(source=Tensor("w"), axes=(-6, -5, -2)), {"w": (1, 1, E, F, 1, D)}),
    "squeezed_transposed": (Squeezed(source=Transposed(Tensor("w")), axes=(-4,)), {"w": (1, E, D, F)}),
    "transposed_squeezed": (Transposed(Squeezed(source=Tensor("w"), axes=(-1,))), {"w": (E, D, F, 1)}),
    "joined_squeezed": (
        Joined(tuple(Squeezed(source=Tensor(name), axes=(-2,)) for name in "abcd"), -1),
        dict.fromkeys("abcd", (E, F, 1, D // 4)),
    ),
    "joined_rows": (Joined((Tensor("a"),), -2), {"a": (E, F, D)}),
    "stacked_joined": (
        Stacked(tuple(Joined((Tensor(f"a{e}"), Tensor(f"b{e}")), -1) for e in range(E))),
        {f"{name}{e}": (F, D // 2) for name in "ab" for e in range(E)},
    ),
    "mxfp4": (Mxfp4(**BYTES), {"blocks": (E, F, 2, 16), "scales": (E, F, 2)}),
    "fused_mxfp4": (fused_mxfp4(1), {"blocks": (E, 2 * F, 2, 16), "scales": (E, 2 * F, 2)}),
    "stacked_mxfp4": (
        Stacked(tuple(Mxfp4(Tensor(f"b{e}"), Tensor(f"s{e}")) for e in range(E))),
        {f"{name}{e}": shape for e in range(E) for name, shape in (("b", (F, 2, 16)), ("s", (F, 2)))},
    ),
}
EVERY = pytest.mark.parametrize("name", RECIPES)


def is_bytes(name: str) -> bool:
    return "mxfp4" in name


def on_disk(name: str) -> dict[str, np.ndarray]:
    """Random tensors of the shapes that a recipe needs."""
    generator = np.random.default_rng(len(name))
    shapes = RECIPES[name][1]
    if is_bytes(name):
        return {key: generator.integers(100, 150, shape, dtype=np.uint8) for key, shape in shapes.items()}
    return {key: generator.standard_normal(shape) for key, shape in shapes.items()}


class Reader:
    """Tensors by name, with a note of which were asked for."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors, self.asked = tensors, []

    def __call__(self, name: str) -> np.ndarray:
        self.asked.append(name)
        return self.tensors[name]


@EVERY
def test_leaves_are_the_tensors_on_disk_and_their_formats(name: str) -> None:
    recipe, shapes = RECIPES[name]
    formats = STORED_BYTES if is_bytes(name) else STORED_FLOATS
    assert recipe.leaves((E, F, D)) == {key: Leaf(shape, formats) for key, shape in shapes.items()}


@EVERY
def test_the_whole_has_its_shape_and_the_entries_are_its_own(name: str) -> None:
    recipe, reader = RECIPES[name][0], Reader(on_disk(name))
    whole = recipe.read(reader, F64)
    assert whole.shape == (E, F, D)
    assert set(reader.asked) == set(reader.tensors)
    for index in range(E):
        np.testing.assert_array_equal(recipe.entry(reader, F64, index), whole[index])


@EVERY
def test_what_is_written_reads_the_same(name: str) -> None:
    recipe = RECIPES[name][0]
    whole = recipe.read(Reader(on_disk(name)), F64)
    tensors: dict[str, np.ndarray] = {}
    recipe.write(whole, tensors)
    assert {key: array.shape for key, array in tensors.items()} == RECIPES[name][1]
    np.testing.assert_array_equal(recipe.read(Reader(tensors), F64), whole)


@pytest.mark.parametrize("name", [name for name in RECIPES if not is_bytes(name)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_floats_keep_their_stored_format(name: str, dtype: Any) -> None:
    recipe = RECIPES[name][0]
    tensors = {key: array.astype(dtype) for key, array in on_disk(name).items()}
    assert recipe.read(Reader(tensors), F64).dtype == recipe.entry(Reader(tensors), F64, 1).dtype == dtype
    written: dict[str, np.ndarray] = {}
    recipe.write(recipe.read(Reader(tensors), F64), written)
    assert {array.dtype for array in written.values()} == {np.dtype(dtype)}


@pytest.mark.parametrize("name", [name for name in RECIPES if is_bytes(name)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bytes_are_decoded_in_the_asked_format(name: str, dtype: Any) -> None:
    recipe, reader = RECIPES[name][0], Reader(on_disk(name))
    assert recipe.read(reader, np.dtype(dtype)).dtype == recipe.entry(reader, np.dtype(dtype), 1).dtype == dtype


class TestMeaning:
    """By hand, on numbers that say where they are from."""

    def test_a_transposed_matrix(self) -> None:
        tensors = {"w": np.arange(6).reshape(2, 3)}
        np.testing.assert_array_equal(Transposed(Tensor("w")).read(Reader(tensors), F64), [[0, 3], [1, 4], [2, 5]])

    @pytest.mark.parametrize(
        ("start", "stop", "step", "expected"),
        [(0, 3, 1, [0, 1, 2]), (3, 6, 1, [3, 4, 5]), (0, 6, 2, [0, 2, 4]), (1, 6, 2, [1, 3, 5])],
    )
    def test_a_part_of_a_fused_vector(self, start: int, stop: int, step: int, expected: list[int]) -> None:
        recipe = part(Tensor("b"), -1, start, stop, step, 6)
        np.testing.assert_array_equal(recipe.read(Reader({"b": np.arange(6)}), F64), expected)

    def test_a_part_of_each_of_several_fused_vectors(self) -> None:
        recipe, tensors = part(Tensor("b"), -1, 1, 4, 2, 4), {"b": np.arange(8).reshape(2, 4)}
        np.testing.assert_array_equal(recipe.read(Reader(tensors), F64), [[1, 3], [5, 7]])
        np.testing.assert_array_equal(recipe.entry(Reader(tensors), F64, 1), [5, 7])

    def test_shares_are_joined_in_order(self) -> None:
        tensors = {"a": np.array([[1, 2]]), "b": np.array([[3, 4]])}
        np.testing.assert_array_equal(Joined((Tensor("a"), Tensor("b")), -1).read(Reader(tensors), F64), [[1, 2, 3, 4]])
        np.testing.assert_array_equal(Joined((Tensor("b"), Tensor("a")), -2).read(Reader(tensors), F64), [[3, 4], [1, 2]])

    def test_axes_of_size_one_are_left_out(self) -> None:
        stored = np.arange(3).reshape(1, 1, 3, 1)
        recipe = Squeezed(source=Tensor("a"), axes=(-4, -3, -1))
        np.testing.assert_array_equal(recipe.read(Reader({"a": stored}), F64), [0, 1, 2])
        assert recipe.entry(Reader({"a": stored}), F64, 2) == 2
        tensors: dict[str, np.ndarray] = {}
        recipe.write(np.array([5, 6, 7]), tensors)
        assert tensors["a"].tolist() == [[[[5], [6], [7]]]]

    def test_four_bits_are_decoded_row_by_row(self) -> None:
        tensors = on_disk("fused_mxfp4")
        expected = mxfp4_decode(tensors["blocks"], tensors["scales"], dtype=np.float64)
        for first in range(2):
            np.testing.assert_array_equal(fused_mxfp4(first).read(Reader(tensors), F64), expected[:, first::2])


class TestSplit:
    """A checkpoint whose tensor "w" lies in two slices."""

    SLICES = {"w": ("w@0", "w@1")}  # noqa: RUF012
    JOINED = Joined((Tensor("w@0"), Tensor("w@1")), -2)

    def test_a_tensor_that_may_be_split_is_joined(self) -> None:
        assert Sharded("w", -2).split(self.SLICES) == self.JOINED

    def test_a_tensor_that_is_not_split_stays_whole(self) -> None:
        assert Sharded("v", -2).split(self.SLICES) == Tensor("v")

    def test_a_recipe_that_knows_no_slices_stays_as_it_is(self) -> None:
        for recipe in (Tensor("w"), Transposed(Tensor("w")), Mxfp4(**BYTES), self.JOINED):
            assert recipe.split(self.SLICES) is recipe

    def test_recipes_inside_others_are_split(self) -> None:
        stack, whole = Stacked((Sharded("w", -2), Sharded("v", -2))), part(Sharded("w", -2), -2, 0, F, 1, 2 * F)
        assert stack.split(self.SLICES) == Stacked((self.JOINED, Tensor("v")))
        assert whole.split(self.SLICES) == part(self.JOINED, -2, 0, F, 1, 2 * F)

    def test_a_layout_splits_every_parameter(self) -> None:
        layout = Layout(sources={"a": Sharded("w", -2), "b": Tensor("v")}, ignored=("x",))
        expected = Layout(sources={"a": self.JOINED, "b": Tensor("v")}, ignored=("x",))
        assert layout.split(self.SLICES) == expected


class TestEntries:
    def test_a_stack_reads_no_other_entry(self) -> None:
        recipe, reader = RECIPES["stacked"][0], Reader(on_disk("stacked"))
        recipe.entry(reader, F64, 2)
        assert reader.asked == ["w2"]

    @pytest.mark.parametrize("name", ["tensor", "transposed", "fused_columns", "every_third_row", "joined_columns"])
    def test_an_entry_of_one_tensor_is_sliced_before_anything_is_copied(self, name: str) -> None:
        class Sliced:
            def __init__(self, array: np.ndarray) -> None:
                self.array = array

            def __getitem__(self, index: int) -> np.ndarray:
                return self.array[index]

        recipe, tensors = RECIPES[name][0], on_disk(name)
        entry = recipe.entry(lambda key: Sliced(tensors[key]), F64, 1)  # type: ignore[arg-type, return-value]
        np.testing.assert_array_equal(entry, recipe.read(Reader(tensors), F64)[1])


class TestWriting:
    def test_the_parts_of_a_fused_tensor_fill_it_in_any_order(self) -> None:
        gate, up = normal(E, F, D, seed=1), normal(E, F, D, seed=2)
        tensors: dict[str, np.ndarray] = {}
        fused_columns(1).write(up, tensors)
        fused_columns(0).write(gate, tensors)
        assert list(tensors) == ["gate_up"]
        np.testing.assert_array_equal(tensors["gate_up"][..., 0::2], gate.swapaxes(1, 2))
        np.testing.assert_array_equal(tensors["gate_up"][..., 1::2], up.swapaxes(1, 2))

    def test_the_parts_of_fused_blocks_fill_them(self) -> None:
        first, second = (fused_mxfp4(row).read(Reader(on_disk("fused_mxfp4")), F64) for row in range(2))
        tensors: dict[str, np.ndarray] = {}
        fused_mxfp4(1).write(second, tensors)
        fused_mxfp4(0).write(first, tensors)
        assert {array.dtype for array in tensors.values()} == {np.dtype(np.uint8)}
        for row, expected in enumerate((first, second)):
            np.testing.assert_array_equal(fused_mxfp4(row).read(Reader(tensors), F64), expected)

    @pytest.mark.parametrize("source", [RECIPES["stacked"][0], RECIPES["joined_rows"][0], RECIPES["mxfp4"][0]])
    def test_a_part_of_what_is_no_single_tensor_is_one_sentence(self, source: Stored) -> None:
        with pytest.raises(ValueError, match=f"^a part of a {type(source).__name__} cannot be written by itself$"):
            part(source, -2, 0, F, 1, 2 * F).write(normal(E, F, D), {})


class TestErrors:
    @pytest.mark.parametrize("width", [1, 31, 33, 48])
    def test_rows_that_are_no_multiple_of_a_block(self, width: int) -> None:
        message = rf"^storage: MXFP4 needs rows of a multiple of 32 entries, but a parameter has shape \(3, 5, {width}\)$"
        with pytest.raises(ValueError, match=message):
            Mxfp4(**BYTES).leaves((E, F, width))

    def test_ranks_that_cannot_share(self) -> None:
        with pytest.raises(ValueError, match=r"^storage: 4 ranks cannot share 5 entries of a weight equally$"):
            Joined(tuple(map(Tensor, "abcd")), -2).leaves((E, F, D))

    def test_a_stack_of_another_length_is_not_written(self) -> None:
        with pytest.raises(ValueError, match=r"shorter|longer"):
            RECIPES["stacked"][0].write(normal(E + 1, F, D), {})

    def test_numbers_that_four_bits_cannot_hold(self) -> None:
        with pytest.raises(ValueError, match="must be finite"):
            Mxfp4(**BYTES).write(np.full((E, F, D), np.inf), {})


class TestLayout:
    LAYOUT = Layout(
        sources={"gate": fused_columns(0), "up": fused_columns(1), "down": Tensor("down")},
        ignored=("*.bias", "vision.*"),
    )

    def test_leaves_are_those_of_all_parameters_each_once(self) -> None:
        shapes = {"gate": (E, F, D), "up": (E, F, D), "down": (E, D, F)}
        assert self.LAYOUT.leaves(shapes) == {"gate_up": Leaf((E, D, 2 * F)), "down": Leaf((E, D, F))}

    @pytest.mark.parametrize(
        ("name", "ignored"), [("layers.0.bias", True), ("vision.x.weight", True), ("a.vision.x", False), ("bias", False)]
    )
    def test_patterns_say_what_is_no_parameter(self, name: str, ignored: bool) -> None:
        assert self.LAYOUT.ignores(name) is ignored

    def test_what_is_written_reads_the_same(self) -> None:
        arrays = {"gate": normal(E, F, D, seed=1), "up": normal(E, F, D, seed=2), "down": normal(E, D, F, seed=3)}
        tensors = self.LAYOUT.write(arrays)
        assert set(tensors) == {"gate_up", "down"}
        for name, array in arrays.items():
            np.testing.assert_array_equal(self.LAYOUT.sources[name].read(Reader(tensors), F64), array)
