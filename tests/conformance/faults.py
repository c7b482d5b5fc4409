"""Implementations that are wrong in ways that real ones have been, each with the layer that must be blamed for it.

They compute in float32 (float64 where that is tested) and round once: all that is wrong with them is the meaning.
"""

from __future__ import annotations

import math

import numpy as np

from refimpl import layers
from refimpl.layers.attention import attention_logits, masked_softmax, mix_values
from refimpl.numerics import FORMATS
from tests.conformance.computing import computing_in
from tests.conformance.gate_faults import GATE_FAULTS, GATE_FAULTS_OF_SOME_FORMATS
from tests.conformance.indexer_faults import INDEXER_FAULTS
from tests.conformance.latent_faults import LATENT_FAULTS
from tests.conformance.multi_token_faults import MULTI_TOKEN_FAULTS
from tests.conformance.quantization_faults import QUANTIZATION_FAULTS
from tests.conformance.router_faults import ROUTER_FAULTS, ROUTER_FAULTS_OF_SOME_FORMATS
from tests.conformance.sampling_faults import SAMPLING_FAULTS

wide = computing_in(np.float32)


def _places(q, k, q_order, k_order):
    B, T, S = q.shape[0], q.shape[1], k.shape[1]
    if k_order is None:
        return np.tile(np.arange(S - T, S), (B, 1)), np.tile(np.arange(S), (B, 1))
    return q_order, k_order


def _attend(q, k, v, logits, visible, sinks=None):
    return mix_values(masked_softmax(logits, visible[:, None], sinks=sinks), v)


def _without(*names):
    @wide
    def attention(q, k, v, **options):
        return layers.attention(q, k, v, **{name: value for name, value in options.items() if name not in names})

    return attention


@wide
def window_one_too_long(q, k, v, *, window=None, **options):
    return layers.attention(q, k, v, window=None if window is None else window + 1, **options)


@wide
def window_one_too_short(q, k, v, *, window=None, **options):
    return layers.attention(q, k, v, window=None if window is None else max(window - 1, 1), **options)


@wide
def sink_scaled(q, k, v, *, scale, sinks=None, **options):
    return layers.attention(q, k, v, scale=scale, sinks=None if sinks is None else sinks * q.dtype.type(scale), **options)


@wide
def heads_tiled(q, k, v, **options):
    ratio = q.shape[2] // k.shape[2]
    return layers.attention(q, np.tile(k, (1, 1, ratio, 1)), np.tile(v, (1, 1, ratio, 1)), **options)


@wide
def upper_left(q, k, v, *, causal=True, q_order=None, k_order=None, **options):
    if q_order is None and causal:
        B, T, S = q.shape[0], q.shape[1], k.shape[1]
        q_order, k_order = np.tile(np.arange(T), (B, 1)), np.tile(np.arange(S), (B, 1))
    return layers.attention(q, k, v, causal=causal, q_order=q_order, k_order=k_order, **options)


@wide
def softcap_before_scale(q, k, v, *, scale, softcap=None, sinks=None, bias=None, q_order=None, k_order=None, **masking):
    visible = layers.attention_mask(*_places(q, k, q_order, k_order), **masking)
    logits = attention_logits(q, k, scale=1.0, softcap=softcap) * q.dtype.type(scale)
    return _attend(q, k, v, logits if bias is None else logits + bias, visible, sinks)


@wide
def softcap_after_bias(q, k, v, *, scale, softcap=None, sinks=None, bias=None, q_order=None, k_order=None, **masking):
    visible = layers.attention_mask(*_places(q, k, q_order, k_order), **masking)
    logits = attention_logits(q, k, scale=scale, bias=bias)
    logits = logits if softcap is None else layers.soft_cap(logits, cap=softcap)
    return _attend(q, k, v, logits, visible, sinks)


@wide
def padding_seen(q, k, v, *, q_order=None, k_order=None, **options):
    if k_order is not None:
        k_order = np.where(k_order < 0, 0, k_order)
    return layers.attention(q, k, v, q_order=q_order, k_order=k_order, **options)


@wide
def columns_for_places(q, k, v, *, q_order=None, k_order=None, **options):
    return layers.attention(q, k, v, **options)


@wide
def uniform_where_nothing_is_seen(
    q, k, v, *, scale, softcap=None, sinks=None, bias=None, q_order=None, k_order=None, **masking
):
    visible = layers.attention_mask(*_places(q, k, q_order, k_order), **masking)
    logits = attention_logits(q, k, scale=scale, softcap=softcap, bias=bias)
    return _attend(q, k, v, np.where(visible[:, None], logits, -30000), np.ones_like(visible), sinks)


@wide
def not_a_number_where_nothing_is_seen(q, k, v, *, scale, softcap=None, sinks=None, bias=None, q_order=None, k_order=None, **m):
    visible = layers.attention_mask(*_places(q, k, q_order, k_order), **m)
    y = layers.attention(q, k, v, scale=scale, softcap=softcap, sinks=sinks, bias=bias, q_order=q_order, k_order=k_order, **m)
    return np.where(visible.any(axis=-1)[:, :, None, None], y, np.nan)


def _scaled(function, factor):
    @wide
    def evaluate(*values, **options):
        return function(*values, **options) * np.float32(factor)

    return evaluate


@wide
def eps_outside_the_root(x, weight=None, *, eps, zero_centred=False):
    y = x / (np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + x.dtype.type(eps))
    return y if weight is None else y * (1 + weight if zero_centred else weight)


@wide
def another_eps(x, weight=None, *, eps, zero_centred=False):
    return layers.rms_norm(x, weight, eps=1e-6, zero_centred=zero_centred)


@wide
def shift_missing(x, weight=None, *, eps, zero_centred=False):
    return layers.rms_norm(x, weight, eps=eps)


@wide
def shifted_twice(x, weight=None, *, eps, zero_centred=False):
    return layers.rms_norm(x, 1 + weight if zero_centred else weight, eps=eps, zero_centred=zero_centred)


@wide
def unbiased_variance(x, weight, bias=None, *, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt(x.var(axis=-1, ddof=1, keepdims=True) + x.dtype.type(eps)) * weight
    return y if bias is None else y + bias


@wide
def bias_before_gain(x, weight, bias=None, *, eps):
    y = layers.layer_norm(x, np.ones_like(weight), eps=eps)
    return y * weight if bias is None else (y + bias) * weight


@wide
def greater_of_length_and_eps(x, *, eps):
    return x / np.maximum(np.sqrt(np.sum(x * x, axis=-1, keepdims=True)), x.dtype.type(eps))


@wide
def mean_for_sum(x, *, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))


@wide
def other_pairs(x, cos, sin, *, interleaved=False):
    return layers.rotary_embedding(x, cos, sin, interleaved=not interleaved)


@wide
def pairs_over_the_head(x, cos, sin, *, interleaved=False):
    """Half-split pairs (i, i + K/2) where only P < K entries turn."""
    if interleaved:
        return layers.rotary_embedding(x, cos, sin, interleaved=True)
    half, pairs = x.shape[-1] // 2, cos.shape[-1]
    y = x.copy()
    first, second = x[..., :pairs], x[..., half : half + pairs]
    y[..., :pairs] = first * cos[:, :, None] - second * sin[:, :, None]
    y[..., half : half + pairs] = second * cos[:, :, None] + first * sin[:, :, None]
    return y


@wide
def turned_backwards(x, cos, sin, *, interleaved=False):
    return layers.rotary_embedding(x, cos, -sin, interleaved=interleaved)


def narrow_angles(positions, inv_freq, *, attention_factor=1.0):
    """Angles in bfloat16."""
    narrow = FORMATS["bfloat16"]
    angles = (positions[:, :, None].astype(narrow) * inv_freq.astype(narrow)).astype(inv_freq.dtype)
    return np.cos(angles) * inv_freq.dtype.type(attention_factor), np.sin(angles) * inv_freq.dtype.type(attention_factor)


def factor_ignored(positions, inv_freq, *, attention_factor=1.0):
    return layers.rope_cos_sin(positions, inv_freq)


def scaling_ignored(rotary_dim, *, theta, **options):
    return layers.rope_frequencies(rotary_dim, theta=theta)


def truncation_ignored(rotary_dim, *, truncate=True, **options):
    return layers.yarn_rope_frequencies(rotary_dim, truncate=True, **options)


def blend_ignored(rotary_dim, *, blend="linear", **options):
    return layers.grok_yarn_rope_frequencies(rotary_dim, **options)


def all_is_kept_before_the_ramp(rotary_dim, *, extrapolation_factor=1.0, **options):
    return layers.grok_yarn_rope_frequencies(rotary_dim, **options)


def step_behind_the_bound(rotary_dim, *, extrapolation_factor=1.0, blend="linear", theta, factor, **options):
    """The ramp of the YaRN of other models, which differs where its bounds are equal."""
    f, scaled = (layers.yarn_rope_frequencies(rotary_dim, theta=theta, factor=s, **options) for s in (1.0, 2.0))
    kept = (2 * scaled / f - 1) * extrapolation_factor
    return f * factor ** (kept - 1) if blend == "log" else f * kept + f / factor * (1 - kept)


def theta_times_factor(rotary_dim, *, theta, factor, original_max_position_embeddings):
    return layers.rope_frequencies(rotary_dim, theta=theta * factor)


def blend_over_wavelengths(rotary_dim, *, theta, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    f = layers.rope_frequencies(rotary_dim, theta=theta)
    turns = original_max_position_embeddings * f / (2 * math.pi)
    long, short = 1 / low_freq_factor, 1 / high_freq_factor
    blend = np.clip((long - 1 / turns) / (long - short) if long > short else turns > high_freq_factor, 0, 1)
    return (1 - blend) * f / factor + blend * f


@wide
def other_gelu(x, *, approximate="none"):
    return layers.gelu(x, approximate="none" if approximate == "tanh" else "tanh")


@wide
def other_geglu(gate, up, *, approximate="none"):
    return layers.geglu(gate, up, approximate="none" if approximate == "tanh" else "tanh")


@wide
def gate_and_up_exchanged(gate, up):
    return layers.swiglu(up, gate)


@wide
def quick_gelu(x):
    return x / (1 + np.exp(-x.dtype.type(1.702) * x))


@wide
def transposed(x, weight, bias=None):
    square = weight.shape[0] == weight.shape[1]
    return layers.linear(x, weight.T if square else weight, bias)


@wide
def bias_dropped(x, weight, bias=None):
    return layers.linear(x, weight)


@wide
def cap_times_logit(x, weight, *, scale=None, softcap=None):
    logits = layers.lm_head(x, weight, scale=scale)
    return logits if softcap is None else logits * np.tanh(logits / x.dtype.type(softcap))


@wide
def cap_before_scale(x, weight, *, scale=None, softcap=None):
    logits = layers.lm_head(x, weight, softcap=softcap)
    return logits if scale is None else logits * x.dtype.type(scale)


@wide
def cap_dropped(x, weight, *, scale=None, softcap=None):
    return layers.lm_head(x, weight, scale=scale)


@wide
def scale_dropped(tokens, weight, *, scale=None):
    return layers.embedding(tokens, weight)


@wide
def hard_cap(x, *, cap):
    return np.clip(x, -cap, cap)


@wide
def last_row_is_missing(positions, weight):
    return weight[np.clip(positions, 0, len(weight) - 2)]


# Fault -> the function, and the implementation that has it.
FAULTS = {
    "window one too long": ("attention", window_one_too_long),
    "window one too short": ("attention", window_one_too_short),
    "window ignored": ("attention", _without("window")),
    "chunk ignored": ("attention", _without("chunk")),
    "sink dropped": ("attention", _without("sinks")),
    "sink scaled": ("attention", sink_scaled),
    "softcap missing": ("attention", _without("softcap")),
    "softcap before scale": ("attention", softcap_before_scale),
    "softcap after bias": ("attention", softcap_after_bias),
    "bias dropped from attention": ("attention", _without("bias")),
    "heads tiled": ("attention", heads_tiled),
    "causal mask from the upper left": ("attention", upper_left),
    "causality ignored when asked for none": ("attention", _without("causal")),
    "padding seen": ("attention", padding_seen),
    "columns taken for places": ("attention", columns_for_places),
    "uniform where nothing is seen": ("attention", uniform_where_nothing_is_seen),
    "NaN where nothing is seen": ("attention", not_a_number_where_nothing_is_seen),
    "attention 2 % too large": ("attention", _scaled(layers.attention, 1.02)),
    "eps outside the root": ("rms_norm", eps_outside_the_root),
    "another eps": ("rms_norm", another_eps),
    "zero-centred gain taken as plain": ("rms_norm", shift_missing),
    "zero-centred gain shifted twice": ("rms_norm", shifted_twice),
    "unbiased variance": ("layer_norm", unbiased_variance),
    "bias before gain": ("layer_norm", bias_before_gain),
    "greater of length and eps": ("l2_norm", greater_of_length_and_eps),
    "mean for sum": ("l2_norm", mean_for_sum),
    "interleaved for half-split": ("rotary_embedding", other_pairs),
    "pairs over the whole head": ("rotary_embedding", pairs_over_the_head),
    "turned backwards": ("rotary_embedding", turned_backwards),
    "other form of GELU": ("gelu", other_gelu),
    "other form of GELU in GeGLU": ("geglu", other_geglu),
    "gate and up exchanged": ("swiglu", gate_and_up_exchanged),
    "quick GELU for SiLU": ("silu", quick_gelu),
    "transposed weight": ("linear", transposed),
    "bias dropped": ("linear", bias_dropped),
    "cap times logit": ("lm_head", cap_times_logit),
    "cap before scale": ("lm_head", cap_before_scale),
    "cap dropped": ("lm_head", cap_dropped),
    "embedding not scaled": ("embedding", scale_dropped),
    "hard cap": ("soft_cap", hard_cap),
    "last position missing": ("position_embedding", last_row_is_missing),
    **ROUTER_FAULTS,
    **GATE_FAULTS,
    **INDEXER_FAULTS,
    **LATENT_FAULTS,
    **SAMPLING_FAULTS,
    **MULTI_TOKEN_FAULTS,
}
# Those of functions that exist in the wide formats alone.
WIDE_FAULTS = {
    "angles in bfloat16": ("rope_cos_sin", narrow_angles),
    "attention factor ignored": ("rope_cos_sin", factor_ignored),
    "YaRN ignored": ("yarn_rope_frequencies", scaling_ignored),
    "YaRN truncates always": ("yarn_rope_frequencies", truncation_ignored),
    "Llama 3 scaling ignored": ("llama3_rope_frequencies", scaling_ignored),
    "blend linear in the wavelength": ("llama3_rope_frequencies", blend_over_wavelengths),
    "logarithmic blend ignored": ("grok_yarn_rope_frequencies", blend_ignored),
    "extrapolation factor ignored": ("grok_yarn_rope_frequencies", all_is_kept_before_the_ramp),
    "step behind the bound": ("grok_yarn_rope_frequencies", step_behind_the_bound),
    "theta times factor": ("theta_scaled_rope_frequencies", theta_times_factor),
    "linear scaling ignored": ("linear_rope_frequencies", scaling_ignored),
}
# Those that exist in some formats alone: the formats too.
FAULTS_OF_SOME_FORMATS = {**ROUTER_FAULTS_OF_SOME_FORMATS, **GATE_FAULTS_OF_SOME_FORMATS, **QUANTIZATION_FAULTS}
