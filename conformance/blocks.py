"""Blocks: a whole wiring in which the backend's functions take part and the specification does the rest.

What this finds and single layers do not: a function that is right alone but not on the values, layouts or strides that the
others hand it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from conformance.calls import Unsupported, attempt, combining
from conformance.case import NOT_COVERED, TOKENS, Case, Workspace
from conformance.choice import drawn_until, stands
from conformance.judge import expect, judge_one
from conformance.readings import Exact, InFormat, on_floats
from conformance.verdict import Judgement
from refimpl.blocks import (
    MLP,
    Attention,
    Block,
    Experts,
    GatedMLP,
    Inputs,
    Layer,
    LayerNorm,
    LogFloor,
    LogLength,
    MoE,
    RMSNorm,
    Rope,
    Router,
    Scoped,
    SigmoidTopK,
    SoftcappedSoftmax,
    SoftmaxTopK,
    TopKSigmoid,
    TopKSoftmax,
)
from refimpl.layers import linear
from refimpl.numerics import FORMATS, Array, plain, unit_roundoff
from refimpl.ops import GLUE, NumpyOps, Ops

if TYPE_CHECKING:
    from conformance.backend import Backend

BATCH, LENGTH, PAST, WIDTH = 2, 5, 6, 24
ROPE = Rope(rotary_dim=8, theta=1e4)


class BackendOps(Ops):
    """The backend's functions where it has them, the specification in the tested dtype elsewhere."""

    def __init__(self, backend: Backend, dtype: str) -> None:
        self._backend, self._dtype = backend, FORMATS[dtype]
        self._specification = InFormat(dtype)
        self.used: set[str] = set()
        self.refused: dict[str, str] = {}

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        if name in GLUE:
            return GLUE[name](*values, **options)
        if name in self._backend.functions and name not in self.refused:
            try:
                return self._ask(name, values, options)
            except Unsupported as refusal:
                self.refused[name] = str(refusal)
        reading = self._specification
        cast = reading.cast_angles if name == "rope_cos_sin" else reading.cast
        result = reading.ops().call(name, *map(cast, values), **{key: cast(value) for key, value in options.items()})
        return on_floats(lambda array: plain(array).astype(self._dtype), result)

    def _ask(self, name: str, values: tuple[Any, ...], options: dict[str, Any]) -> Any:
        result = self._backend.call(name, *values, **options)
        self.used.add(name)
        if name == "rope_cos_sin":
            return on_floats(lambda array: array.astype(self._dtype), result)
        return result


def _evaluate(
    block: Block, values: dict[str, Array], ops: Ops, reading: Exact, *, past: int, ring: bool, cast: Callable[[Any], Any]
) -> Any:
    """The block's output for wide inputs, not yet widened."""
    weights = {name: cast(array) for name, array in values.items() if name in block.parameters()}
    x = cast(values["x"])
    if not isinstance(block, (Attention, Layer)):
        return block(ops, weights, x)  # type: ignore[operator]
    mixer = _mixer(block)
    order = np.tile(np.arange(past + LENGTH), (BATCH, 1))
    q_order = order[:, past:]
    rotations = {}
    if mixer.rope is not None:
        rotations[mixer.rope] = ops.rope_cos_sin(q_order, ops.constant(mixer.rope.frequencies(reading.angle_format)))
    temperatures = {}
    if mixer.temperature is not None:
        temperatures[mixer.temperature] = cast(mixer.temperature(ops, q_order, reading.angle_format))
    state = {name: cast(values[name]) for name in ("key", "value")} if past else None
    inputs = Inputs(
        q_order=q_order,
        k_order=order,
        rotations=rotations,
        past_order=order[:, :past],
        temperatures=temperatures,
        ring=ring,
    )
    return block(ops, weights, x, inputs, state)[0]


def _mixer(block: Block) -> Attention:
    mixer = block.mixer if isinstance(block, Layer) else block
    assert isinstance(mixer, Attention)
    return mixer


@dataclass(frozen=True, kw_only=True)
class BlockCase(Case):
    """A block on random weights. past: tokens in its cache, of which a ring keeps the last."""

    block: Block
    past: int
    ring: bool = False

    def inputs(self, reading: Exact) -> dict[str, Array]:
        """x, the parameters and the cache: wide numbers that the tested dtype holds exactly."""
        generator = np.random.default_rng(crc32(self.id.replace(TOKENS[self.dtype], "").encode()))
        shapes: dict[str, tuple[int, ...]] = {"x": (BATCH, LENGTH, WIDTH), **self.block.parameters()}
        if self.past:
            mixer = _mixer(self.block)
            kept = min(self.past, mixer.span or self.past) if self.ring else self.past
            shapes |= {name: (BATCH, kept, *entry.shape) for name, entry in mixer.state().items()}
        found = {}
        for name, shape in shapes.items():
            array = generator.standard_normal(shape)
            if name.endswith("weight"):
                array = array * (1.5 / np.sqrt(shape[-1])) if len(shape) > 1 else 1 + array / 2
            found[name] = array.astype(FORMATS[self.dtype]).astype(reading.wide)
        if isinstance(self.block, MoE):
            found["x"] = _decided_tokens(self.block.router, found, generator, self.dtype).astype(reading.wide)
        return {name: reading.disturb(array) for name, array in found.items()}

    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        ops = BackendOps(backend, self.dtype)

        def evaluate(reading: Exact) -> tuple[Array, ...]:
            values = self.inputs(reading)
            made = _evaluate(self.block, values, reading.ops(), reading, past=self.past, ring=self.ring, cast=reading.cast)
            return (reading.widen(made),)

        def compare() -> Judgement:
            reading = InFormat(self.dtype)

            def cast(array: Array) -> Array:
                return array.astype(FORMATS[self.dtype])

            with combining("the block"):
                values = self.inputs(reading)
                output = _evaluate(self.block, values, ops, reading, past=self.past, ring=self.ring, cast=cast)
            if not ops.used:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in ops.refused.items())
                return Judgement(verdict="unsupported", sentence=reasons) if reasons else NOT_COVERED
            return judge_one(output, expect(evaluate, self.dtype)[0], self.dtype, axes="BTD")

        return attempt(compare)


def _decided_tokens(router: Router, values: dict[str, Array], generator: np.random.Generator, dtype: str) -> Array:
    """x [B, T, D], numbers of `dtype`, of tokens that a few roundings of their logits send nowhere else."""
    weights = Scoped({name: array.astype(np.float64) for name, array in values.items()}, "router")

    def draw(count: int) -> Array:
        return generator.standard_normal((count, WIDTH)).astype(FORMATS[dtype]).astype(np.float64)

    def keep(x: Array) -> Array:
        logits = linear(x, weights["weight"], *([weights["bias"]] if router.bias else []))
        return stands(lambda scores: router.choose(NumpyOps(), weights, scores)[0], logits, unit_roundoff(dtype))

    return drawn_until(keep, draw, BATCH * LENGTH).reshape(BATCH, LENGTH, WIDTH)


def _attention(**switches: Any) -> Attention:
    sizes = {"hidden_size": WIDTH, "heads": 6, "kv_heads": 2, "head_dim": 10, "scale": 0.4, "rope": ROPE}
    return Attention(**{**sizes, **switches})


def _gated(**switches: Any) -> GatedMLP:
    return GatedMLP(hidden_size=WIDTH, intermediate_size=28, **switches)


def _router(kind: type[Router], **switches: Any) -> Router:
    return kind(**{"hidden_size": WIDTH, "experts": 7, "top_k": 2, **switches})


def _moe(
    router: Router, *, factor: float | None = None, shared_gate: bool = False, shared: bool = False, **experts: Any
) -> MoE:
    return MoE(
        router=router,
        experts=Experts(hidden_size=WIDTH, intermediate_size=10, experts=router.experts, **experts),
        shared=GatedMLP(hidden_size=WIDTH, intermediate_size=14) if shared or shared_gate else None,
        shared_gate=shared_gate,
        factor=factor,
    )


def _norm(**switches: Any) -> RMSNorm:
    return RMSNorm(size=WIDTH, eps=1e-2, **switches)


HEAD_NORM = RMSNorm(size=10, eps=1e-2)
# Level name -> variant -> block.
BLOCKS: dict[str, dict[str, Block]] = {
    "attention_block": {
        "rope": _attention(),
        "nope": _attention(rope=None),
        "qk_norm": _attention(qk_norm=HEAD_NORM),
        "window_bias": _attention(window=4, qkv_bias=True, output_bias=True),
        "interleaved": _attention(rope=Rope(rotary_dim=6, theta=1e4, interleaved=True)),
        "sinks": _attention(window=4, sinks=True, qkv_bias=True),
        "softcap_temperature": _attention(softcap=2.0, temperature=LogLength(length=4)),
        "nope_temperature": _attention(rope=None, temperature=LogFloor(scale=0.5, floor=3)),
        "flat_qk_norm": _attention(qk_norm=HEAD_NORM, qk_norm_over="projection"),
        "rotated_qk_norm": _attention(qk_norm=HEAD_NORM, qk_norm_over="rotated_head"),
        "chunk": _attention(chunk=4),
    },
    "gated_mlp_block": {
        "silu": _gated(),
        "gelu_tanh": _gated(activation="gelu_tanh", bias=True),
    },
    "mlp_block": {"gelu": MLP(hidden_size=WIDTH, intermediate_size=28, activation="gelu")},
    "moe_block": {
        "top_k_softmax": _moe(_router(TopKSoftmax, bias=True), activation="clamped_swiglu", alpha=1.702, limit=1.25, bias=True),
        "softmax_top_k": _moe(_router(SoftmaxTopK, renormalise=True)),
        "shared_gate": _moe(_router(SoftmaxTopK, renormalise=False, top_k=3), shared_gate=True),
        "softcapped_softmax": _moe(
            _router(SoftcappedSoftmax, softcap=2.0), shared=True, factor=0.5**0.5, activation="gelu_tanh"
        ),
        "sigmoid": _moe(_router(SigmoidTopK, renormalise=True, scaling_factor=2.5, top_k=3), shared=True),
        "groups": _moe(_router(SigmoidTopK, renormalise=False, experts=8, groups=4, top_groups=2)),
        "top_k_sigmoid": _moe(_router(TopKSigmoid, top_k=1), shared=True, scale_input=True),
    },
    "decoder_layer": {
        "pre_norm": Layer(mixer=_attention(), mlp=_gated(), mixer_norm=_norm(), mlp_norm=_norm()),
        "post_norm": Layer(mixer=_attention(qk_norm=HEAD_NORM), mlp=_gated(), mixer_post_norm=_norm(), mlp_post_norm=_norm()),
        "four_norms": Layer(
            mixer=_attention(window=4),
            mlp=_gated(activation="gelu_tanh"),
            **dict.fromkeys(("mixer_norm", "mixer_post_norm", "mlp_norm", "mlp_post_norm"), _norm(zero_centred=True)),
        ),
        "layer_norm": Layer(
            mixer=_attention(rope=None),
            mlp=MLP(hidden_size=WIDTH, intermediate_size=28),
            mixer_norm=LayerNorm(size=WIDTH, eps=1e-2),
            mlp_norm=LayerNorm(size=WIDTH, eps=1e-2),
        ),
    },
}


def _phases(block: Block) -> Iterator[tuple[str, int, bool]]:
    """Each phase of a block, how many tokens came before, and whether a ring keeps them."""
    if not isinstance(block, (Attention, Layer)):
        yield "any", 0, False
        return
    yield from (("prefill", 0, False), ("pieces", PAST, False))
    if _mixer(block).span is not None:
        yield "pieces", PAST, True


def block_cases(dtype: str) -> list[Case]:
    """Every block without and, where it has one, with a cache."""
    if dtype not in FORMATS:
        return []
    found: list[Case] = []
    for level, variants in BLOCKS.items():
        for variant, block in variants.items():
            for phase, past, ring in _phases(block):
                size = f"t{LENGTH}s{LENGTH + past}" if phase != "any" else f"t{LENGTH}"
                case_id = f"{level}/{variant}{'_ring' * ring}-{phase}-{TOKENS[dtype]}-{size}d{WIDTH}"
                case = BlockCase(id=case_id, level="block", function=level, dtype=dtype, block=block, past=past, ring=ring)
                found.append(case)
    return found
