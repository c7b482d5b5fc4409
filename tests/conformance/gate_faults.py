"""Gates, temperatures, sinks, rings and MXFP4 that are wrong as real ones have been."""

from __future__ import annotations

import numpy as np

from refimpl import layers
from refimpl.numerics import FORMATS
from tests.conformance.computing import computing_in

wide = computing_in(np.float32)


@wide
def gate_clamped_on_both_sides(gate, up, *, alpha, limit):
    return layers.clamped_swiglu(np.maximum(gate, gate.dtype.type(-limit)), up, alpha=alpha, limit=limit)


@wide
def limit_dropped(gate, up, *, alpha, limit):
    return layers.clamped_swiglu(gate, up, alpha=alpha, limit=1e4)


@wide
def alpha_dropped(gate, up, *, alpha, limit):
    return layers.clamped_swiglu(gate, up, alpha=1.0, limit=limit)


@wide
def constants_of_the_release(gate, up, *, alpha, limit):
    return layers.clamped_swiglu(gate, up, alpha=1.702, limit=7.0)


@wide
def alpha_in_bfloat16(gate, up, *, alpha, limit):
    return layers.clamped_swiglu(gate, up, alpha=float(FORMATS["bfloat16"].type(alpha)), limit=limit)


@wide
def one_not_added(gate, up, *, alpha, limit):
    bound = gate.dtype.type(limit)
    gate = np.minimum(gate, bound)
    return gate * layers.sigmoid(gate.dtype.type(alpha) * gate) * np.clip(up, -bound, bound)


@wide
def one_added_before_the_clamp(gate, up, *, alpha, limit):
    gate = np.minimum(gate, gate.dtype.type(limit))
    return gate * layers.sigmoid(gate.dtype.type(alpha) * gate) * np.clip(up + 1, -limit, limit)


@wide
def gate_left_out(x, gate):
    return x + 0 * gate


@wide
def gate_without_sigmoid(x, gate):
    return x * gate


@wide
def gate_of_the_value(x, gate):
    """The gate's memory holds the value by then."""
    return x * layers.sigmoid(x)


@wide
def temperature_before_cap(q, k, v, *, temperature=None, **options):
    return layers.attention(q if temperature is None else q * temperature[:, :, None, None], k, v, **options)


@wide
def temperature_of_the_keys(q, k, v, *, temperature=None, **options):
    """The temperature of the key's place in the queries' row, as of a square of scores read the wrong way."""
    if temperature is not None:
        k = k * np.resize(temperature, k.shape[:2])[:, :, None, None]
    return layers.attention(q, k, v, **options)


@wide
def temperature_on_sinks(q, k, v, *, temperature=None, sinks=None, **options):
    if temperature is None or sinks is None:
        return layers.attention(q, k, v, **options, **_given(temperature=temperature, sinks=sinks))
    rows = [
        layers.attention(
            q[b : b + 1],
            k[b : b + 1],
            v[b : b + 1],
            temperature=temperature[b : b + 1],
            sinks=sinks * temperature[b, -1],
            **options,
        )
        for b in range(len(q))
    ]
    return np.concatenate(rows)


@wide
def temperature_on_bias(q, k, v, *, temperature=None, bias=None, **options):
    if temperature is not None and bias is not None:
        bias = bias * temperature[:, None, :, None]
    return layers.attention(q, k, v, **options, **_given(temperature=temperature, bias=bias))


@wide
def temperature_dropped(q, k, v, *, temperature=None, **options):
    return layers.attention(q, k, v, **options)


@wide
def sink_added_to_every_score(q, k, v, *, sinks=None, bias=None, **options):
    if sinks is not None:
        bias = sinks[:, None, None] + (0 if bias is None else bias)
    return layers.attention(q, k, v, **options, **_given(bias=bias))


@wide
def sink_counted_twice(q, k, v, *, sinks=None, **options):
    return layers.attention(q, k, v, **options, **_given(sinks=None if sinks is None else sinks + np.log(sinks.dtype.type(2))))


def _given(**options):
    return {name: value for name, value in options.items() if value is not None}


def ring_of_columns(new, order, ring=None, *, window):
    columns = np.tile(np.arange(order.shape[1]), (len(order), 1))
    return layers.ring_append(new, columns, ring, window=window)


def ring_that_rolls(new, order, ring=None, *, window):
    """The last tokens in their order."""
    return (new if ring is None else np.concatenate([ring, new], axis=1))[:, -window:]


def ring_written_backwards(new, order, ring=None, *, window):
    """Of a piece longer than the window the first tokens stay."""
    result = layers.ring_append(new, order, ring, window=window)
    past = order.shape[1] - new.shape[1]
    for token in reversed(range(new.shape[1])):
        for row in range(len(new)):
            if order[row, past + token] >= 0:
                result[row, order[row, past + token] % window] = new[row, token]
    return result


def ring_one_slot_further(new, order, ring=None, *, window):
    result = layers.ring_append(new, order, ring, window=window)
    return np.roll(result, 1, axis=1) if result.shape[1] == window else result


def ring_with_padding(new, order, ring=None, *, window):
    """Padding is written into the last slot."""
    result = layers.ring_append(new, order, ring, window=window)
    rows, tokens = np.nonzero(order[:, order.shape[1] - new.shape[1] :] < 0)
    result[rows, -1] = new[rows, tokens]
    return result


def order_of_columns(order, *, window):
    return layers.ring_order(np.tile(np.arange(order.shape[1]), (len(order), 1)), window=window)


def order_of_a_roll(order, *, window):
    return order[:, -window:].astype(np.int64)


def order_without_empty_slots(order, *, window):
    return np.maximum(layers.ring_order(order, window=window), 0)


def _codes(change):
    def mxfp4_decode(blocks, scales, *, dtype=np.float32):
        return layers.mxfp4_decode(change(blocks), scales, dtype=dtype)

    return mxfp4_decode


def _scaled(exponent_of):
    def mxfp4_decode(blocks, scales, *, dtype=np.float32):
        plain = layers.mxfp4_decode(blocks, np.full_like(scales, 127), dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            return (plain * np.repeat(np.ldexp(1.0, exponent_of(scales.astype(int))), 32, axis=-1)).astype(dtype)

    return mxfp4_decode


def codes_in_twos_complement(blocks, scales, *, dtype=np.float32):
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*scales.shape, 32).astype(int)
    values = np.where(codes > 7, codes - 16, codes) / 2
    return np.ldexp(values, scales.astype(int)[..., None] - 127).reshape(*scales.shape[:-1], -1).astype(dtype)


def halves_apart(blocks, scales, *, dtype=np.float32):
    """All low halves of a block, then all high ones."""
    values = layers.mxfp4_decode(blocks, scales, dtype=dtype).reshape(*scales.shape, 16, 2)
    return np.swapaxes(values, -1, -2).reshape(*scales.shape[:-1], -1)


def ratio_of_lengths(positions, *, length, dtype=np.float64):
    return np.maximum(positions, length).astype(dtype) / length


def reciprocal_ratio(positions, *, length, dtype=np.float64):
    return length / np.maximum(positions, length).astype(dtype)


def positions_from_one(positions, *, length, dtype=np.float64):
    return layers.log_length_temperature(positions + 1, length=length, dtype=dtype)


def colder_before_the_length(positions, *, length, dtype=np.float64):
    return (np.log(np.maximum(positions, 1)) / np.log(length)).astype(dtype)


def offset_dropped(positions, *, scale, floor, offset=1, dtype=np.float64):
    return layers.log_floor_temperature(positions, scale=scale, floor=floor, offset=0, dtype=dtype)


def without_steps(positions, *, scale, floor, offset=1, dtype=np.float64):
    return (1 + scale * np.log(1 + (positions + offset) / floor)).astype(dtype)


def one_inside_left_out(positions, *, scale, floor, offset=1, dtype=np.float64):
    return (1 + scale * np.log(np.maximum((positions + offset) // floor, 1))).astype(dtype)


# Fault -> the function, and the implementation that has it. An id of the catalogue of bugs stands where there is one.
GATE_FAULTS = {
    "swiglu-gate-clamped-symmetrically": ("clamped_swiglu", gate_clamped_on_both_sides),
    "limit dropped": ("clamped_swiglu", limit_dropped),
    "swiglu-alpha-dropped-on-dtype-path": ("clamped_swiglu", alpha_dropped),
    "swiglu-constants-hardcoded-bf16": ("clamped_swiglu", constants_of_the_release),
    "1 not added": ("clamped_swiglu", one_not_added),
    "1 added before the clamp": ("clamped_swiglu", one_added_before_the_clamp),
    "shared-gate-removed": ("sigmoid_gate", gate_left_out),
    "gate without sigmoid": ("sigmoid_gate", gate_without_sigmoid),
    "gate overwritten by the value": ("sigmoid_gate", gate_of_the_value),
    "temperature before the cap": ("attention", temperature_before_cap),
    "temperature of the keys": ("attention", temperature_of_the_keys),
    "temperature on the sinks": ("attention", temperature_on_sinks),
    "temperature on the bias": ("attention", temperature_on_bias),
    "llama4-qknorm-before-rope-and-no-temperature": ("attention", temperature_dropped),
    "sinks-applied-in-score-mod": ("attention", sink_added_to_every_score),
    "sink-counted-per-split": ("attention", sink_counted_twice),
    "ring of columns": ("ring_append", ring_of_columns),
    "ring that rolls": ("ring_append", ring_that_rolls),
    "ring-cache-chunked-prefill-corrupt": ("ring_append", ring_written_backwards),
    "ring one slot further": ("ring_append", ring_one_slot_further),
    "padding in the ring": ("ring_append", ring_with_padding),
}
WIDE, DECODED = ("float64", "float32"), ("float64", "float32", "bfloat16")
# Those that exist in some formats alone: the formats too.
GATE_FAULTS_OF_SOME_FORMATS = {
    "alpha in bfloat16": ("clamped_swiglu", alpha_in_bfloat16, WIDE),
    "high half first": ("mxfp4_decode", _codes(lambda blocks: blocks >> 4 | blocks << 4), DECODED),
    "halves apart": ("mxfp4_decode", halves_apart, DECODED),
    "mxfp4-scale-bias-125": ("mxfp4_decode", _scaled(lambda scales: scales - 125), DECODED),
    "mx-scale-shift-left-raw": ("mxfp4_decode", _scaled(lambda scales: scales), DECODED),
    "a scale that is no number taken for one": ("mxfp4_decode", _scaled(lambda scales: scales - 127), DECODED),
    "codes in two's complement": ("mxfp4_decode", codes_in_twos_complement, DECODED),
    "order of columns": ("ring_order", order_of_columns, ("int64",)),
    "order of a roll": ("ring_order", order_of_a_roll, ("int64",)),
    "empty slots at place 0": ("ring_order", order_without_empty_slots, ("int64",)),
    "grok-temperature-reciprocal-vs-log": ("log_length_temperature", ratio_of_lengths, WIDE),
    "reciprocal ratio": ("log_length_temperature", reciprocal_ratio, WIDE),
    "positions from one": ("log_length_temperature", positions_from_one, WIDE),
    "colder before the length": ("log_length_temperature", colder_before_the_length, WIDE),
    "offset dropped": ("log_floor_temperature", offset_dropped, WIDE),
    "temperature without steps": ("log_floor_temperature", without_steps, WIDE),
    "1 inside left out": ("log_floor_temperature", one_inside_left_out, WIDE),
}
