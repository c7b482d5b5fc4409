"""Models whose rotations have another width, base or attention factor than their configuration says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isclose, log
from typing import Any

from conformance.mutants.mutant import Mutant
from conformance.mutants.wiring import with_mixers
from refimpl.blocks import Attention, Rope
from refimpl.blocks.rope import Yarn
from refimpl.blueprint import Blueprint

Plans = Callable[[Blueprint], Blueprint]


def _with_rotation(change: Callable[[Rope, Attention], Rope]) -> Plans:
    return with_mixers(Attention, lambda mixer: mixer if mixer.rope is None else replace(mixer, rope=change(mixer.rope, mixer)))


def _over(width: Callable[[Any], float]) -> Plans:
    """The exponents of the base are spread over another width than what turns."""

    def change(rope: Rope, mixer: Attention) -> Rope:
        return replace(rope, theta=rope.theta ** (rope.rotary_dim / width(mixer)))

    return _with_rotation(change)


def _computed(scaling: Yarn) -> float:
    return 0.1 * log(scaling.factor) + 1


def _with_factor(factor: Callable[[Yarn], float]) -> Plans:
    """Where the configuration gives the attention factor it is another."""

    def change(rope: Rope, mixer: Attention) -> Rope:
        scaling = rope.scaling
        if not isinstance(scaling, Yarn) or isclose(scaling.attention_factor, _computed(scaling)):
            return rope
        return replace(rope, scaling=replace(scaling, attention_factor=factor(scaling)))

    return _with_rotation(change)


def _scaled_twice(mixer: Attention) -> Attention:
    scaling = None if mixer.rope is None else mixer.rope.scaling
    return replace(mixer, scale=mixer.scale * _computed(scaling) ** 2) if isinstance(scaling, Yarn) else mixer


PARTIAL, YARN = ("glm4_moe", "minimax_m2"), ("qwen3", "gpt_oss")
MUTANTS = (
    Mutant(
        id="rope-table-from-derived-head-dim",
        says="Frequencies are spread over the hidden size divided by the heads though heads have another width.",
        blueprint=_over(lambda mixer: mixer.hidden_size / mixer.heads),
        architectures=("mistral", "qwen3", "llama"),
    ),
    Mutant(
        id="partial-rotary-posthoc-hack",
        says="Frequencies are spread over the whole head though a part of it turns.",
        blueprint=_over(lambda mixer: mixer.head_dim),
        architectures=PARTIAL,
    ),
    Mutant(
        id="partial-rotary-key-missing-without-scaling",
        says="The whole head turns: the share that should is read only beside a scaling.",
        blueprint=_with_rotation(lambda rope, mixer: replace(rope, rotary_dim=mixer.head_dim)),
        architectures=PARTIAL,
    ),
    Mutant(
        id="yarn-attention-factor-ignored",
        says="The attention factor is computed though the configuration gives one.",
        blueprint=_with_factor(_computed),
        architectures=YARN,
    ),
    Mutant(
        id="yarn-attention-factor-squared",
        says="The attention factor of the configuration multiplies the computed one.",
        blueprint=_with_factor(lambda scaling: scaling.attention_factor * _computed(scaling)),
        architectures=YARN,
    ),
    Mutant(
        id="yarn-attention-factor-through-log",
        says="The attention factor of the configuration is put into the formula that computes one.",
        blueprint=_with_factor(lambda scaling: 0.1 * scaling.attention_factor * log(scaling.factor) + 1),
        architectures=YARN,
    ),
    Mutant(
        id="yarn-softmax-scale-on-non-mla",
        says="The scale of attention gets the factor that cos and sin have already.",
        blueprint=with_mixers(Attention, _scaled_twice),
        architectures=YARN,
    ),
)
