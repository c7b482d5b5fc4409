"""Models whose blocks are joined wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from conformance.mutants.mutant import Mutant
from refimpl.blocks import Attention, Inputs, Layer, LogFloor, MoE, SigmoidTopK, State, Weights
from refimpl.blueprint import Blueprint
from refimpl.ops import Ops

Change = Callable[[Any], Any]


def with_layers(change: Change) -> Callable[[Blueprint], Blueprint]:
    """The layers that `change` makes of the right ones."""
    return lambda plan: replace(plan, layers=tuple(map(change, plan.layers)))


def with_mixers(kind: type, change: Change) -> Callable[[Blueprint], Blueprint]:
    """The token mixers that `change` makes of those of a kind."""
    return with_layers(lambda layer: replace(layer, mixer=change(layer.mixer)) if isinstance(layer.mixer, kind) else layer)


def as_kind(kind: type, block: Any) -> Any:
    """A block of another class with the same fields."""
    return kind(**{field.name: getattr(block, field.name) for field in fields(block)})


class NormBefore(Layer):
    """The norms after the branches act before them."""

    def _norm(self, ops: Ops, weights: Weights, name: str, x: Any) -> Any:
        others = {"mixer_norm": "mixer_post_norm", "mlp_norm": "mlp_post_norm"}
        return super()._norm(ops, weights, others[name], x) if name in others else x


class NormOfTheSum(Layer):
    """The norms after the branches act on the residual stream."""

    def __call__(self, ops: Ops, weights: Weights, x: Any, inputs: Inputs, state: State | None) -> tuple[Any, State]:
        plain = replace(as_kind(Layer, self), mixer_post_norm=None, mlp=_Nothing(), mlp_post_norm=None)
        x, new_state = plain(ops, weights, x, inputs, state)
        x = self._norm(ops, weights, "mixer_post_norm", x)
        plain = replace(as_kind(Layer, self), mixer=_Nothing(), mixer_post_norm=None, mlp_post_norm=None)
        x, _ = plain(ops, weights, x, inputs, state)
        return self._norm(ops, weights, "mlp_post_norm", x), new_state


class NormOfKeysAndValues(Attention):
    """Keys and values are normed, queries are not."""

    def _norm(self, ops: Ops, weights: Weights, name: str, x: Any) -> Any:
        return x if name == "q_norm" else super()._norm(ops, weights, name, x)

    def _project(self, ops: Ops, weights: Weights, x: Any, name: str, heads: int) -> Any:
        y = super()._project(ops, weights, x, name, heads)
        return self._norm(ops, weights, "k_norm", y) if name == "v" and self.qk_norm_over == "head" else y


class BiasOutOfNowhere(Attention):
    """The output projection has a bias that no checkpoint holds."""

    @staticmethod
    def _bias(weights: Weights, name: str, present: bool) -> tuple[Any, ...]:
        if name != "o_proj" or present:
            return Attention._bias(weights, name, present)
        matrix = weights["o_proj.weight"]
        return (np.linspace(-0.5, 0.5, matrix.shape[0]).astype(matrix.dtype),)


class SharedOutputDivided(MoE):
    """The shared expert's output is divided by the factor of the routed ones."""

    def _shared(self, ops: Ops, weights: Weights, x: Any) -> Any:
        assert isinstance(self.router, SigmoidTopK)
        return ops.scale(super()._shared(ops, weights, x), factor=1 / self.router.scaling_factor)


def _shared_divided(layer: Layer) -> Layer:
    mlp = layer.mlp
    divided = isinstance(mlp, MoE) and mlp.shared is not None and isinstance(mlp.router, SigmoidTopK)
    return replace(layer, mlp=as_kind(SharedOutputDivided, mlp)) if divided else layer


def _branches_added(layer: Layer) -> Layer:
    mlp: Any = layer.mlp
    return replace(layer, mlp=replace(mlp, factor=None)) if hasattr(mlp, "factor") else layer


def _after_the_rotation(mixer: Attention) -> Attention:
    return replace(mixer, qk_norm_over="rotated_head") if mixer.qk_norm_over == "head" else mixer


def _counting_from_one(mixer: Attention) -> Attention:
    return (
        replace(mixer, temperature=replace(mixer.temperature, offset=1)) if isinstance(mixer.temperature, LogFloor) else mixer
    )


def _norm_after(kind: type) -> Change:
    return lambda layer: as_kind(kind, layer) if layer.mixer_norm is None and layer.mixer_post_norm is not None else layer


def _attentions(plan: Blueprint) -> list[Attention]:
    return [layer.mixer for layer in plan.layers if isinstance(layer.mixer, Attention)]


def _chunks_exchanged(plan: Blueprint) -> Blueprint:
    """Layers without rotation attend in chunks, those with one to everything."""
    chunk = next((mixer.chunk for mixer in _attentions(plan) if mixer.chunk), None)
    if chunk is None:
        return plan
    return with_mixers(Attention, lambda mixer: replace(mixer, chunk=chunk if mixer.rope is None else None))(plan)


def _windows_moved(plan: Blueprint) -> Blueprint:
    """Each layer has the window of the next and its own rotation."""
    windows = [getattr(one.mixer, "window", None) for one in plan.layers]
    layers = zip(plan.layers, [*windows[1:], windows[0]], strict=True)
    moved = (replace(one, mixer=replace(one.mixer, window=w)) if isinstance(one.mixer, Attention) else one for one, w in layers)
    return replace(plan, layers=tuple(moved))


def _patterns_inverted(plan: Blueprint) -> Blueprint:
    """Each of two alternating kinds of attention stands where the other belongs."""
    mixers = {mixer.window: mixer for mixer in _attentions(plan)}
    if len(mixers) != 2:
        return plan
    first, second = mixers
    return with_mixers(Attention, lambda mixer: mixers[second if mixer.window == first else first])(plan)


def _everywhere_the_global_rotation(plan: Blueprint) -> Blueprint:
    rope = next((mixer.rope for mixer in _attentions(plan) if mixer.window is None), None)
    return plan if rope is None else with_mixers(Attention, lambda mixer: replace(mixer, rope=mixer.rope and rope))(plan)


GEMMA3, LLAMA4 = ("gemma3_text",), ("llama4_text",)
MUTANTS = (
    Mutant(
        id="olmo2-pre-norm-used",
        says="Norms act before the branches of a model that has them after.",
        blueprint=with_layers(_norm_after(NormBefore)),
        architectures=("olmo2",),
    ),
    Mutant(
        id="postnorm-residual-outside",
        says="Norms act on the sum with the residual and not on the branch.",
        blueprint=with_layers(_norm_after(NormOfTheSum)),
        architectures=("olmo2",),
    ),
    Mutant(
        id="qk-norm-normalises-k-and-v",
        says="Keys and values are normed in place of queries and keys.",
        blueprint=with_mixers(Attention, lambda mixer: as_kind(NormOfKeysAndValues, mixer) if mixer.qk_norm else mixer),
        architectures=("qwen3", "qwen3_moe", "gemma3_text"),
    ),
    Mutant(
        id="qknorm-placement-three-variants",
        says="Queries and keys are normed after the rotation and not before.",
        blueprint=with_mixers(Attention, _after_the_rotation),
        architectures=("qwen3", "qwen3_moe", "gemma3_text"),
    ),
    Mutant(
        id="o-proj-spurious-bias",
        says="The output projection has a bias that the checkpoint does not hold.",
        blueprint=with_mixers(Attention, lambda mixer: as_kind(BiasOutOfNowhere, mixer)),
        architectures=("qwen3", "smollm3", "mistral"),
    ),
    Mutant(
        id="qkv-bias-default-false",
        says="The biases of queries, keys and values are left out, by the default of another family.",
        blueprint=with_mixers(Attention, lambda mixer: replace(mixer, qkv_bias=False)),
        architectures=("qwen3", "gpt_oss", "glm4_moe"),
    ),
    Mutant(
        id="gemma-27b-query-scale",
        says="The scale follows from the width of a head though the configuration gives another.",
        blueprint=with_mixers(Attention, lambda mixer: replace(mixer, scale=mixer.head_dim**-0.5)),
        architectures=GEMMA3,
    ),
    Mutant(
        id="head-dim-derived-from-hidden",
        says="The scale follows from the hidden size and the number of heads though heads have another width.",
        blueprint=with_mixers(Attention, lambda mixer: replace(mixer, scale=(mixer.hidden_size / mixer.heads) ** -0.5)),
        architectures=("qwen3", "mistral"),
    ),
    Mutant(
        id="llama4-chunked-layers-swapped",
        says="Layers without rotation attend in chunks, and those with it to everything.",
        blueprint=_chunks_exchanged,
        architectures=LLAMA4,
    ),
    Mutant(
        id="gemma2-sliding-parity-inverted",
        says="Windowed layers stand where full ones belong, and the reverse.",
        blueprint=_patterns_inverted,
        reports=("gemma3-pattern-offset",),
        architectures=("gemma3_text", "gpt_oss"),
    ),
    Mutant(
        id="gemma3-mixed-pattern-sources",
        says="Windows follow another count of the layers than the rotations do.",
        blueprint=_windows_moved,
        architectures=GEMMA3,
    ),
    Mutant(
        id="gemma3-local-rope-config-regression",
        says="Windowed layers rotate by the base and the scaling of the full ones.",
        blueprint=_everywhere_the_global_rotation,
        architectures=GEMMA3,
    ),
    Mutant(
        id="fused-shared-expert-weight-inverse-scale",
        says="The shared expert is divided by a factor that nothing multiplies it by later.",
        blueprint=with_layers(_shared_divided),
        architectures=("glm4_moe", "deepseek_v3"),
    ),
    Mutant(
        id="grok-rmoe-missing-sqrt2",
        says="The gated MLP and the experts beside it are added without the division by the root of 2.",
        blueprint=with_layers(_branches_added),
        architectures=("grok",),
    ),
    Mutant(
        id="temperature-counts-from-1",
        says="The temperature counts positions from 1 where the model counts from 0.",
        blueprint=with_mixers(object, lambda mixer: _counting_from_one(mixer) if hasattr(mixer, "temperature") else mixer),
        architectures=("mistral4",),
    ),
)


class _Nothing:
    """A branch that adds nothing."""

    def __call__(self, ops: Ops, weights: Weights, x: Any, *others: Any) -> Any:
        nothing = ops.scale(x, factor=0.0)
        return (nothing, {}) if others else nothing
