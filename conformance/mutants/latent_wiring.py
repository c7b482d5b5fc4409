"""Models with latent attention that are wired wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.mutants.mutant import Mutant
from conformance.mutants.wiring import as_kind, with_mixers
from refimpl.blocks import Inputs, LatentAttention, State, Weights
from refimpl.blocks.rope import Yarn
from refimpl.blueprint import Blueprint
from refimpl.ops import Ops

Plans = Callable[[Blueprint], Blueprint]


def _wired_as(kind: type) -> Plans:
    return with_mixers(LatentAttention, lambda mixer: as_kind(kind, mixer))


def _scaled(scale: Callable[[LatentAttention], float]) -> Plans:
    return with_mixers(LatentAttention, lambda mixer: replace(mixer, scale=scale(mixer)))


def _scaled_by_yarn(mixer: LatentAttention) -> float:
    scaling = mixer.rope.scaling if mixer.rope else None
    return mixer.scale * (1 + 0.1 * np.log(scaling.factor)) ** 2 if isinstance(scaling, Yarn) else mixer.scale


def _in_other_pairs(mixer: LatentAttention) -> LatentAttention:
    return mixer if mixer.rope is None else replace(mixer, rope=replace(mixer.rope, interleaved=not mixer.rope.interleaved))


class NormSkipped(LatentAttention):
    def _query_latent(self, ops: Ops, weights: Weights, x: Any) -> Any:
        return x if self.q_lora_rank is None else ops.linear(x, weights["q_a_proj.weight"], *self._bias(weights, "q_a_proj"))


class NormAfterUpProjection(NormSkipped):
    def _query(self, ops: Ops, weights: Weights, q_latent: Any, inputs: Inputs) -> Any:
        if self.q_lora_rank is None:
            return super()._query(ops, weights, q_latent, inputs)
        normed = ops.rms_norm(ops.linear(q_latent, weights["q_b_proj.weight"]), eps=self.norm_eps)
        nope, rope = ops.split(ops.split_heads(normed, heads=self.heads), sizes=(self.nope_head_dim, self.rope_head_dim))
        return ops.concat(nope, self._rotate(ops, rope, inputs))


class RotatedKeyNormed(LatentAttention):
    def _latent(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs) -> tuple[Any, Any]:
        latent, k_rope = super()._latent(ops, weights, x, inputs)
        return latent, ops.rms_norm(k_rope, eps=self.norm_eps)


class LatentNotNormed(LatentAttention):
    def _latent(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs) -> tuple[Any, Any]:
        both = ops.linear(x, weights["kv_a_proj.weight"], *self._bias(weights, "kv_a_proj"))
        latent, _ = ops.split(both, sizes=(self.kv_lora_rank, self.rope_head_dim))
        return latent, super()._latent(ops, weights, x, inputs)[1]


class KeyNotRotated(LatentAttention):
    def _latent(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs) -> tuple[Any, Any]:
        both = ops.linear(x, weights["kv_a_proj.weight"], *self._bias(weights, "kv_a_proj"))
        _, rope = ops.split(both, sizes=(self.kv_lora_rank, self.rope_head_dim))
        return super()._latent(ops, weights, x, inputs)[0], rope


class DecodingInOtherPairs(LatentAttention):
    """What a prefill has cached is rotated by the right rule, what comes later is not."""

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        if state is None:
            return super().__call__(ops, weights, x, inputs, state)
        other = _in_other_pairs(self)
        wrong = as_kind(LatentAttention, other)
        return wrong(ops, weights, x, replace(inputs, rotations={wrong.rope: inputs.rotations[self.rope]}), state)


V3 = ("deepseek_v3",)
MUTANTS = tuple(
    Mutant(id=id, says=says, blueprint=blueprint, architectures=architectures, reports=tuple(reports))
    for id, blueprint, architectures, says, *reports in (
        (
            "mla-rope-not-interleaved",
            with_mixers(LatentAttention, _in_other_pairs),
            V3,
            "Neighbours are turned where the two halves belong together, or the reverse.",
        ),
        (
            "decoding-rotates-in-other-pairs",
            _wired_as(DecodingInOtherPairs),
            V3,
            "Tokens that follow a cache are rotated in other pairs than those in it.",
            "mla-rope-gpt-neox-style-kernel",
        ),
        (
            "norm-of-queries-skipped",
            _wired_as(NormSkipped),
            V3,
            "The latent of the queries is not normed.",
            "mla-q-norm-after-up-proj",
        ),
        (
            "mla-q-norm-after-up-proj",
            _wired_as(NormAfterUpProjection),
            V3,
            "Queries are normed after the up-projection and not before.",
        ),
        (
            "norm-over-the-rotated-key",
            _wired_as(RotatedKeyNormed),
            V3,
            "The rotated key is normed as well.",
            "mla-q-norm-after-up-proj",
        ),
        ("norm-of-latents-skipped", _wired_as(LatentNotNormed), V3, "The latent of keys and values is not normed."),
        ("rotated-key-not-rotated", _wired_as(KeyNotRotated), V3, "The key that is to be rotated is not."),
        (
            "mla-scale-from-hidden-over-heads",
            _scaled(lambda mixer: (mixer.hidden_size / mixer.heads) ** -0.5),
            V3,
            "The scale follows from the hidden size and the number of heads.",
        ),
        (
            "scale-without-yarn",
            _scaled(lambda mixer: mixer.head_dim**-0.5),
            V3,
            "The scale is that of the width, without the factor of YaRN.",
            "mla-yarn-softmax-mscale-missing",
            "mla-v2-mscale-all-dim-lost-in-refactor",
        ),
        (
            "scale-with-yarn-once",
            _scaled(lambda mixer: mixer.scale / mixer.rope.softmax_factor**0.5 if mixer.rope else mixer.scale),
            V3,
            "The factor of YaRN multiplies the scale once and not twice.",
        ),
        (
            "scale-of-the-absorbed-queries",
            _scaled(lambda mixer: (mixer.kv_lora_rank + mixer.rope_head_dim) ** -0.5),
            V3,
            "The scale is that of the width of the absorbed queries.",
            "mla-sdpa-default-scale",
        ),
        (
            "one-eps-for-all-norms",
            with_mixers(LatentAttention, lambda mixer: replace(mixer, norm_eps=0.2)),
            ("mistral4",),
            "The norms between the projections have the eps of the others.",
        ),
        (
            "yarn-scales-though-it-must-not",
            _scaled(_scaled_by_yarn),
            ("mistral_large3",),
            "The scale has the factor of YaRN though the release has none.",
        ),
    )
)
