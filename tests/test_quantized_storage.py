"""Recipes of FP8 blocks and INT4 groups: what they need on disk, that they decode as the layers do, and that writing is reading
backwards."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from refimpl.layers import fp8_block_decode, fp8_block_encode, int4_group_decode, int4_group_encode
from refimpl.quantized_storage import FP8_SCALES, INT4_SCALES, Fp8, Int4
from refimpl.storage import Leaf, Part, Stacked, Stored, Tensor
from tests.tiny import normal

F64, F32 = np.dtype(np.float64), np.dtype(np.float32)
E, F, D = 3, 5, 64  # experts, rows, columns
BLOCK = (2, 24)  # whose last ones are short in both directions
E4M3, E5M2 = ("F8_E4M3",), ("F8_E5M2",)
WORDS, SHAPES = ("I32",), ("I32", "I64")


def fp8(name: str, **options: Any) -> Fp8:
    return Fp8(Tensor(f"{name}.weight"), Tensor(f"{name}.weight_scale_inv"), BLOCK, **options)


def int4(name: str) -> Int4:
    return Int4(Tensor(f"{name}.weight_packed"), Tensor(f"{name}.weight_scale"), f"{name}.weight_shape")


# recipe -> the tensors on disk that make a parameter [E, F, D] = [3, 5, 64].
RECIPES: dict[str, tuple[Stored, dict[str, Leaf]]] = {
    "fp8": (fp8("a"), {"a.weight": Leaf((E, F, D), E4M3), "a.weight_scale_inv": Leaf((E, 3, 3), FP8_SCALES)}),
    "fp8_e5m2": (
        fp8("a", format="e5m2", scale_format="ue8m0"),
        {"a.weight": Leaf((E, F, D), E5M2), "a.weight_scale_inv": Leaf((E, 3, 3), FP8_SCALES)},
    ),
    "stacked_fp8": (
        Stacked(tuple(fp8(f"a{e}") for e in range(E))),
        {
            name: leaf
            for e in range(E)
            for name, leaf in (
                (f"a{e}.weight", Leaf((F, D), E4M3)),
                (f"a{e}.weight_scale_inv", Leaf((3, 3), FP8_SCALES)),
            )
        },
    ),
    "int4": (
        int4("a"),
        {
            "a.weight_packed": Leaf((E, F, 8), WORDS),
            "a.weight_scale": Leaf((E, F, 2), INT4_SCALES),
            "a.weight_shape": Leaf((3,), SHAPES),
        },
    ),
    "stacked_int4": (
        Stacked(tuple(int4(f"a{e}") for e in range(E))),
        {
            name: leaf
            for e in range(E)
            for name, leaf in (
                (f"a{e}.weight_packed", Leaf((F, 8), WORDS)),
                (f"a{e}.weight_scale", Leaf((F, 2), INT4_SCALES)),
                (f"a{e}.weight_shape", Leaf((2,), SHAPES)),
            )
        },
    ),
}
EVERY = pytest.mark.parametrize("name", RECIPES)


class Reader:
    """Tensors by name, with a note of which were asked for."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors, self.asked = tensors, []

    def __call__(self, name: str) -> np.ndarray:
        self.asked.append(name)
        return self.tensors[name]


def on_disk(name: str) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    RECIPES[name][0].write(normal(E, F, D, seed=4), tensors)
    return tensors


@EVERY
def test_leaves_are_the_tensors_on_disk_and_their_formats(name: str) -> None:
    recipe, leaves = RECIPES[name]
    assert recipe.leaves((E, F, D)) == leaves
    assert {key: array.shape for key, array in on_disk(name).items()} == {key: leaf.shape for key, leaf in leaves.items()}


@EVERY
def test_the_whole_is_near_to_what_was_written_and_the_entries_are_its_own(name: str) -> None:
    recipe, reader = RECIPES[name][0], Reader(on_disk(name))
    whole, written = recipe.read(reader, F64), normal(E, F, D, seed=4)
    assert set(reader.asked) == set(reader.tensors)
    assert 0 < np.abs(whole - written).max() < np.abs(written).max() / 7
    for index in range(E):
        np.testing.assert_array_equal(recipe.entry(reader, F64, index), whole[index])


@EVERY
def test_what_is_written_again_reads_the_same(name: str) -> None:
    recipe = RECIPES[name][0]
    whole = recipe.read(Reader(on_disk(name)), F64)
    tensors: dict[str, np.ndarray] = {}
    recipe.write(whole, tensors)
    np.testing.assert_array_equal(recipe.read(Reader(tensors), F64), whole)


@EVERY
@pytest.mark.parametrize("dtype", [F64, F32], ids=str)
def test_numbers_are_decoded_in_the_asked_format(name: str, dtype: np.dtype) -> None:
    recipe, reader = RECIPES[name][0], Reader(on_disk(name))
    assert recipe.read(reader, dtype).dtype == recipe.entry(reader, dtype, 1).dtype == dtype


@pytest.mark.parametrize("name", ["stacked_fp8", "stacked_int4"])
def test_an_entry_of_a_stack_reads_no_other(name: str) -> None:
    reader = Reader(on_disk(name))
    RECIPES[name][0].entry(reader, F64, 2)
    assert {key.split(".")[0] for key in reader.asked} == {"a2"}


def test_fp8_is_what_the_layer_decodes() -> None:
    weight = normal(F, D, seed=5)
    for format, scale_format in (("e4m3", "float32"), ("e5m2", "ue8m0")):
        tensors: dict[str, np.ndarray] = {}
        recipe = fp8("a", format=format, scale_format=scale_format)
        recipe.write(weight, tensors)
        values, scales = fp8_block_encode(weight, block=BLOCK, format=format, scale_format=scale_format)
        assert [array.dtype for array in tensors.values()] == [values.dtype, scales.dtype]
        expected = fp8_block_decode(values, scales, block=BLOCK, dtype=np.float64)
        np.testing.assert_array_equal(recipe.read(Reader(tensors), F64), expected)


def test_int4_is_what_the_layer_decodes() -> None:
    weight = normal(F, D, seed=5)
    tensors: dict[str, np.ndarray] = {}
    int4("a").write(weight, tensors)
    assert [array.dtype for array in tensors.values()] == [np.int32, ml_dtypes.bfloat16, np.int32]
    assert tensors["a.weight_shape"].tolist() == [F, D]
    expected = int4_group_decode(*int4_group_encode(weight), dtype=np.float64)
    np.testing.assert_array_equal(int4("a").read(Reader(tensors), F64), expected)


def test_a_part_of_a_quantised_weight_is_a_part_of_what_it_decodes_to() -> None:
    tensors: dict[str, np.ndarray] = {}
    fp8("a").write(normal(2 * F, D), tensors)
    whole = fp8("a").read(Reader(tensors), F64)
    lower = Part(source=fp8("a"), axis=-2, start=F, stop=2 * F, whole=2 * F)
    assert lower.leaves((F, D)) == fp8("a").leaves((2 * F, D))
    np.testing.assert_array_equal(lower.read(Reader(tensors), F64), whole[F:])


class TestErrors:
    @pytest.mark.parametrize("width", [8, 31, 33, 72])
    def test_rows_that_are_no_multiple_of_a_group(self, width: int) -> None:
        message = rf"^storage: INT4 needs rows of a multiple of 32 entries, but a parameter has shape \(5, {width}\)$"
        with pytest.raises(ValueError, match=message):
            int4("a").leaves((F, width))

    @pytest.mark.parametrize("said", [[D, F], [F, D - 1], [F, D, 1]])
    @pytest.mark.parametrize("dtype", [np.int32, np.int64])
    def test_a_shape_on_disk_that_is_another(self, said: list[int], dtype: Any) -> None:
        tensors: dict[str, np.ndarray] = {}
        int4("a").write(normal(F, D), tensors)
        tensors["a.weight_shape"] = np.array(said, dtype)
        message = rf"^storage: 'a.weight_shape' says \[.*\] but its weight has shape \[{F}, {D}\]$"
        with pytest.raises(ValueError, match=message):
            int4("a").read(Reader(tensors), F64)

    def test_a_shape_on_disk_of_a_stack_that_is_another(self) -> None:
        tensors = on_disk("int4")
        tensors["a.weight_shape"] = np.array([E, D, F])
        with pytest.raises(ValueError, match=rf"says \[{D}, {F}\] but its weight has shape \[{F}, {D}\]$"):
            int4("a").entry(Reader(tensors), F64, 1)

    @EVERY
    def test_numbers_that_are_not_finite(self, name: str) -> None:
        with pytest.raises(ValueError, match="must be finite"):
            RECIPES[name][0].write(np.full((E, F, D), np.nan), {})
