"""Decays that are wrong: the rate, the bias, the softplus between them."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from conformance.mutants.by_name import Arguments, computed, given
from conformance.mutants.mutant import layer
from refimpl import layers
from refimpl.numerics import Array

DECAY = "softplus_decay"
LOWER_BOUND = -5.0  # of the gates that have one


def _biased(own: Arguments) -> Array:
    return own["a"] + own["dt_bias"].reshape(own["a"].shape[2:])


def _rate(own: Arguments) -> Array:
    return np.exp(own["a_log"]).reshape(-1, *(1,) * (own["a"].ndim - 3))


def bias_of_the_head(own: Arguments) -> Arguments:
    """Of the flat biases, entry h is taken for all channels of head h."""
    a = own["a"]
    return {"dt_bias": np.repeat(own["dt_bias"][: a.shape[2]], np.prod(a.shape[3:], dtype=int))}


def bias_of_channels_first(own: Arguments) -> Arguments:
    """The memory of biases [K, H] is taken for one of [H, K]."""
    return {"dt_bias": own["dt_bias"].reshape(own["a"].shape[2:]).T.reshape(-1)}


def bounded_below_by_a_sigmoid(own: Arguments) -> Array:
    return own["a"].dtype.type(LOWER_BOUND) * layers.sigmoid(_rate(own) * _biased(own))


def clamped(own: Arguments) -> Array:
    return np.maximum(layers.softplus_decay(**own), own["a"].dtype.type(LOWER_BOUND))


def relu(own: Arguments) -> Array:
    return -_rate(own) * np.maximum(_biased(own), 0)


def no_softplus(own: Arguments) -> Array:
    return -_rate(own) * _biased(own)


@np.errstate(over="ignore", divide="ignore")
def softplus_of_two_steps(own: Arguments) -> Array:
    """ln(1 + e^x) as it is written: infinite for a large x, 0 for a small one."""
    return -_rate(own) * np.log(1 + np.exp(_biased(own)))


def linear_from_one_on(own: Arguments) -> Array:
    x = _biased(own)
    return np.where(x > 1, -_rate(own) * x, layers.softplus_decay(**own))


def bias_after_the_softplus(own: Arguments) -> Array:
    unbiased = np.logaddexp(0, own["a"]).astype(own["a"].dtype)
    return -_rate(own) * (unbiased + own["dt_bias"].reshape(own["a"].shape[2:]))


def in_bfloat16(own: Arguments) -> Array:
    return layers.softplus_decay(**own).astype(ml_dtypes.bfloat16).astype(own["a"].dtype)


MUTANTS = tuple(
    layer(id, DECAY, fault, says)
    for id, fault, says in (
        ("kda-dt-bias-read-per-head", given(DECAY, bias_of_the_head), "One bias a head is read where there is one a channel."),
        ("decay-bias-of-channels-first", given(DECAY, bias_of_channels_first), "Biases are read channels first."),
        ("kda-gate-mode-mixup", computed(DECAY, bounded_below_by_a_sigmoid), "The decay is that of gates with a lower bound."),
        ("kda-safe-gate-clamped-softplus", computed(DECAY, clamped), "The logarithm of the decay stops at a lower bound."),
        ("decay-without-softplus", computed(DECAY, no_softplus), "The softplus is left out."),
        ("decay-relu-for-softplus", computed(DECAY, relu), "The softplus is taken for a ramp."),
        ("decay-softplus-of-two-steps", computed(DECAY, softplus_of_two_steps), "The softplus overflows, and is 0 too early."),
        ("decay-softplus-linear-from-1", computed(DECAY, linear_from_one_on), "The softplus is x itself from 1 on."),
        (
            "decay-rate-not-exponentiated",
            given(DECAY, lambda own: {"a_log": np.log(np.abs(own["a_log"]))}),
            "The logarithm of the rate is taken for the rate.",
        ),
        ("decay-rate-1", given(DECAY, lambda own: {"a_log": np.zeros_like(own["a_log"])}), "The rate of the head is left out."),
        (
            "decay-rate-of-the-next-head",
            given(DECAY, lambda own: {"a_log": np.roll(own["a_log"], 1)}),
            "Each head has the rate of another.",
        ),
        (
            "decay-bias-dropped",
            given(DECAY, lambda own: {"dt_bias": np.zeros_like(own["dt_bias"])}),
            "The bias is left out.",
        ),
        ("decay-bias-after-the-softplus", computed(DECAY, bias_after_the_softplus), "The bias is added after the softplus."),
        ("decay-rounded-to-bfloat16", computed(DECAY, in_bfloat16), "The logarithm of the decay is rounded to bfloat16."),
        ("decay-of-the-other-sign", computed(DECAY, lambda own: -layers.softplus_decay(**own)), "The state grows."),
        (
            "decay-itself-for-its-logarithm",
            computed(DECAY, lambda own: np.exp(layers.softplus_decay(**own))),
            "The decay is returned and not its logarithm.",
        ),
    )
)
