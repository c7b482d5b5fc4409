"""FP8 blocks against exact fractions: every code of both formats, every scale of UE8M0, ragged blocks, and the rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refimpl.layers import fp8_block_decode, fp8_block_encode
from tests.tiny import normal

BF16 = np.dtype(ml_dtypes.bfloat16)
STORED = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
SCALES = {"float32": np.float32, "bfloat16": BF16, "ue8m0": ml_dtypes.float8_e8m0fnu}
MANTISSA, BIAS, LARGEST = {"e4m3": 3, "e5m2": 2}, {"e4m3": 7, "e5m2": 15}, {"e4m3": 448, "e5m2": 57344}
DTYPES = pytest.mark.parametrize("dtype", [np.dtype(np.float64), np.dtype(np.float32), BF16], ids=str)
FORMATS = pytest.mark.parametrize("format", STORED)


def code_value(code: int, format: str) -> Fraction | float:
    """A number from its bits: sign, exponent, mantissa; exponent 0 is subnormal."""
    bits = MANTISSA[format]
    sign, exponent, mantissa = code >> 7, code >> bits & (1 << 7 - bits) - 1, code & (1 << bits) - 1
    if format == "e4m3" and (exponent, mantissa) == (15, 7):
        return math.nan
    if format == "e5m2" and exponent == 31:
        return math.nan if mantissa else math.inf * (1 - 2 * sign)
    size = Fraction(2**bits + mantissa if exponent else mantissa, 2**bits) * Fraction(2) ** (max(exponent, 1) - BIAS[format])
    return -size if sign else size


def finite_codes(format: str) -> list[int]:
    return [code for code in range(256) if isinstance(code_value(code, format), Fraction)]


def as_values(codes: list[int] | np.ndarray, format: str) -> np.ndarray:
    return np.array(codes, np.uint8).view(STORED[format])


def spread(scales: np.ndarray, rows: int, columns: int, block: tuple[int, int]) -> np.ndarray:
    """The scale of every entry of a matrix, one by one."""
    return np.array([[float(scales[r // block[0], c // block[1]]) for c in range(columns)] for r in range(rows)])


class TestFp8BlockDecode:
    @DTYPES
    @FORMATS
    def test_r5_every_code(self, format: str, dtype: np.dtype) -> None:
        values = as_values(np.arange(256).reshape(2, 128), format)
        decoded = fp8_block_decode(values, np.ones((1, 1), np.float32), block=(2, 128), dtype=dtype)
        expected = [float(code_value(code, format)) for code in range(256)]
        assert decoded.dtype == dtype
        np.testing.assert_array_equal(decoded.astype(np.float64).ravel(), expected)
        np.testing.assert_array_equal(np.signbit(decoded.astype(np.float64)).ravel()[[0, 128]], [False, True])

    @DTYPES
    def test_r4_every_scale_of_ue8m0(self, dtype: np.dtype) -> None:
        scales = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu)[:, None]
        values = as_values([0x38, 0xB8], "e4m3")[None].repeat(256, axis=0)  # 1 and -1
        decoded = fp8_block_decode(values, scales, block=(1, 2), dtype=dtype).astype(np.float64)
        powers = np.array([2.0 ** (byte - 127) for byte in range(255)] + [math.nan])
        np.testing.assert_array_equal(decoded, np.stack([powers, -powers], axis=-1))

    def test_r1_the_scale_is_multiplied(self) -> None:
        decoded = fp8_block_decode(as_values([[0x40, 0xC8]], "e4m3"), np.array([[0.375]], np.float32))  # 2 and -4
        assert decoded.tolist() == [[0.75, -1.5]]

    @pytest.mark.parametrize("block", [(2, 3), (4, 5), (1, 1), (3, 128), (128, 2), (16, 16)])
    @pytest.mark.parametrize("shape", [(1, 1), (7, 11), (8, 9), (17, 5)])
    def test_r2_the_last_blocks_may_be_short(self, shape: tuple[int, int], block: tuple[int, int]) -> None:
        rng = np.random.default_rng(3)
        values = as_values(rng.integers(0, 127, shape), "e4m3")
        counts = [-(-size // of) for size, of in zip(shape, block, strict=True)]
        scales = (1 + np.arange(math.prod(counts)).reshape(counts) / 64).astype(np.float32)
        expected = values.astype(np.float64) * spread(scales, *shape, block)
        np.testing.assert_array_equal(fp8_block_decode(values, scales, block=block, dtype=np.float64), expected)

    def test_r2_a_thousand_rows_and_eight_scales(self) -> None:
        scales = np.arange(1, 9, dtype=np.float32)[:, None]
        decoded = fp8_block_decode(np.ones((1000, 1), ml_dtypes.float8_e4m3fn), scales)
        assert [int(decoded[row, 0]) for row in (0, 125, 127, 128, 895, 896, 999)] == [1, 1, 1, 2, 7, 8, 8]

    @pytest.mark.parametrize("front", [(3,), (2, 3), (0,), (2, 0)])
    def test_r3_each_matrix_of_a_stack_has_blocks_of_its_own(self, front: tuple[int, ...]) -> None:
        rng = np.random.default_rng(4)
        values = as_values(rng.integers(0, 127, (*front, 5, 7)), "e4m3")
        scales = rng.uniform(1, 2, (*front, 3, 2)).astype(np.float32)
        decoded = fp8_block_decode(values, scales, block=(2, 4))
        assert decoded.shape == (*front, 5, 7)
        for place in np.ndindex(front):
            np.testing.assert_array_equal(decoded[place], fp8_block_decode(values[place], scales[place], block=(2, 4)))

    @pytest.mark.parametrize("scale", SCALES)
    def test_t1_float64_is_exact_and_float32_is_its_rounding(self, scale: str) -> None:
        codes = finite_codes("e4m3")
        scales = np.array([[1 / 3]]).astype(SCALES[scale])
        values = as_values([codes], "e4m3")
        exact = fp8_block_decode(values, scales, block=(1, 256), dtype=np.float64)[0]
        factor = Fraction(float(scales[0, 0]))
        assert [Fraction(value) for value in exact.tolist()] == [code_value(code, "e4m3") * factor for code in codes]
        single = fp8_block_decode(values, scales, block=(1, 256))[0]
        np.testing.assert_array_equal(single, exact.astype(np.float32))
        narrow = fp8_block_decode(values, scales, block=(1, 256), dtype=BF16)[0]
        np.testing.assert_array_equal(narrow, single.astype(BF16))

    def test_t1_beyond_the_format_a_value_is_infinite_and_float64_holds_it(self) -> None:
        values, scales = as_values([[0x7E, 0xFE, 0]], "e4m3"), np.array([[3e38]], np.float32)
        with np.errstate(all="raise"):
            assert fp8_block_decode(values, scales).tolist() == [[math.inf, -math.inf, 0]]
            np.testing.assert_array_equal(fp8_block_decode(values, scales, dtype=np.float64)[0, :2] / scales[0], [448, -448])

    @pytest.mark.parametrize(
        ("values", "scales", "options", "message"),
        [
            (np.ones((3, 4)), np.ones((1, 1)), {}, "values has dtype float64 but needs one of float8_e4m3fn, float8_e5m2"),
            (
                as_values([[1]], "e4m3"),
                np.ones((1, 1)),
                {},
                "scales has dtype float64 but needs one of float32, bfloat16, float8_e8m0fnu",
            ),
            (as_values([1], "e4m3"), np.ones((1, 1), np.float32), {}, r"values has shape \(1,\) but needs \[..., O, I\]"),
            (
                as_values([[1] * 9] * 10, "e4m3"),
                np.ones((3, 1), np.float32),
                {"block": (4, 8)},
                r"scales have shape \(3, 1\) but values \(10, 9\) in blocks of \(4, 8\) need \(3, 2\)",
            ),
            (
                as_values([[[1]]] * 2, "e4m3"),
                np.ones((1, 1), np.float32),
                {},
                r"scales have shape \(1, 1\) but values \(2, 1, 1\) in blocks of \(128, 128\) need \(2, 1, 1\)",
            ),
            (as_values([[1]], "e4m3"), np.ones((1, 1), np.float32), {"block": 128}, "block is 128 but needs a pair"),
            (
                as_values([[1]], "e4m3"),
                np.ones((1, 1), np.float32),
                {"block": (128, 0)},
                "columns is 0 but needs a positive integer",
            ),
            (
                as_values([[1]], "e4m3"),
                np.ones((1, 1), np.float32),
                {"dtype": np.float16},
                "dtype is float16 but must be one of",
            ),
        ],
    )
    def test_bad_input_is_one_sentence(self, values, scales, options, message: str) -> None:
        with pytest.raises(ValueError, match=f"^fp8_block_decode: {message}"):
            fp8_block_decode(values, scales, **options)


def nearest(x: Fraction, format: str) -> Fraction:
    """The number nearest to |x|; of two the one of the even code; beyond the largest the largest."""
    codes = [code for code in finite_codes(format) if code < 128]
    return code_value(min(codes, key=lambda code: (abs(code_value(code, format) - abs(x)), code % 2)), format)


class TestFp8BlockEncode:
    @FORMATS
    @pytest.mark.parametrize("scale_format", SCALES)
    @given(
        row=st.lists(
            st.one_of(st.floats(-500, 500), st.floats(-1e30, 1e30), st.sampled_from([0.0, -0.0, 1.0, 448.0, 2.0**-20])),
            min_size=1,
            max_size=6,
        )
    )
    @example(row=[1e300, -1e300])
    @example(row=[5e-324])
    @example(row=[448.0, 17.0, 19.0, -18.0, 2.0**-10, 3 * 2.0**-10])
    def test_r1_equals_the_nearest_fraction(self, scale_format: str, format: str, row: list[float]) -> None:
        values, scales = fp8_block_encode(np.array([row]), format=format, scale_format=scale_format)
        assert (values.dtype, scales.dtype, scales.shape) == (STORED[format], SCALES[scale_format], (1, 1))
        scale = Fraction(float(scales[0, 0]))
        assert [abs(Fraction(value)) for value in values[0].astype(float).tolist()] == [
            nearest(Fraction(x) / scale, format) for x in row
        ]
        np.testing.assert_array_equal(np.signbit(values.astype(float)[0]), np.signbit(row))
        self.check_scale(scale, max(abs(Fraction(x)) for x in row) / LARGEST[format], scale_format)

    @staticmethod
    def check_scale(scale: Fraction, wanted: Fraction, scale_format: str) -> None:
        """As wanted, within the bounds of R2, to the precision of its format."""
        if wanted == 0:
            assert scale == 1
            return
        wanted = min(max(wanted, Fraction(2) ** -126), Fraction(2) ** 127)
        if scale_format == "ue8m0":
            assert scale / 2 < wanted <= scale
        else:
            assert abs(scale / wanted - 1) <= Fraction(2) ** -(24 if scale_format == "float32" else 8)

    @FORMATS
    @pytest.mark.parametrize("scale_format", SCALES)
    def test_r2_a_block_of_zeros(self, scale_format: str, format: str) -> None:
        with np.errstate(all="raise"):
            values, scales = fp8_block_encode(
                np.array([[0.0, -0.0, 3.0]]), block=(1, 2), format=format, scale_format=scale_format
            )
        assert float(scales[0, 0]) == 1
        assert values.view(np.uint8)[0, :2].tolist() == [0, 128]
        np.testing.assert_array_equal(fp8_block_decode(values, scales, block=(1, 2), dtype=np.float64)[0, :2], [0, 0])

    def test_r3_what_lies_beyond_the_edge_counts_for_nothing(self) -> None:
        weight = normal(5, 7, seed=1)
        _, scales = fp8_block_encode(weight, block=(2, 4), scale_format="float32")
        largest = [[np.abs(weight[r : r + 2, c : c + 4]).max() for c in (0, 4)] for r in (0, 2, 4)]
        np.testing.assert_array_equal(scales, (np.array(largest) / 448).astype(np.float32))

    def test_r3_each_matrix_of_a_stack_is_encoded_by_itself(self) -> None:
        stack = normal(3, 5, 7, seed=2) * np.array([1, 10, 100])[:, None, None]
        values, scales = fp8_block_encode(stack, block=(2, 4))
        for index, matrix in enumerate(stack):
            alone = fp8_block_encode(matrix, block=(2, 4))
            np.testing.assert_array_equal(values[index].view(np.uint8), alone[0].view(np.uint8))
            np.testing.assert_array_equal(scales[index], alone[1])

    @FORMATS
    @pytest.mark.parametrize("scale_format", SCALES)
    @pytest.mark.parametrize("magnitude", [1e-45, 1e-3, 1.0, 1e37])
    def test_r4_what_was_decoded_encodes_to_numbers_that_decode_alike(
        self, magnitude: float, scale_format: str, format: str
    ) -> None:
        options = {"block": (4, 3), "format": format, "scale_format": scale_format}
        encoded = fp8_block_encode(normal(9, 11, seed=3) * magnitude, **options)
        once = fp8_block_decode(*encoded, block=(4, 3), dtype=np.float64)
        again = fp8_block_decode(*fp8_block_encode(once, **options), block=(4, 3), dtype=np.float64)
        np.testing.assert_array_equal(again, once)

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3)])
    def test_nothing_encodes_to_nothing(self, shape: tuple[int, ...]) -> None:
        encoded = fp8_block_encode(np.zeros(shape), block=(2, 2))
        assert fp8_block_decode(*encoded, block=(2, 2)).shape == shape

    @pytest.mark.parametrize(
        ("weight", "options", "message"),
        [
            (np.array([[1.0, np.inf]]), {}, "weight has entries that are NaN or infinite but must be finite"),
            (np.ones(3), {}, r"weight has shape \(3,\) but needs \[..., O, I\]"),
            (np.ones((2, 3), np.float16), {}, "weight has dtype float16 but needs float64 or float32"),
            (np.ones((2, 3)), {"format": "e3m4"}, "format is 'e3m4' but must be one of e4m3, e5m2"),
            (np.ones((2, 3)), {"scale_format": "e8"}, "scale_format is 'e8' but must be one of float32, bfloat16, ue8m0"),
            (np.ones((2, 3)), {"block": (0, 4)}, "rows is 0 but needs a positive integer"),
        ],
    )
    def test_bad_input_is_one_sentence(self, weight, options, message: str) -> None:
        with pytest.raises(ValueError, match=f"^fp8_block_encode: {message}"):
            fp8_block_encode(weight, **options)
