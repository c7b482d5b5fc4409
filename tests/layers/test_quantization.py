"""MXFP4 against exact fractions: every code with every scale, and the rounding of numbers in between."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refimpl.layers import mxfp4_decode, mxfp4_encode

BF16 = np.dtype(ml_dtypes.bfloat16)
FORMATS = pytest.mark.parametrize("dtype", [np.dtype(np.float64), np.dtype(np.float32), BF16], ids=str)


def code_value(code: int) -> Fraction:
    """E2M1 from its bits: sign, two of the exponent with bias 1, one of the mantissa; exponent 0 is subnormal."""
    sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
    size = Fraction(2 + mantissa, 2) * 2 ** (exponent - 1) if exponent else Fraction(mantissa, 2)
    return -size if sign else size


VALUES = [code_value(code) for code in range(8)]


def pack(codes: list[int]) -> np.ndarray:
    """32 codes as the 16 bytes of a block."""
    return np.array([codes[i] + 16 * codes[i + 1] for i in range(0, 32, 2)], np.uint8)


def unpack(block: np.ndarray) -> list[int]:
    return [code for byte in block.tolist() for code in (byte % 16, byte // 16)]


ALL_CODES = list(range(16)) * 2
EMPTY = np.zeros((2, 16), np.uint8)


def nearest(x: Fraction, scale: int) -> int:
    """The code (without sign) nearest to |x| / 2^(scale - 127); of two the even one."""
    wanted = abs(x) / Fraction(2) ** (scale - 127)
    return min(range(8), key=lambda code: (abs(VALUES[code] - wanted), code % 2))


def block_scale(block: list[float]) -> int:
    """floor(log2(max |x|)) - 2 + 127 within 0 .. 254, the logarithm by counting."""
    largest = max(abs(Fraction(x)) for x in block)
    if largest == 0:
        return 0
    exponent = 0
    while largest >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while largest < Fraction(2) ** exponent:
        exponent -= 1
    return min(max(exponent - 2 + 127, 0), 254)


class TestMxfp4Decode:
    @FORMATS
    def test_t1_every_code_with_every_scale_is_exact(self, dtype: np.dtype) -> None:
        values = mxfp4_decode(np.broadcast_to(pack(ALL_CODES), (253, 16)), np.arange(253, dtype=np.uint8), dtype=dtype)
        assert (values.dtype, values.shape) == (dtype, (253 * 32,))
        expected = [code_value(code) * Fraction(2) ** (scale - 127) for scale in range(253) for code in ALL_CODES]
        assert [Fraction(value) for value in values.astype(np.float64).tolist()] == expected

    @pytest.mark.parametrize("scale", [253, 254])
    def test_t1_beyond_the_format_a_value_is_infinite_and_float64_holds_it(self, scale: int) -> None:
        expected = [float(code_value(code)) * 2.0 ** (scale - 127) for code in ALL_CODES]
        block, scales = pack(ALL_CODES)[None], np.array([scale], np.uint8)
        assert mxfp4_decode(block, scales, dtype=np.float64).tolist() == expected
        largest = float(np.finfo(np.float32).max)
        narrow = [value if abs(value) <= largest else math.copysign(math.inf, value) for value in expected]
        for dtype in (np.float32, BF16):
            assert mxfp4_decode(block, scales, dtype=dtype).astype(np.float64).tolist() == narrow

    def test_r1_the_low_four_bits_come_first(self) -> None:
        block = np.zeros((1, 16), np.uint8)
        block[0, 0], block[0, 15] = 0x72, 0xF3
        values = mxfp4_decode(block, np.array([127], np.uint8))
        assert values[:2].tolist() == [1.0, 6.0]
        assert values[30:].tolist() == [1.5, -6.0]
        assert not values[2:30].any()

    @FORMATS
    def test_r2_a_scale_of_255_makes_its_block_nan_and_no_other(self, dtype: np.dtype) -> None:
        blocks = np.broadcast_to(pack(ALL_CODES), (3, 16))
        values = mxfp4_decode(blocks, np.array([127, 255, 127], np.uint8), dtype=dtype).astype(np.float64)
        assert np.isnan(values[32:64]).all()
        assert np.isfinite(values[:32]).all()
        assert np.isfinite(values[64:]).all()

    @FORMATS
    @pytest.mark.parametrize("scale", [0, 127, 252])
    def test_r3_code_8_is_minus_0(self, scale: int, dtype: np.dtype) -> None:
        values = mxfp4_decode(pack([0, 8] * 16)[None], np.array([scale], np.uint8), dtype=dtype)
        assert not values.any()
        assert np.signbit(values.astype(np.float64)).tolist() == [False, True] * 16

    @pytest.mark.parametrize("front", [(), (3,), (2, 3), (0,), (2, 0)])
    def test_blocks_follow_each_other_along_the_last_axis(self, front: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        blocks, scales = rng.integers(0, 256, (*front, 2, 16), np.uint8), rng.integers(100, 150, (*front, 2), np.uint8)
        values = mxfp4_decode(blocks, scales)
        assert (values.shape, values.dtype) == ((*front, 64), np.float32)
        for place in np.ndindex(front):
            expected = [
                float(code_value(code)) * 2.0 ** (int(scale) - 127)
                for block, scale in zip(blocks[place], scales[place], strict=True)
                for code in unpack(block)
            ]
            assert values[place].tolist() == expected

    @pytest.mark.parametrize(
        ("blocks", "scales", "message"),
        [
            (np.zeros((2, 16), np.int8), EMPTY[:, 0], "blocks has dtype int8 but needs uint8"),
            (EMPTY, np.zeros(2), "scales has dtype float64 but needs uint8"),
            (EMPTY[:, :8], EMPTY[:, 0], r"blocks have shape \(2, 8\) but scales \(2,\) need \(2, 16\)"),
            (EMPTY[:1], EMPTY[:, 0], r"scales has shape \(2,\) but needs \[..., N\] with N = 1 as in blocks"),
            (
                EMPTY[None],
                EMPTY[:3, :2].repeat(2, axis=0),
                r"blocks have shape \(1, 2, 16\) but scales \(4, 2\) need \(4, 2, 16\)",
            ),
            ([0] * 16, EMPTY[:, 0], "blocks is a list but needs a NumPy array"),
        ],
    )
    def test_bad_input_is_one_sentence(self, blocks, scales, message: str) -> None:
        with pytest.raises(ValueError, match=f"^mxfp4_decode: {message}"):
            mxfp4_decode(blocks, scales)

    @pytest.mark.parametrize("dtype", ["float16", "int64"])
    def test_another_format_is_one_sentence(self, dtype: str) -> None:
        with pytest.raises(ValueError, match=f"^mxfp4_decode: dtype is {dtype} but must be one of float64, float32, bfloat16$"):
            mxfp4_decode(EMPTY, EMPTY[:, 0], dtype=dtype)


# Numbers of a block whose largest is 6 at scale 2^0, so that code and value are the same thing.
TIES = {0.25: 0, 0.75: 2, 1.25: 2, 1.75: 4, 2.5: 4, 3.5: 6, 5.0: 6}


def encode_block(block: list[float], dtype: str = "float64") -> tuple[list[int], int]:
    blocks, scales = mxfp4_encode(np.array(block, dtype))
    assert (blocks.dtype, scales.dtype, blocks.shape, scales.shape) == (np.uint8, np.uint8, (1, 16), (1,))
    return unpack(blocks[0]), int(scales[0])


class TestMxfp4Encode:
    @given(
        st.lists(
            st.one_of(
                st.floats(-8, 8), st.sampled_from([0.0, -0.0, *TIES, 6.0]), st.floats(allow_nan=False, allow_infinity=False)
            ),
            min_size=32,
            max_size=32,
        )
    )
    @example([1e300] * 32)
    @example([5e-324] * 32)
    @example([2.0**-127, 2.0**-129, *[2.0**-128] * 30])
    def test_equals_the_nearest_fraction(self, block: list[float]) -> None:
        codes, scale = encode_block(block)
        assert scale == block_scale(block)
        expected = [nearest(Fraction(x), scale) + (8 if math.copysign(1, x) < 0 else 0) for x in block]
        assert codes == expected

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("exponent", [-120, 0, 100])
    def test_r1_of_two_nearest_codes_the_even_one_is_taken(self, exponent: int, dtype: str) -> None:
        block = [6.0, *TIES, *[-x for x in TIES], *[0.0] * 17]
        codes, scale = encode_block([x * 2.0**exponent for x in block], dtype)
        assert scale == 127 + exponent
        assert codes == [7, *TIES.values(), *[8 + code for code in TIES.values()], *[0] * 17]

    @pytest.mark.parametrize("side", [-1, 1])
    def test_r1_beside_a_tie_the_nearer_code_is_taken(self, side: int) -> None:
        beside = [math.nextafter(x, side * math.inf) for x in TIES]
        codes, _ = encode_block([6.0, *beside, *[0.0] * 24])
        assert codes[1:8] == [lower + (side > 0) for lower in range(7)]

    def test_r1_beyond_6_the_largest_is_taken(self) -> None:
        assert encode_block([7.99, -7.0, 6.5, *[0.0] * 29]) == ([7, 15, 7, *[0] * 29], 127)

    def test_r1_beyond_the_largest_scale_too(self) -> None:
        codes, scale = encode_block([1e300, -1e300, 6 * 2.0**127, 2.0**127, *[0.0] * 28])
        assert scale == 254
        assert codes[:4] == [7, 15, 7, 2]

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_r2_a_block_of_zeros_has_scale_0_and_keeps_its_signs(self, dtype: str) -> None:
        assert encode_block([0.0, -0.0] * 16, dtype) == ([0, 8] * 16, 0)

    def test_r2_zeros_do_not_disturb_their_neighbours(self) -> None:
        x = np.concatenate([np.zeros(32), np.full(32, 3.0)])
        blocks, scales = mxfp4_encode(x)
        assert scales.tolist() == [0, 126]
        np.testing.assert_array_equal(mxfp4_decode(blocks, scales), x)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @given(block=st.lists(st.integers(0, 15), min_size=32, max_size=32), scale=st.integers(0, 252))
    @example(block=[1, *[0] * 31], scale=0)
    @example(block=[9, *[8] * 31], scale=0)
    @example(block=[3, 9, *[0] * 30], scale=1)
    def test_r3_decoded_blocks_encode_to_numbers_that_decode_alike(self, block: list[int], scale: int, dtype: str) -> None:
        values = mxfp4_decode(pack(block)[None], np.array([scale], np.uint8), dtype=dtype)
        again = mxfp4_decode(*mxfp4_encode(values), dtype=dtype)
        np.testing.assert_array_equal(again, values)
        np.testing.assert_array_equal(np.signbit(again), np.signbit(values))

    @pytest.mark.parametrize("codes", [ALL_CODES, [1, 2] * 16, [0, 9] * 16, [4, 3] * 16])
    def test_r3_holds_for_every_scale(self, codes: list[int]) -> None:
        blocks, scales = np.broadcast_to(pack(codes), (255, 16)), np.arange(255, dtype=np.uint8)
        values = mxfp4_decode(blocks, scales, dtype=np.float64)
        np.testing.assert_array_equal(mxfp4_decode(*mxfp4_encode(values), dtype=np.float64), values)

    @pytest.mark.parametrize("shape", [(64,), (3, 32), (2, 3, 96), (0, 64), (2, 0, 32), (2, 0)])
    def test_rows_are_split_into_blocks_of_32(self, shape: tuple[int, ...]) -> None:
        x = np.random.default_rng(0).standard_normal(shape) * 2.0 ** np.arange(-16, shape[-1] - 16)
        blocks, scales = mxfp4_encode(x)
        assert blocks.shape == (*shape[:-1], shape[-1] // 32, 16)
        assert scales.shape == blocks.shape[:-1]
        rows = x.reshape(*scales.shape, 32)
        for place in np.ndindex(scales.shape):
            expected = mxfp4_encode(rows[place])
            np.testing.assert_array_equal(blocks[place], expected[0][0])
            assert scales[place] == expected[1][0]

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (np.ones(31), "x has 31 entries in its last axis but needs a multiple of 32"),
            (np.full(32, np.nan), "x has entries that are NaN or infinite but must be finite"),
            (np.full(32, -np.inf), "x has entries that are NaN or infinite but must be finite"),
            (np.ones(32, int), "x has dtype int64 but needs float64 or float32"),
            (np.ones(()), r"x has shape \(\) but needs \[..., D\]"),
            ([1.0] * 32, "x is a list but needs a NumPy array"),
        ],
    )
    def test_bad_input_is_one_sentence(self, x, message: str) -> None:
        with pytest.raises(ValueError, match=f"^mxfp4_encode: {message}"):
            mxfp4_encode(x)
