"""INT4 groups against exact fractions: every code at every place of a word, groups, and the rounding."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refimpl.layers import int4_group_decode, int4_group_encode
from tests.tiny import normal

BF16 = np.dtype(ml_dtypes.bfloat16)
SCALES = {"float32": np.dtype(np.float32), "bfloat16": BF16, "float16": np.dtype(np.float16)}
DTYPES = pytest.mark.parametrize("dtype", [np.dtype(np.float64), np.dtype(np.float32), BF16], ids=str)
NO_WORDS = np.zeros((5, 8), np.int32)


def pack(codes: list[int]) -> np.ndarray:
    """Codes 0 .. 15, a multiple of 8 of them, as words."""
    words = [sum(code << 4 * place for place, code in enumerate(codes[at : at + 8])) for at in range(0, len(codes), 8)]
    return np.array([word - 2**32 if word >= 2**31 else word for word in words], np.int32)


def unpack(words: np.ndarray) -> list[int]:
    return [int(word) % 2**32 // 16**place % 16 for word in words.tolist() for place in range(8)]


class TestInt4GroupDecode:
    @DTYPES
    @pytest.mark.parametrize("place", range(8))
    def test_r2_every_code_at_every_place(self, place: int, dtype: np.dtype) -> None:
        for code in range(16):
            word = pack([code if at == place else 8 for at in range(8)])
            decoded = int4_group_decode(word, np.ones(1, np.float32), group=8, dtype=dtype)
            assert decoded.dtype == dtype
            assert decoded.astype(np.float64).tolist() == [code - 8 if at == place else 0 for at in range(8)]

    def test_r1_by_hand(self) -> None:
        word = np.array([0xF0000009], np.uint32).view(np.int32)
        decoded = int4_group_decode(word, np.array([0.5], np.float32), group=8)
        assert decoded.tolist() == [0.5, -4, -4, -4, -4, -4, -4, 3.5]

    @pytest.mark.parametrize("group", [8, 16, 32, 128])
    @pytest.mark.parametrize("front", [(), (3,), (2, 3), (0,), (2, 0)])
    def test_r3_a_group_is_a_stretch_of_the_last_axis(self, front: tuple[int, ...], group: int) -> None:
        rng = np.random.default_rng(0)
        packed = rng.integers(-(2**31), 2**31, (*front, 3 * group // 8), np.int32)
        scales = rng.uniform(1, 2, (*front, 3)).astype(np.float32)
        decoded = int4_group_decode(packed, scales, group=group, dtype=np.float64)
        assert decoded.shape == (*front, 3 * group)
        for place in np.ndindex(front):
            expected = [(code - 8) * float(scales[place][column // group]) for column, code in enumerate(unpack(packed[place]))]
            assert decoded[place].tolist() == expected

    @pytest.mark.parametrize("scale", SCALES)
    def test_t1_float64_is_exact_and_float32_is_its_rounding(self, scale: str) -> None:
        codes = [*range(16)] * 2
        scales = np.array([1 / 3]).astype(SCALES[scale])
        exact = int4_group_decode(pack(codes), scales, dtype=np.float64)
        assert [Fraction(value) for value in exact.tolist()] == [(code - 8) * Fraction(float(scales[0])) for code in codes]
        single = int4_group_decode(pack(codes), scales)
        np.testing.assert_array_equal(single, exact.astype(np.float32))
        np.testing.assert_array_equal(int4_group_decode(pack(codes), scales, dtype=BF16), single.astype(BF16))

    @pytest.mark.parametrize(
        ("packed", "scales", "options", "message"),
        [
            (NO_WORDS.astype(np.int64), np.ones((5, 2), np.float32), {}, "packed has dtype int64 but needs int32"),
            (NO_WORDS, np.ones((5, 2)), {}, "scales has dtype float64 but needs one of float32, bfloat16, float16"),
            (
                NO_WORDS,
                np.ones((5, 3), np.float32),
                {},
                r"packed has shape \(5, 8\) but scales \(5, 3\) of groups of 32 need \(5, 12\)",
            ),
            (
                NO_WORDS,
                np.ones((1, 2), np.float32),
                {},
                r"packed has shape \(5, 8\) but scales \(1, 2\) of groups of 32 need \(1, 8\)",
            ),
            (NO_WORDS, np.ones((5, 2), np.float32), {"group": 12}, "group is 12 but needs a multiple of 8"),
            (NO_WORDS, np.ones((5, 2), np.float32), {"group": 0}, "group is 0 but needs a positive integer"),
            (NO_WORDS, np.ones((5, 2), np.float32), {"dtype": "float16"}, "dtype is float16 but must be one of"),
        ],
    )
    def test_bad_input_is_one_sentence(self, packed, scales, options, message: str) -> None:
        with pytest.raises(ValueError, match=f"^int4_group_decode: {message}"):
            int4_group_decode(packed, scales, **options)


class TestInt4GroupEncode:
    @pytest.mark.parametrize("scale_format", SCALES)
    @given(
        st.lists(
            st.one_of(st.floats(-8, 8), st.floats(-1e30, 1e30), st.sampled_from([0.0, 0.5, 1.5, 2.5, -3.5, 7.0])),
            min_size=8,
            max_size=8,
        )
    )
    @example([7.0, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5])
    @example([1e300, -1e300, *[1.0] * 6])
    @example([5e-324, *[0.0] * 7])
    def test_equals_the_nearest_fraction(self, scale_format: str, row: list[float]) -> None:
        packed, scales = int4_group_encode(np.array(row), group=8, scale_format=scale_format)
        assert (packed.dtype, packed.shape, scales.dtype, scales.shape) == (np.int32, (1,), SCALES[scale_format], (1,))
        scale = Fraction(float(scales[0]))
        assert unpack(packed) == [min(max(round(Fraction(x) / scale), -7), 7) + 8 for x in row]
        limits, wanted = ml_dtypes.finfo(SCALES[scale_format]), max(abs(Fraction(x)) for x in row) / 7
        if wanted == 0:
            assert scale == 1
            return
        wanted = min(max(wanted, Fraction(float(limits.smallest_normal))), Fraction(float(limits.max)))
        assert abs(scale / wanted - 1) <= Fraction(float(limits.eps)) / 2

    def test_r1_halves_go_to_the_even_number(self) -> None:
        packed, _ = int4_group_encode(np.array([7.0, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5]), group=8)
        assert unpack(packed) == [15, 8, 10, 10, 12, 8, 6, 6]

    def test_r2_a_group_of_zeros_has_scale_1(self) -> None:
        with np.errstate(all="raise"):
            packed, scales = int4_group_encode(np.concatenate([np.zeros(32), np.full(32, 14.0)]))
        assert scales.astype(float).tolist() == [1, 2]
        assert unpack(packed) == [8] * 32 + [15] * 32

    @pytest.mark.parametrize("scale_format", SCALES)
    def test_r3_what_was_decoded_encodes_to_numbers_that_decode_alike(self, scale_format: str) -> None:
        once = int4_group_decode(*int4_group_encode(normal(3, 5, 96, seed=1), scale_format=scale_format), dtype=np.float64)
        again = int4_group_decode(*int4_group_encode(once, scale_format=scale_format), dtype=np.float64)
        np.testing.assert_array_equal(again, once)

    @pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 64)])
    def test_nothing_encodes_to_nothing(self, shape: tuple[int, ...]) -> None:
        assert int4_group_decode(*int4_group_encode(np.zeros(shape))).shape == shape

    @pytest.mark.parametrize(
        ("weight", "options", "message"),
        [
            (np.full(32, np.nan), {}, "weight has entries that are NaN or infinite but must be finite"),
            (np.ones((3, 40)), {}, "weight has 40 entries in its last axis but needs a multiple of 32"),
            (np.ones(32, np.float16), {}, "weight has dtype float16 but needs float64 or float32"),
            (np.ones(32), {"scale_format": "ue8m0"}, "scale_format is 'ue8m0' but must be one of float32, bfloat16, float16"),
            (np.ones(32), {"group": 4}, "group is 4 but needs a multiple of 8"),
        ],
    )
    def test_bad_input_is_one_sentence(self, weight, options, message: str) -> None:
        with pytest.raises(ValueError, match=f"^int4_group_encode: {message}"):
            int4_group_encode(weight, **options)
