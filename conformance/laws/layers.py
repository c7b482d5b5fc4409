"""Laws of the other layers: norms, rotation, gated units, the ends."""

from __future__ import annotations

import numpy as np

from conformance.laws.law import Call, Draw, Law
from refimpl.layers import rope_frequencies
from refimpl.numerics import Array


def zero_centred(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, weight = draw.normal(2, 5, 24), draw.grid(24)
    return call("rms_norm", x, weight, eps=1e-6, zero_centred=True), call("rms_norm", x, 1 + weight, eps=1e-6)


def norm_of_rows(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, weight = draw.normal(5, 24), draw.normal(24)
    rows = [call("rms_norm", row[None], weight, eps=1e-5) for row in x]
    return np.concatenate(rows), call("rms_norm", x, weight, eps=1e-5)


def shifted_norm(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, weight, bias = draw.grid(5, 24), draw.normal(24), draw.normal(24)
    return call("layer_norm", x + 4, weight, bias, eps=1e-5), call("layer_norm", x, weight, bias, eps=1e-5)


def _rotation(draw: Draw, positions: Array, width: int) -> tuple[Array, Array]:
    """cos and sin [B, T, P/2], exact: each reading rounds them, as the law holds for true rotations only."""
    angles = positions[:, :, None] * rope_frequencies(width, theta=1e4, dtype=draw.wide)
    return np.cos(angles), np.sin(angles)


def relative_position(call: Call, draw: Draw) -> tuple[Array, Array]:
    """Scores of rotated queries and keys, and the same 1000 places later."""
    q, k = draw.normal(2, 5, 3, 8), draw.normal(2, 5, 3, 8)

    def scores(shift: int) -> Array:
        cos, sin = _rotation(draw, np.tile(np.arange(5) + shift, (2, 1)), 8)
        turned = [call("rotary_embedding", x, cos, sin) for x in (q, k)]
        return np.einsum("BTHK,BSHK->BHTS", *turned)

    return scores(1000), scores(0)


def rotation_keeps_length(call: Call, draw: Draw) -> tuple[Array, Array]:
    x = draw.normal(2, 5, 3, 10)
    cos, sin = _rotation(draw, draw.generator.integers(0, 5000, (2, 5)), 8)
    return np.square(call("rotary_embedding", x, cos, sin)).sum(axis=-1), np.square(x).sum(axis=-1)


def place_zero(call: Call, draw: Draw) -> tuple[Array, Array]:
    x = draw.normal(2, 5, 3, 8)
    ones, zeros = np.ones((2, 5, 4), x.dtype), np.zeros((2, 5, 4), x.dtype)
    return call("rotary_embedding", x, ones, zeros), x


def layouts(call: Call, draw: Draw) -> tuple[Array, Array]:
    """Pairs (2i, 2i + 1) moved to (i, i + P/2), rotated there, and moved back."""
    x = draw.normal(2, 5, 3, 8)
    cos, sin = _rotation(draw, draw.generator.integers(0, 5000, (2, 5)), 8)
    there = np.concatenate([np.arange(0, 8, 2), np.arange(1, 8, 2)])
    left = call("rotary_embedding", x[..., there], cos, sin)[..., np.argsort(there)]
    return left, call("rotary_embedding", x, cos, sin, interleaved=True)


def unit_circle(call: Call, draw: Draw) -> tuple[Array, Array]:
    """cos² + sin² = factor²."""
    positions = draw.generator.integers(0, 5000, (2, 5))
    inv_freq = draw.input(rope_frequencies(16, theta=1e4))
    cos, sin = call("rope_cos_sin", positions, inv_freq, attention_factor=1.5)
    return np.square(cos) + np.square(sin), np.full_like(cos, 2.25)


def unit_factor(call: Call, draw: Draw) -> tuple[Array, Array]:
    gate = draw.normal(5, 24, scale=2)
    return call("swiglu", gate, np.ones_like(gate)), call("silu", gate)


def unit_factor_gelu(call: Call, draw: Draw) -> tuple[Array, Array]:
    gate = draw.normal(5, 24, scale=2)
    left = call("geglu", gate, np.ones_like(gate), approximate="tanh")
    return left, call("gelu", gate, approximate="tanh")


def clamped_is_swiglu(call: Call, draw: Draw) -> tuple[Array, Array]:
    gate, up = draw.normal(5, 24, scale=2), draw.grid(5, 24)
    return call("clamped_swiglu", gate, up, alpha=1.0, limit=1000.0), call("swiglu", gate, up + 1)


def beyond_the_limit(call: Call, draw: Draw) -> tuple[Array, Array]:
    """Factors above the limit, against factors at it."""
    limit, up = 1.5, draw.normal(5, 24)
    gate = draw.input(draw.generator.uniform(1.5, 9, (5, 24)))
    left = call("clamped_swiglu", gate, up, alpha=1.702, limit=limit)
    return left, call("clamped_swiglu", np.full_like(gate, limit), np.clip(up, -limit, limit), alpha=1.702, limit=limit)


def opposite_sigmoids(call: Call, draw: Draw) -> tuple[Array, Array]:
    x = draw.normal(5, 24, scale=2)
    total = call("sigmoid", x) + call("sigmoid", -x)
    return total, np.ones_like(total)


def closed_half(call: Call, draw: Draw) -> tuple[Array, Array]:
    x = draw.normal(2, 5, 24)
    return call("sigmoid_gate", x, np.zeros_like(x[..., :1])), x / 2


def gate_of_every_entry(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, gate = draw.normal(2, 5, 24), draw.normal(2, 5, 1, scale=2)
    return call("sigmoid_gate", x, gate), call("sigmoid_gate", x, np.broadcast_to(gate, x.shape).copy())


def own_gate(call: Call, draw: Draw) -> tuple[Array, Array]:
    x = draw.normal(5, 24, scale=2)
    return call("sigmoid_gate", x, x), call("silu", x)


def head_is_linear(call: Call, draw: Draw) -> tuple[Array, Array]:
    x, weight = draw.normal(2, 5, 12), draw.normal(37, 12)
    return call("lm_head", x, weight), call("linear", x, weight)


def embedding_is_one_hot(call: Call, draw: Draw) -> tuple[Array, Array]:
    tokens, weight = draw.generator.integers(0, 11, (2, 5)), draw.normal(11, 6)
    return call("embedding", tokens, weight), call("linear", np.eye(11, dtype=weight.dtype)[tokens], weight.T)


def _law(name: str, statement: str, sides: object, *functions: str, **options: object) -> Law:
    return Law(name=name, functions=functions, statement=statement, sides=sides, **options)  # type: ignore[arg-type]


LAWS = (
    _law("zero_centred", "a zero-centred norm with w is a plain one with 1 + w", zero_centred, "rms_norm"),
    _law("rows", "rows are normed alone", norm_of_rows, "rms_norm"),
    _law("shift", "a constant added to a row changes nothing", shifted_norm, "layer_norm"),
    _law("relative", "scores depend on the difference of positions only", relative_position, "rotary_embedding"),
    _law("length", "a rotation keeps the length", rotation_keeps_length, "rotary_embedding"),
    _law("place_zero", "nothing turns at place 0", place_zero, "rotary_embedding"),
    _law("layouts", "the layouts differ by a permutation of entries only", layouts, "rotary_embedding"),
    _law(
        "unit_circle",
        "cos² + sin² is the square of the attention factor",
        unit_circle,
        "rope_cos_sin",
        dtypes=("float64", "float32"),
    ),
    _law("unit_factor", "with a factor of 1 swiglu is silu", unit_factor, "swiglu", "silu"),
    _law("unit_factor", "with a factor of 1 geglu is gelu", unit_factor_gelu, "geglu", "gelu"),
    _law("is_swiglu", "with a huge limit and alpha 1 it is swiglu with up + 1", clamped_is_swiglu, "clamped_swiglu", "swiglu"),
    _law("beyond", "factors beyond the limit are as factors at the limit", beyond_the_limit, "clamped_swiglu"),
    _law("opposite", "the sigmoids of opposite numbers sum to 1", opposite_sigmoids, "sigmoid"),
    _law("zero", "a gate of 0 halves", closed_half, "sigmoid_gate"),
    _law("every_entry", "one gate for all entries is the same gate for each", gate_of_every_entry, "sigmoid_gate"),
    _law("own_gate", "a value gated by itself is its silu", own_gate, "sigmoid_gate", "silu"),
    _law("is_linear", "a head without scale and cap is a linear map", head_is_linear, "lm_head", "linear"),
    _law("one_hot", "an embedding is a linear map of one-hot vectors", embedding_is_one_hot, "embedding", "linear"),
)
