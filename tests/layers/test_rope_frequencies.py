"""Rotary frequencies and their scalings against closed forms and the numbers of the releases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refimpl.layers import (
    grok_yarn_rope_frequencies,
    linear_rope_frequencies,
    llama3_rope_frequencies,
    rope_frequencies,
    theta_scaled_rope_frequencies,
    yarn_attention_factor,
    yarn_rope_frequencies,
    yarn_softmax_factor,
)

DEEPSEEK_V3 = {"theta": 1e4, "factor": 40, "original_max_position_embeddings": 4096}
KIMI_K2 = {"theta": 5e4, "factor": 32, "original_max_position_embeddings": 4096, "beta_fast": 1.0, "beta_slow": 1.0}
GPT_OSS = {"theta": 150000, "factor": 32, "original_max_position_embeddings": 4096, "truncate": False}
MISTRAL_LARGE_3 = {"theta": 1e4, "factor": 36, "original_max_position_embeddings": 8192}
GROK_2_THETA = {"theta": 208533496, "factor": 16.0, "original_max_position_embeddings": 8192}
GROK_2 = {**GROK_2_THETA, "beta_fast": 8, "beta_slow": 1}
LLAMA_32 = {
    "theta": 5e5,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def base(rotary_dim: int, theta: float) -> list[float]:
    return [math.exp(-2 * i / rotary_dim * math.log(theta)) for i in range(rotary_dim // 2)]


class TestRopeFrequencies:
    @pytest.mark.parametrize(("rotary_dim", "theta"), [(2, 1e4), (6, 1e4), (64, 5e6), (128, 1e6), (10, 0.5)])
    def test_r1_the_exponents_denominator_is_the_rotated_width(self, rotary_dim: int, theta: float) -> None:
        np.testing.assert_allclose(rope_frequencies(rotary_dim, theta=theta), base(rotary_dim, theta), rtol=1e-13)

    def test_r1_powers_of_ten(self) -> None:
        np.testing.assert_allclose(rope_frequencies(8, theta=1e4), [1, 0.1, 0.01, 0.001], rtol=1e-15)

    def test_t1_float32_is_computed_in_float32(self) -> None:
        frequencies = rope_frequencies(128, theta=5e6, dtype=np.float32)
        assert frequencies.dtype == np.float32
        np.testing.assert_allclose(frequencies, base(128, 5e6), rtol=2e-6)

    @pytest.mark.parametrize("rotary_dim", [0, -2, 7, 8.0, "8", None, True])
    def test_an_odd_or_empty_width_is_an_error(self, rotary_dim) -> None:
        with pytest.raises(ValueError, match=f"rotary_dim is {rotary_dim!r} but needs a positive even integer"):
            rope_frequencies(rotary_dim, theta=1e4)

    @pytest.mark.parametrize("theta", [0, -1e4, math.nan, None, "10000"])
    def test_theta_must_be_positive(self, theta) -> None:
        with pytest.raises(ValueError, match=f"theta is {theta!r} but needs a positive number"):
            rope_frequencies(8, theta=theta)


class TestLinearRopeFrequencies:
    def test_r1_dividing_frequencies_is_dividing_positions(self) -> None:
        scaled = linear_rope_frequencies(16, theta=1e6, factor=8.0)
        np.testing.assert_allclose(72 * scaled, [9 * f for f in base(16, 1e6)], rtol=1e-13)

    @pytest.mark.parametrize("factor", [8, 8.0, np.float64(8), np.float32(8)])
    def test_keeps_the_dtype(self, factor) -> None:
        assert linear_rope_frequencies(16, theta=1e6, factor=factor, dtype=np.float32).dtype == np.float32


class TestLlama3RopeFrequencies:
    def test_r1_the_blend_is_linear_in_the_number_of_turns(self) -> None:
        expected = []
        for f in base(64, 5e5):
            turns = 8192 * f / (2 * math.pi)
            share = min(max((turns - 1) / 3, 0.0), 1.0)
            expected.append(f / 32 + share * (f - f / 32))
        scaled = llama3_rope_frequencies(64, **LLAMA_32)
        np.testing.assert_allclose(scaled, expected, rtol=1e-13)
        ratios = scaled / base(64, 5e5)
        assert ((ratios > 1 / 32 + 1e-9) & (ratios < 1 - 1e-9)).any(), "some frequency must lie in the blended band"

    def test_r1_the_bands_are_those_of_the_wavelength(self) -> None:
        for f, scaled in zip(base(64, 5e5), llama3_rope_frequencies(64, **LLAMA_32), strict=True):
            wavelength = 2 * math.pi / f
            if wavelength < 8192 / 4:
                assert math.isclose(scaled, f, rel_tol=1e-13)
            elif wavelength > 8192:
                assert math.isclose(scaled, f / 32, rel_tol=1e-13)
            else:
                assert f / 32 < scaled < f

    def test_r2_low_equal_to_high_is_a_step_without_warnings(self) -> None:
        scout = {**LLAMA_32, "factor": 16.0, "high_freq_factor": 1.0}
        expected = [f if 8192 * f / (2 * math.pi) > 1 else f / 16 for f in base(128, 5e5)]
        with np.errstate(all="raise"):
            scaled = llama3_rope_frequencies(128, **scout)
        np.testing.assert_allclose(scaled, expected, rtol=1e-13)

    def test_keeps_the_dtype(self) -> None:
        scaled = llama3_rope_frequencies(64, **LLAMA_32, dtype=np.float32)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, llama3_rope_frequencies(64, **LLAMA_32), rtol=1e-5)


class TestYarnRopeFrequencies:
    @pytest.mark.parametrize(
        ("options", "index", "value"),
        [
            pytest.param(DEEPSEEK_V3, 16, 5.5e-3, id="deepseek-v3-16"),
            pytest.param(DEEPSEEK_V3, 20, 7.9056942e-4, id="deepseek-v3-20"),
            pytest.param(DEEPSEEK_V3, 31, 3.3338036e-6, id="deepseek-v3-31"),
            pytest.param(KIMI_K2, 19, 1.6217599e-3, id="kimi-k2-19"),
            pytest.param(KIMI_K2, 20, 3.6140468e-5, id="kimi-k2-20"),
            pytest.param(KIMI_K2, 31, 8.7644129e-7, id="kimi-k2-31"),
            pytest.param({**KIMI_K2, "factor": 64}, 20, 1.8070234e-5, id="kimi-k2-thinking-20"),
            pytest.param({**KIMI_K2, "factor": 64}, 31, 4.3822065e-7, id="kimi-k2-thinking-31"),
            pytest.param({**KIMI_K2, "factor": 64, "beta_fast": 32.0}, 16, 1.5372967e-3, id="kimi-k2.5-16"),
            pytest.param(GPT_OSS, 8, 5.0813275e-2, id="gpt-oss-8"),
            pytest.param(GPT_OSS, 10, 1.9335001e-2, id="gpt-oss-10"),
            pytest.param(GPT_OSS, 16, 4.5648392e-4, id="gpt-oss-16"),
            pytest.param(GPT_OSS, 31, 3.0235114e-7, id="gpt-oss-31"),
            pytest.param(MISTRAL_LARGE_3, 16, 7.008547e-3, id="mistral-large-3-16"),
            pytest.param(MISTRAL_LARGE_3, 31, 3.7042262e-6, id="mistral-large-3-31"),
        ],
    )
    def test_gives_the_frequencies_of_the_releases(self, options: dict, index: int, value: float) -> None:
        assert math.isclose(yarn_rope_frequencies(64, **options)[index], value, rel_tol=1e-7)

    @pytest.mark.parametrize(
        ("options", "low", "high"),
        [
            pytest.param(DEEPSEEK_V3, 10, 23, id="deepseek-v3"),
            pytest.param(KIMI_K2, 19, 20, id="kimi-k2"),
            pytest.param(GPT_OSS, 8.0927791155, 17.3980245016, id="gpt-oss"),
            pytest.param(MISTRAL_LARGE_3, 12, 25, id="mistral-large-3"),
        ],
    )
    def test_r1_bounds_are_rounded_only_when_truncate(self, options: dict, low: float, high: float) -> None:
        expected = []
        for i, f in enumerate(base(64, options["theta"])):
            ramp = min(max((i - low) / (high - low), 0.0), 1.0)
            expected.append(f * (1 - ramp) + f / options["factor"] * ramp)
        np.testing.assert_allclose(yarn_rope_frequencies(64, **options), expected, rtol=1e-9)

    def test_r2_bounds_are_clipped_to_zero_and_the_width_less_one(self) -> None:
        # 16 positions: the first dimension makes 2.5 turns, so 32 turns would lie below it and 1e-9 turns beyond the last
        options = {"theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1e-9}
        scaled = yarn_rope_frequencies(8, **options)
        expected = [f * (1 - i / 7) + f / 4 * (i / 7) for i, f in enumerate(base(8, 100.0))]
        np.testing.assert_allclose(scaled, expected, rtol=1e-13)

    def test_r3_equal_bounds_give_a_step_without_warnings(self) -> None:
        # theta 1e4, 16 entries: 1e4^(2c/16) = L0 / 2πβ, and c is 4.5 when that is 10^2.25
        beta = 4096 / (2 * math.pi * 10**2.25)
        options = {"theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 4096, "beta_fast": beta, "beta_slow": beta}
        with np.errstate(all="raise"):
            scaled = yarn_rope_frequencies(16, **options, truncate=False)
        np.testing.assert_allclose(scaled, [f if i <= 4 else f / 8 for i, f in enumerate(base(16, 1e4))], rtol=1e-9)

    def test_r3_bounds_that_both_are_clipped_to_zero_give_a_step(self) -> None:
        # c(32) is negative and c(0.7) = -0.08 rounds up to 0
        options = {"theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 4, "beta_fast": 32.0, "beta_slow": 0.7}
        with np.errstate(all="raise"):
            scaled = yarn_rope_frequencies(16, **options)
        np.testing.assert_allclose(scaled, [f if i == 0 else f / 8 for i, f in enumerate(base(16, 1e4))], rtol=1e-13)

    def test_factor_one_changes_nothing(self) -> None:
        scaled = yarn_rope_frequencies(32, theta=1e4, factor=1.0, original_max_position_embeddings=4096)
        np.testing.assert_allclose(scaled, base(32, 1e4), rtol=1e-13)

    def test_keeps_the_dtype(self) -> None:
        assert yarn_rope_frequencies(64, **GPT_OSS, dtype=np.float32).dtype == np.float32


class TestGrokYarnRopeFrequencies:
    @pytest.mark.parametrize(
        ("blend", "pair", "value"),
        [
            ("linear", 10, 5.0133586826e-2),
            ("linear", 20, 1.5035377445e-3),
            ("linear", 24, 4.7444850588e-5),
            ("linear", 63, 4.0428843251e-10),
            ("log", 10, 5.0133586826e-2),
            ("log", 20, 7.6596007646e-4),
            ("log", 24, 4.7444850588e-5),
            ("log", 63, 4.0428843251e-10),
        ],
    )
    def test_the_numbers_of_the_release(self, blend: str, pair: int, value: float) -> None:
        assert math.isclose(grok_yarn_rope_frequencies(128, **GROK_2, blend=blend)[pair], value, rel_tol=1e-10)

    def test_is_the_other_yarn_where_bounds_differ_and_all_is_kept(self) -> None:
        np.testing.assert_allclose(
            grok_yarn_rope_frequencies(64, **DEEPSEEK_V3), yarn_rope_frequencies(64, **DEEPSEEK_V3), rtol=1e-14
        )

    def test_r1_between_the_ends_of_the_ramp_the_logarithmic_blend_is_smaller(self) -> None:
        linear, log = (grok_yarn_rope_frequencies(128, **GROK_2, blend=blend) for blend in ("linear", "log"))
        between = np.zeros(64, bool)
        between[18:24] = True  # the bounds are 17 and 24
        assert (log[between] < 0.9 * linear[between]).all()
        np.testing.assert_allclose(log[~between], linear[~between], rtol=1e-14)

    @pytest.mark.parametrize("blend", ["linear", "log"])
    def test_r2_equal_bounds_interpolate_their_own_pair(self, blend: str) -> None:
        # c(32) is negative and c(0.7) = -0.08 rounds up to 0
        options = {"theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 4, "beta_slow": 0.7}
        with np.errstate(all="raise"):
            scaled = grok_yarn_rope_frequencies(16, **options, blend=blend)
        np.testing.assert_allclose(scaled, [f / 8 for f in base(16, 1e4)], rtol=1e-13)
        assert yarn_rope_frequencies(16, **options)[0] == 1

    @pytest.mark.parametrize("blend", ["linear", "log"])
    def test_r3_a_small_extrapolation_factor_interpolates_the_fastest_pair(self, blend: str) -> None:
        fastest = grok_yarn_rope_frequencies(128, **GROK_2, blend=blend, extrapolation_factor=0.25)[0]
        assert math.isclose(fastest, 0.25 + 0.75 / 16 if blend == "linear" else 16**-0.75, rel_tol=1e-14)

    @pytest.mark.parametrize("blend", ["linear", "log"])
    def test_keeps_the_dtype(self, blend: str) -> None:
        assert grok_yarn_rope_frequencies(64, **GROK_2, blend=blend, dtype=np.float32).dtype == np.float32

    def test_another_blend_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="blend is 'cubic' but must be 'linear' or 'log'"):
            grok_yarn_rope_frequencies(64, **GROK_2, blend="cubic")


class TestThetaScaledRopeFrequencies:
    @pytest.mark.parametrize(
        ("pair", "value"),
        [(10, 1.5764872343e-2), (20, 2.4853119999e-4), (24, 4.7256015477e-5), (32, 1.7084782990e-6), (63, 4.4202810929e-12)],
    )
    def test_the_numbers_of_the_release(self, pair: int, value: float) -> None:
        assert math.isclose(theta_scaled_rope_frequencies(128, **GROK_2_THETA)[pair], value, rel_tol=1e-9)

    def test_r1_the_wave_of_the_original_length_becomes_factor_times_as_long(self) -> None:
        # With theta = (L0 / 2π)^2, pair P / 4 of P / 2 has exactly that wave.
        theta = (512 / (2 * math.pi)) ** 2
        scaled = theta_scaled_rope_frequencies(16, theta=theta, factor=4.0, original_max_position_embeddings=512)
        ratios = np.array(base(16, theta)) / scaled
        assert ratios[0] == 1
        assert math.isclose(ratios[4], 4, rel_tol=1e-13)
        assert ((ratios[1:4] > 1) & (ratios[1:4] < 4)).all()
        assert (ratios[5:] > 4).all()

    def test_keeps_the_dtype(self) -> None:
        assert theta_scaled_rope_frequencies(64, **GROK_2_THETA, dtype=np.float32).dtype == np.float32

    def test_a_length_without_a_wave_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="original_max_position_embeddings is 6 but needs an integer above 2π"):
            theta_scaled_rope_frequencies(16, theta=1e4, factor=4.0, original_max_position_embeddings=6)


class TestYarnAttentionFactor:
    def test_r1_generic_is_one_tenth_of_the_logarithm_plus_one(self) -> None:
        assert math.isclose(yarn_attention_factor(32.0), 1.3465735902799727, rel_tol=1e-15)

    def test_r1_equal_mscales_cancel(self) -> None:
        assert yarn_attention_factor(40.0, mscale=1.0, mscale_all_dim=1.0) == 1.0

    def test_r1_mscales_scale_the_logarithm(self) -> None:
        expected = (0.0707 * math.log(40) + 1) / (0.05 * math.log(40) + 1)
        assert math.isclose(yarn_attention_factor(40.0, mscale=0.707, mscale_all_dim=0.5), expected, rel_tol=1e-14)

    @pytest.mark.parametrize("mscales", [{"mscale": 0.7}, {"mscale_all_dim": 0.7}, {"mscale": 0.0, "mscale_all_dim": 0.7}])
    def test_r1_one_mscale_alone_has_no_effect(self, mscales: dict) -> None:
        assert yarn_attention_factor(40.0, **mscales) == 0.1 * math.log(40) + 1

    @pytest.mark.parametrize("factor", [1.0, 0.5])
    def test_r1_no_extension_no_factor(self, factor: float) -> None:
        assert yarn_attention_factor(factor) == 1.0

    @pytest.mark.parametrize("factor", [None, "32", math.nan, 0.0])
    def test_a_wrong_factor_is_one_sentence(self, factor) -> None:
        with pytest.raises(ValueError, match=f"yarn_attention_factor: factor is {factor!r} but needs"):
            yarn_attention_factor(factor)


class TestYarnSoftmaxFactor:
    def test_r1_the_factors_on_cos_and_sin_cancel_and_this_one_stays(self) -> None:
        mscales = {"mscale": 1.0, "mscale_all_dim": 1.0}
        assert yarn_attention_factor(40.0, **mscales) == 1.0
        assert math.isclose(yarn_softmax_factor(40.0, mscale_all_dim=1.0), 1.3688879454113936**2, rel_tol=1e-15)

    def test_is_the_square_of_the_factor_of_all_dimensions(self) -> None:
        assert math.isclose(yarn_softmax_factor(40.0, mscale_all_dim=0.7), (0.07 * math.log(40) + 1) ** 2, rel_tol=1e-15)

    @pytest.mark.parametrize("mscale_all_dim", [None, 0, 0.0])
    def test_is_one_where_it_is_not_asked_for(self, mscale_all_dim) -> None:
        assert yarn_softmax_factor(40.0, mscale_all_dim=mscale_all_dim) == 1.0

    @pytest.mark.parametrize("factor", [1.0, 0.5])
    def test_no_extension_no_factor(self, factor: float) -> None:
        assert yarn_softmax_factor(factor, mscale_all_dim=0.7) == 1.0

    def test_a_wrong_number_is_one_sentence(self) -> None:
        with pytest.raises(ValueError, match=r"^yarn_softmax_factor: factor is 0 but needs"):
            yarn_softmax_factor(0, mscale_all_dim=1.0)
        with pytest.raises(ValueError, match=r"^yarn_softmax_factor: mscale_all_dim is inf but needs"):
            yarn_softmax_factor(2.0, mscale_all_dim=math.inf)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (linear_rope_frequencies, {"theta": 1e4, "factor": 0}, "factor is 0 but needs"),
        (linear_rope_frequencies, {"theta": 1e4, "factor": -2.0}, "factor is -2.0 but needs"),
        (yarn_rope_frequencies, {**DEEPSEEK_V3, "factor": 0}, "factor is 0 but needs"),
        (yarn_rope_frequencies, {**DEEPSEEK_V3, "theta": 1}, "theta is 1 but needs"),
        (yarn_rope_frequencies, {**DEEPSEEK_V3, "original_max_position_embeddings": 0}, "original_max_.* is 0 but needs"),
        (yarn_rope_frequencies, {**DEEPSEEK_V3, "beta_slow": 0}, "beta_slow is 0 but needs"),
        (yarn_rope_frequencies, {**DEEPSEEK_V3, "beta_fast": -1}, "beta_fast is -1 but needs"),
        (llama3_rope_frequencies, {**LLAMA_32, "factor": 0}, "factor is 0 but needs"),
        (grok_yarn_rope_frequencies, {**GROK_2, "factor": -1}, "factor is -1 but needs"),
        (grok_yarn_rope_frequencies, {**GROK_2, "theta": 1}, "theta is 1 but needs"),
        (grok_yarn_rope_frequencies, {**GROK_2, "beta_fast": 0}, "beta_fast is 0 but needs"),
        (grok_yarn_rope_frequencies, {**GROK_2, "extrapolation_factor": -0.5}, "extrapolation_factor is -0.5 but needs"),
        (grok_yarn_rope_frequencies, {**GROK_2, "original_max_position_embeddings": 0}, "original_max_.* is 0 but needs"),
        (theta_scaled_rope_frequencies, {**GROK_2_THETA, "factor": 0}, "factor is 0 but needs"),
    ],
)
def test_an_impossible_scaling_is_one_sentence(function, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(16, **options)
