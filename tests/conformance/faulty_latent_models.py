"""Engines of models with latent attention that are wired wrongly. Ids are those of the catalogue of bugs."""

from __future__ import annotations

from dataclasses import fields, replace

import refimpl
from refimpl.blocks import LatentAttention


def with_mixer(change):
    """An engine whose layers have the token mixer that `change` makes of the right one."""

    def load(directory):
        model = refimpl.load(directory, "float32")
        layers = tuple(replace(layer, mixer=change(layer.mixer)) for layer in model.blueprint.layers)
        return replace(model, blueprint=replace(model.blueprint, layers=layers))

    return load


def _wired_as(kind):
    return with_mixer(lambda mixer: kind(**{field.name: getattr(mixer, field.name) for field in fields(mixer)}))


def _in_other_pairs(mixer):
    return replace(mixer, rope=replace(mixer.rope, interleaved=not mixer.rope.interleaved))


class NormSkipped(LatentAttention):
    def _query_latent(self, ops, weights, x):
        return x if self.q_lora_rank is None else ops.linear(x, weights["q_a_proj.weight"], *self._bias(weights, "q_a_proj"))


class NormAfterUpProjection(NormSkipped):
    def _query(self, ops, weights, q_latent, inputs):
        if self.q_lora_rank is None:
            return super()._query(ops, weights, q_latent, inputs)
        normed = ops.rms_norm(ops.linear(q_latent, weights["q_b_proj.weight"]), eps=self.norm_eps)
        nope, rope = ops.split(ops.split_heads(normed, heads=self.heads), sizes=(self.nope_head_dim, self.rope_head_dim))
        return ops.concat(nope, self._rotate(ops, rope, inputs))


class RotatedKeyNormed(LatentAttention):
    def _latent(self, ops, weights, x, inputs):
        latent, k_rope = super()._latent(ops, weights, x, inputs)
        return latent, ops.rms_norm(k_rope, eps=self.norm_eps)


class LatentNotNormed(LatentAttention):
    def _latent(self, ops, weights, x, inputs):
        both = ops.linear(x, weights["kv_a_proj.weight"], *self._bias(weights, "kv_a_proj"))
        latent, _ = ops.split(both, sizes=(self.kv_lora_rank, self.rope_head_dim))
        return latent, super()._latent(ops, weights, x, inputs)[1]


class KeyNotRotated(LatentAttention):
    def _latent(self, ops, weights, x, inputs):
        both = ops.linear(x, weights["kv_a_proj.weight"], *self._bias(weights, "kv_a_proj"))
        _, rope = ops.split(both, sizes=(self.kv_lora_rank, self.rope_head_dim))
        return super()._latent(ops, weights, x, inputs)[0], rope


class DecodingInOtherPairs(LatentAttention):
    """What a prefill has cached is rotated by the right rule, what comes later is not."""

    def __call__(self, ops, weights, x, inputs, state):
        if state is None:
            return super().__call__(ops, weights, x, inputs, state)
        other = _in_other_pairs(self)
        wrong = LatentAttention(**{field.name: getattr(other, field.name) for field in fields(other)})
        return wrong(ops, weights, x, replace(inputs, rotations={wrong.rope: inputs.rotations[self.rope]}), state)


def _scaled(factor):
    return with_mixer(lambda mixer: replace(mixer, scale=factor(mixer)))


FAULTY_LATENT_MODELS = {
    "rotated in other pairs": with_mixer(_in_other_pairs),  # mla-rope-not-interleaved
    "decoding rotates in other pairs": _wired_as(DecodingInOtherPairs),  # mla-rope-gpt-neox-style-kernel
    "norm of queries skipped": _wired_as(NormSkipped),  # mla-q-norm-after-up-proj
    "norm of queries after the up-projection": _wired_as(NormAfterUpProjection),  # mla-q-norm-after-up-proj
    "norm over the rotated key": _wired_as(RotatedKeyNormed),  # mla-q-norm-after-up-proj
    "norm of latents skipped": _wired_as(LatentNotNormed),
    "rotated key not rotated": _wired_as(KeyNotRotated),
    # mla-scale-from-hidden-over-heads
    "scale from hidden over heads": _scaled(lambda mixer: (mixer.hidden_size / mixer.heads) ** -0.5),
    # mla-yarn-softmax-mscale-missing, mla-v2-mscale-all-dim-lost-in-refactor, mla-sdpa-default-scale
    "scale without YaRN": _scaled(lambda mixer: mixer.head_dim**-0.5),
    "scale with YaRN once": _scaled(lambda mixer: mixer.scale / mixer.rope.softmax_factor**0.5),
    "scale of the absorbed queries": _scaled(lambda mixer: (mixer.kv_lora_rank + mixer.rope_head_dim) ** -0.5),
}
