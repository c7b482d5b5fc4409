"""Blocks: a whole wiring in which the backend's functions take part and the specification does the rest.

What this finds and single layers do not: a function that is right alone but not on the values, layouts or strides that the
others hand it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from conformance.calls import Unsupported, attempt, combining
from conformance.case import NOT_COVERED, TOKENS, Case, Workspace
from conformance.judge import expect, judge_one
from conformance.readings import Exact, InFormat, on_floats
from conformance.verdict import Judgement
from refimpl.blocks import MLP, Attention, Block, GatedMLP, Inputs, Layer, LayerNorm, RMSNorm, Rope
from refimpl.numerics import FORMATS, Array, plain
from refimpl.ops import GLUE, Ops

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
    block: Block, values: dict[str, Array], ops: Ops, reading: Exact, *, past: int, cast: Callable[[Any], Any]
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
    state = {name: cast(values[name]) for name in ("key", "value")} if past else None
    inputs = Inputs(q_order=q_order, k_order=order, rotations=rotations)
    return block(ops, weights, x, inputs, state)[0]


def _mixer(block: Block) -> Attention:
    mixer = block.mixer if isinstance(block, Layer) else block
    assert isinstance(mixer, Attention)
    return mixer


@dataclass(frozen=True, kw_only=True)
class BlockCase(Case):
    """A block on random weights. past: tokens in its cache."""

    block: Block
    past: int

    def inputs(self, reading: Exact) -> dict[str, Array]:
        """x, the parameters and the cache: wide numbers that the tested dtype holds exactly."""
        generator = np.random.default_rng(crc32(self.id.replace(TOKENS[self.dtype], "").encode()))
        shapes: dict[str, tuple[int, ...]] = {"x": (BATCH, LENGTH, WIDTH), **self.block.parameters()}
        if self.past:
            mixer = _mixer(self.block)
            shapes |= {name: (BATCH, self.past, *entry.shape) for name, entry in mixer.state().items()}
        found = {}
        for name, shape in shapes.items():
            array = generator.standard_normal(shape)
            if name.endswith("weight"):
                array = array * (1.5 / np.sqrt(shape[-1])) if len(shape) > 1 else 1 + array / 2
            found[name] = reading.disturb(array.astype(FORMATS[self.dtype]).astype(reading.wide))
        return found

    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        ops = BackendOps(backend, self.dtype)

        def evaluate(reading: Exact) -> tuple[Array, ...]:
            values = self.inputs(reading)
            return (reading.widen(_evaluate(self.block, values, reading.ops(), reading, past=self.past, cast=reading.cast)),)

        def compare() -> Judgement:
            reading = InFormat(self.dtype)

            def cast(array: Array) -> Array:
                return array.astype(FORMATS[self.dtype])

            with combining("the block"):
                output = _evaluate(self.block, self.inputs(reading), ops, reading, past=self.past, cast=cast)
            if not ops.used:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in ops.refused.items())
                return Judgement(verdict="unsupported", sentence=reasons) if reasons else NOT_COVERED
            return judge_one(output, expect(evaluate, self.dtype)[0], self.dtype, axes="BTD")

        return attempt(compare)


def _attention(**switches: Any) -> Attention:
    sizes = {"hidden_size": WIDTH, "heads": 6, "kv_heads": 2, "head_dim": 10, "scale": 0.4, "rope": ROPE}
    return Attention(**{**sizes, **switches})


def _gated(**switches: Any) -> GatedMLP:
    return GatedMLP(hidden_size=WIDTH, intermediate_size=28, **switches)


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
    },
    "gated_mlp_block": {
        "silu": _gated(),
        "gelu_tanh": _gated(activation="gelu_tanh", bias=True),
    },
    "mlp_block": {"gelu": MLP(hidden_size=WIDTH, intermediate_size=28, activation="gelu")},
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


def block_cases(dtype: str) -> list[Case]:
    """Every block without and, where it has one, with a cache."""
    if dtype not in FORMATS:
        return []
    found: list[Case] = []
    for level, variants in BLOCKS.items():
        for variant, block in variants.items():
            pasts = (("prefill", 0), ("pieces", PAST)) if isinstance(block, (Attention, Layer)) else (("any", 0),)
            for phase, past in pasts:
                size = f"t{LENGTH}s{LENGTH + past}" if phase != "any" else f"t{LENGTH}"
                case_id = f"{level}/{variant}-{phase}-{TOKENS[dtype]}-{size}d{WIDTH}"
                found.append(BlockCase(id=case_id, level="block", function=level, dtype=dtype, block=block, past=past))
    return found
