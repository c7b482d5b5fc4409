"""Implementations that are right in other ways than the specification, and ones that are wrong: the suite must tell them apart.

All of them take and return arrays in the tested dtype, like any backend.
"""

from __future__ import annotations

import numpy as np

from conformance.backends import numpy as specification
from refimpl import layers
from refimpl.layers import VOCABULARY
from refimpl.layers.attention import attention_logits
from refimpl.numerics import low_precision, plain
from tests.conformance.computing import computing_in, rounding_every_step
from tests.conformance.expert_variants import EXPERT_VARIANTS
from tests.conformance.indexer_variants import INDEXER_VARIANTS
from tests.conformance.latent_variants import LATENT_VARIANTS
from tests.conformance.multi_token_variants import MULTI_TOKEN_VARIANTS
from tests.conformance.sampling_variants import SAMPLING_VARIANTS

NOT_OF_FLOATS = ("token_order", "ring_order", "rope_cos_sin", "mxfp4_decode", "fp8_block_decode", "int4_group_decode")
FLOAT_FUNCTIONS = [
    name
    for name in VOCABULARY
    if not any(part in name for part in ("mask", "frequencies", "_temperature")) and name not in NOT_OF_FLOATS
]


def _orders(q, k, q_order, k_order):
    B, T, S = q.shape[0], q.shape[1], k.shape[1]
    if k_order is None:
        k_order, q_order = np.tile(np.arange(S), (B, 1)), np.tile(np.arange(S - T, S), (B, 1))
    return q_order, k_order


@computing_in(np.float32)
def attention_online_float32(q, k, v, **options):
    return layers.attention_online(q, k, v, block=3, **options)


@rounding_every_step
def attention_online_rounded(q, k, v, **options):
    """The state of the running softmax is rounded too, after each block."""
    return layers.attention_online(q, k, v, block=64, **options)


@rounding_every_step
def attention_scaled_query(q, k, v, *, scale, **options):
    """The scale is folded into the query, which is rounded again."""
    return layers.attention(q * q.dtype.type(scale), k, v, scale=1.0, **options)


@computing_in(np.float32)
def attention_reversed(q, k, v, *, q_order=None, k_order=None, bias=None, **options):
    """Keys are read from the last to the first."""
    q_order, k_order = _orders(q, k, q_order, k_order)
    if bias is not None:
        options["bias"] = bias[..., ::-1]
    return layers.attention(q, k[:, ::-1], v[:, ::-1], q_order=q_order, k_order=k_order[:, ::-1], **options)


@computing_in(np.float32)
def attention_one_by_one(
    q, k, v, *, scale, softcap=None, temperature=None, sinks=None, bias=None, q_order=None, k_order=None, **masking
):
    """Sums run over one key after the other, and the division comes last."""
    q_order, k_order = _orders(q, k, q_order, k_order)
    visible = layers.attention_mask(q_order, k_order, **masking)[:, None]
    ratio = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, ratio, axis=2), np.repeat(v, ratio, axis=2)
    logits = np.zeros((q.shape[0], q.shape[2], q.shape[1], k.shape[1]), q.dtype)
    for entry in range(q.shape[-1]):
        logits += q[..., entry].transpose(0, 2, 1)[..., None] * k[..., entry].transpose(0, 2, 1)[:, :, None]
    logits = logits * q.dtype.type(scale)
    logits = logits if softcap is None else layers.soft_cap(logits, cap=softcap)
    logits = logits if temperature is None else logits * temperature[:, None, :, None]
    logits = np.where(visible, logits if bias is None else logits + bias, q.dtype.type(-1e4))
    top = logits.max(axis=-1, keepdims=True)
    top = top if sinks is None else np.maximum(top, sinks[:, None, None])
    weights = np.exp(logits - top) * visible
    total = np.zeros(top.shape, q.dtype) if sinks is None else np.exp(sinks[:, None, None] - top)
    mixed = np.zeros((*logits.shape[:3], v.shape[3]), q.dtype)
    for key in range(k.shape[1]):
        total = total + weights[..., key : key + 1]
        mixed += weights[..., key : key + 1] * v[:, key].transpose(0, 1, 2)[:, :, None]
    return (mixed / np.where(total == 0, 1, total)).transpose(0, 2, 1, 3)


def attention_log_sum_exp(
    q, k, v, *, scale, sinks=None, q_order=None, k_order=None, softcap=None, temperature=None, bias=None, **masking
):
    """The sink is applied to the rounded output, as sigmoid(lse - sink), and rounds it again."""
    shared = {"q_order": q_order, "k_order": k_order, "softcap": softcap, "temperature": temperature, "bias": bias, **masking}
    y = computing_in(np.float32)(layers.attention)(q, k, v, scale=scale, **shared)
    if sinks is None:
        return y
    wide = np.float64 if q.dtype == np.float64 else np.float32
    bias = None if bias is None else bias.astype(wide)
    visible = layers.attention_mask(*_orders(q, k, q_order, k_order), **masking)[:, None]
    temperature = None if temperature is None else temperature.astype(wide)
    scores = {"scale": scale, "softcap": softcap, "temperature": temperature, "bias": bias}
    logits = attention_logits(q.astype(wide), k.astype(wide), **scores)
    total = np.sum(np.exp(np.where(visible, logits - sinks.astype(wide)[:, None, None], -np.inf)), axis=-1)
    return (y.astype(wide) * (total / (1 + total)).transpose(0, 2, 1)[..., None]).astype(q.dtype)


@computing_in(np.float32)
def rms_norm_rsqrt(x, weight=None, *, eps, zero_centred=False):
    """The sum runs in order, a reciprocal root is multiplied, and the gain is applied in float32."""
    mean = np.cumsum(x * x, axis=-1, dtype=x.dtype)[..., -1:] / x.dtype.type(x.shape[-1])
    y = x * (1 / np.sqrt(mean + x.dtype.type(eps)))
    return y if weight is None else y * (weight + x.dtype.type(1) if zero_centred else weight)


@computing_in(np.float32)
def layer_norm_reversed(x, weight, bias=None, *, eps):
    centred = x - x[..., ::-1].mean(axis=-1, keepdims=True)
    y = centred * (1 / np.sqrt(np.square(centred[..., ::-1]).mean(axis=-1, keepdims=True) + x.dtype.type(eps)))
    return y * weight if bias is None else y * weight + bias


@rounding_every_step
def l2_norm_two_steps(x, *, eps):
    """The reciprocal length is rounded before it is multiplied."""
    return x * layers.l2_norm(x, eps=eps).dtype.type(1) / _length(x, eps)


def _length(x, eps):
    return (
        low_precision(np.sqrt(np.sum(plain(x) ** 2, axis=-1, keepdims=True) + np.float32(eps)), x.precision)
        if hasattr(x, "precision")
        else np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
    )


@rounding_every_step
def silu_of_sigmoid(x):
    """The sigmoid is rounded before the product."""
    return (
        x * low_precision(1 / (1 + np.exp(-plain(x))), x.precision) if hasattr(x, "precision") else x * (1 / (1 + np.exp(-x)))
    )


@computing_in(np.float32)
def linear_backwards(x, weight, bias=None):
    y = np.zeros((*x.shape[:-1], weight.shape[0]), x.dtype)
    for entry in reversed(range(x.shape[-1])):
        y += x[..., entry : entry + 1] * weight[:, entry]
    return y if bias is None else y + bias


@computing_in(np.float32)
def swiglu_once(gate, up):
    """One rounding, after the product."""
    return gate * up / (1 + np.exp(-gate))


@rounding_every_step
def rotary_by_complex_halves(x, cos, sin, *, interleaved=False):
    """x · cos + rotated(x) · sin, with cos and sin repeated."""
    half = cos.shape[-1]
    part, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        turned = np.stack([-part[..., 1::2], part[..., 0::2]], axis=-1).reshape(part.shape)
        cos, sin = np.repeat(cos, 2, axis=-1), np.repeat(sin, 2, axis=-1)
    else:
        turned = np.concatenate([-part[..., half:], part[..., :half]], axis=-1)
        cos, sin = np.concatenate([cos, cos], axis=-1), np.concatenate([sin, sin], axis=-1)
    return np.concatenate([part * cos[:, :, None] + turned * sin[:, :, None], rest], axis=-1)


LEGITIMATE = {
    "the specification, rounded at every step": {name: getattr(specification, name) for name in VOCABULARY},
    "float32 inside, one rounding": {name: computing_in(np.float32)(VOCABULARY[name]) for name in FLOAT_FUNCTIONS},
    "float64 inside, one rounding": {name: computing_in(np.float64)(VOCABULARY[name]) for name in FLOAT_FUNCTIONS},
    "online softmax in float32": {"attention": attention_online_float32},
    "online softmax, rounded at every step": {"attention": attention_online_rounded},
    "scale folded into the query": {"attention": attention_scaled_query},
    "sink through the log-sum-exp": {"attention": attention_log_sum_exp},
    "keys from last to first": {"attention": attention_reversed},
    "one key and one entry after the other": {
        "attention": attention_one_by_one,
        "linear": linear_backwards,
        "rms_norm": rms_norm_rsqrt,
        "layer_norm": layer_norm_reversed,
    },
    "other roundings": {
        "silu": silu_of_sigmoid,
        "swiglu": swiglu_once,
        "l2_norm": l2_norm_two_steps,
        "rotary_embedding": rotary_by_complex_halves,
    },
    **EXPERT_VARIANTS,
    **INDEXER_VARIANTS,
    **LATENT_VARIANTS,
    **SAMPLING_VARIANTS,
    **MULTI_TOKEN_VARIANTS,
}
