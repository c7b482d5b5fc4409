"""Routers, experts, gates and rings that are right in other ways than the specification."""

from __future__ import annotations

import numpy as np

from conformance.backends import numpy as specification
from refimpl import layers
from tests.conformance.computing import computing_in, rounding_every_step

float32 = computing_in(np.float32)


def _best(scores, top_k):
    """Of equal scores the last is chosen, and an expert is never chosen twice."""
    order = np.argsort(scores[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., :top_k]
    return scores.shape[-1] - 1 - order


def _gather(values, indices):
    return np.take_along_axis(values, indices, axis=-1)


@float32
def top_k_softmax_by_log_sum_exp(logits, *, top_k):
    indices = _best(logits, top_k)
    chosen = _gather(logits, indices)
    top = chosen.max(axis=-1, keepdims=True)
    return indices, np.exp(chosen - (top + np.log(np.exp(chosen - top).sum(axis=-1, keepdims=True))))


@float32
def softmax_then_choose(logits, *, top_k):
    """A softmax over all experts, renormalised."""
    probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
    indices = _best(logits, top_k)
    weights = _gather(probabilities / probabilities.sum(axis=-1, keepdims=True), indices)
    return indices, weights / weights.sum(axis=-1, keepdims=True)


@float32
def softmax_top_k_by_logits(logits, *, top_k, renormalise):
    """The choice is made before the softmax, which keeps the order."""
    indices = _best(logits, top_k)
    if renormalise:
        return indices, top_k_softmax_by_log_sum_exp(logits, top_k=top_k)[1]
    total = np.log(np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1, keepdims=True))
    return indices, np.exp(_gather(logits, indices) - logits.max(axis=-1, keepdims=True) - total)


@float32
def softcapped_softmax_by_logits(logits, *, top_k, softcap):
    cap = logits.dtype.type(softcap)
    return softmax_top_k_by_logits(cap * np.tanh(logits / cap), top_k=top_k, renormalise=False)


@float32
def sigmoid_by_tanh(
    logits, correction_bias=None, *, top_k, groups=1, top_groups=1, renormalise=True, eps=1e-20, scaling_factor=1.0
):
    """Groups one after the other; the factor divides the sum."""
    scores = (np.tanh(logits / 2) + 1) / 2
    corrected = scores + (0 if correction_bias is None else correction_bias)
    grouped = corrected.reshape(*corrected.shape[:-1], groups, -1)
    if groups > 1:
        two = -np.sort(-grouped, axis=-1)[..., :2]
        best = _best(two.sum(axis=-1), top_groups)
        hidden = ~(np.arange(groups) == best[..., None]).any(axis=-2)
        grouped = np.where(hidden[..., None], grouped.dtype.type(-np.inf), grouped)
    indices = _best(grouped.reshape(corrected.shape), top_k)
    weights = 1 / (1 + np.exp(-_gather(logits, indices)))
    scale = scores.dtype.type(scaling_factor)
    return indices, weights / (
        (weights.sum(axis=-1, keepdims=True) + scores.dtype.type(eps)) / scale
    ) if renormalise else weights * scale


@float32
def top_k_sigmoid_by_tanh(logits, *, top_k):
    indices = _best(logits, top_k)
    return indices, (np.tanh(_gather(logits, indices) / 2) + 1) / 2


def _expert(x, e, matrices, biases, activation, constants):
    gate_bias, up_bias, down_bias = (None if bias is None else bias[e] for bias in biases)
    gate, up = layers.linear(x, matrices[0][e], gate_bias), layers.linear(x, matrices[1][e], up_bias)
    match activation:
        case "silu":
            product = layers.swiglu(gate, up)
        case "clamped_swiglu":
            product = layers.clamped_swiglu(gate, up, **constants)
        case _:
            product = layers.geglu(gate, up, approximate="tanh" if activation == "gelu_tanh" else "none")
    return layers.linear(product, matrices[2][e], down_bias)


def experts_by_slot(
    x, indices, weights, gate, up, down, gate_bias=None, up_bias=None, down_bias=None, *, activation="silu", **options
):
    """Token by token, and for each token one of its experts after the other."""
    scale_input, constants = options.pop("scale_input", False), options
    y = np.zeros_like(x)
    for token in np.ndindex(x.shape[:-1]):
        for slot in reversed(range(indices.shape[-1])):
            share, row = weights[token][slot], x[token][None]
            arguments = (indices[token][slot], (gate, up, down), (gate_bias, up_bias, down_bias), activation, constants)
            output = _expert(row * share, *arguments)[0] if scale_input else _expert(row, *arguments)[0] * share
            y[token] = y[token] + output
    return y


def experts_combined_in_float32(x, indices, weights, *matrices, scale_input=False, **options):
    """Each expert in the tested format, its outputs weighed and summed in float32 and rounded once."""
    wide = np.float64 if x.dtype == np.float64 else np.float32
    y = np.zeros(x.shape, wide)
    for slot in range(indices.shape[-1]):
        one = indices[..., slot : slot + 1]
        if scale_input:
            share = weights[..., slot : slot + 1]
            y += specification.routed_experts(x, one, share, *matrices, scale_input=True, **options).astype(wide)
        else:
            output = specification.routed_experts(x, one, np.ones_like(weights[..., :1]), *matrices, **options)
            y += output.astype(wide) * weights[..., slot : slot + 1].astype(wide)
    return y.astype(x.dtype)


@float32
def clamped_swiglu_once(gate, up, *, alpha, limit):
    gate, up = np.minimum(gate, gate.dtype.type(limit)), np.clip(up, -limit, limit)
    return gate / (1 + np.exp(-gate.dtype.type(alpha) * gate)) * up + gate / (1 + np.exp(-gate.dtype.type(alpha) * gate))


@float32
def sigmoid_by_tanh_alone(x):
    return (np.tanh(x / 2) + 1) / 2


@float32
def sigmoid_gate_by_division(x, gate):
    return x / (1 + np.exp(-gate))


def ring_token_by_token(new, order, ring=None, *, window):
    """Every real token into its slot, whether it will stay or not."""
    batch, length = order.shape
    past = length - new.shape[1]
    result = np.zeros((batch, min(length, window), *new.shape[2:]), new.dtype)
    if ring is not None:
        result[:, : ring.shape[1]] = ring
    for token in range(past, length):
        for row in range(batch):
            if order[row, token] >= 0:
                result[row, order[row, token] % window] = new[row, token - past]
    return result


def mxfp4_by_table(blocks, scales, *, dtype=np.float32):
    """Sign, exponent and mantissa of a code taken apart, in float64."""
    codes = np.stack([blocks % 16, blocks // 16], axis=-1).reshape(*scales.shape, 32).astype(int)
    sign, exponent, mantissa = 1 - 2 * (codes >> 3), codes >> 1 & 3, codes & 1
    size = np.where(exponent == 0, mantissa * 0.5, (1 + mantissa / 2) * 2.0 ** (exponent - 1))
    power = np.where(scales == 255, np.nan, 2.0 ** (scales.astype(float) - 127))
    return (sign * size * power[..., None]).reshape(*scales.shape[:-1], -1).astype(dtype)


def temperature_in_base_two(positions, *, length, dtype=np.float64):
    return (np.log2(np.maximum(positions, length)) / np.log2(length)).astype(dtype)


def temperature_step_by_step(positions, *, scale, floor, offset=1, dtype=np.float64):
    return (1 + scale * np.log1p(np.floor((positions + offset) / floor))).astype(dtype)


@rounding_every_step
def attention_with_a_longer_query(q, k, v, *, temperature=None, softcap=None, **options):
    """The temperature multiplies the query, which is rounded again; with a softcap, the scores."""
    if temperature is not None and softcap is None:
        q, temperature = q * temperature[:, :, None, None], None
    present = {"temperature": temperature, "softcap": softcap}
    return layers.attention(q, k, v, **{name: value for name, value in present.items() if value is not None}, **options)


EXPERT_VARIANTS = {
    "routers by logarithms, the last of equals": {
        "top_k_softmax_router": top_k_softmax_by_log_sum_exp,
        "softmax_top_k_router": softmax_top_k_by_logits,
        "softcapped_softmax_router": softcapped_softmax_by_logits,
        "sigmoid_router": sigmoid_by_tanh,
        "top_k_sigmoid_router": top_k_sigmoid_by_tanh,
    },
    "softmax before the choice": {"top_k_softmax_router": softmax_then_choose},
    "experts one slot after the other, in float32": {"routed_experts": float32(experts_by_slot)},
    "experts one slot after the other, rounded at every step": {"routed_experts": rounding_every_step(experts_by_slot)},
    "experts combined in float32": {"routed_experts": experts_combined_in_float32},
    "gates and rings in other ways": {
        "clamped_swiglu": clamped_swiglu_once,
        "sigmoid": sigmoid_by_tanh_alone,
        "sigmoid_gate": sigmoid_gate_by_division,
        "ring_append": ring_token_by_token,
        "mxfp4_decode": mxfp4_by_table,
        "log_length_temperature": temperature_in_base_two,
        "log_floor_temperature": temperature_step_by_step,
        "attention": attention_with_a_longer_query,
    },
}
