"""Blocks: a whole wiring in which the backend's functions take part and the specification does the rest.

What this finds and single layers do not: a function that is right alone but not on the values, layouts or strides that the
others hand it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from conformance.block_list import BLOCKS, WIDTH
from conformance.calls import Unsupported, attempt, combining
from conformance.case import NOT_COVERED, TOKENS, Case, Workspace
from conformance.choice import border_stands, drawn_until, stands
from conformance.judge import Expectation, expect, judge_one
from conformance.readings import Exact, InFormat, computing_format, on_floats, wide_format
from conformance.verdict import Judgement
from refimpl.blocks import (
    Attention,
    Block,
    GatedDeltaNet,
    Indexer,
    Inputs,
    KimiDeltaAttention,
    LatentAttention,
    Layer,
    MoE,
    MultiToken,
    Router,
    Scoped,
)
from refimpl.layers import linear
from refimpl.layers.precision import converted, stays_wide
from refimpl.numerics import FORMATS, Array, plain, unit_roundoff
from refimpl.ops import GLUE, NumpyOps, Ops, Traced

if TYPE_CHECKING:
    from conformance.backend import Backend

BATCH, LENGTH, PAST = 2, 5, 6
# The scores of an indexer are the end of so many times more rounded steps than those of a router.
STEPS = 3
Mixer = Attention | LatentAttention | GatedDeltaNet | KimiDeltaAttention


class BackendOps(Ops):
    """The backend's functions where it has them, the specification in the tested dtype elsewhere."""

    def __init__(self, backend: Backend, dtype: str) -> None:
        self._backend, self._dtype, self._wide = backend, FORMATS[dtype], FORMATS[computing_format(dtype)]
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
        values, options = converted(name, values, options, narrow=reading.cast, wide=reading.cast_wide)
        return self._stored(name, reading.ops().call(name, *values, **options))

    def _ask(self, name: str, values: tuple[Any, ...], options: dict[str, Any]) -> Any:
        def in_float32(value: Any) -> Any:
            return on_floats(lambda array: array.astype(self._wide), value)

        values, options = converted(name, values, options, narrow=lambda value: value, wide=in_float32)
        result = self._backend.call(name, *values, **options)
        self.used.add(name)
        return self._stored(name, result) if name == "rope_cos_sin" else result

    def _stored(self, name: str, result: Any) -> Any:
        """A result in the format of the block, or in float32 where it stays there."""
        if isinstance(result, tuple):
            return tuple(self._in_format(name, place, each) for place, each in enumerate(result))
        return self._in_format(name, 0, result)

    def _in_format(self, name: str, place: int, value: Any) -> Any:
        dtype = self._wide if stays_wide(name, place) else self._dtype
        return on_floats(lambda array: plain(array).astype(dtype), value)


def evaluate_block(
    block: Block,
    values: dict[str, Array],
    ops: Ops,
    reading: Exact,
    *,
    past: int,
    ring: bool = False,
    stored: Callable[[Array, str | None], Any] | None = None,
) -> Any:
    """The block's output for wide inputs, not yet widened.

    stored: how an input is stored, given the narrowest format that it may have; None: as the reading does.
    """

    def cast(array: Any, narrowest: str | None = None) -> Any:
        if stored is not None:
            return stored(array, narrowest)
        return reading.cast(array) if narrowest is None else reading.cast_wide(array)

    weights = {name: cast(array) for name, array in values.items() if name in block.parameters()}
    x = cast(values["x"])
    mixer = _mixer(block)
    if mixer is None:
        return block(ops, weights, x)  # type: ignore[operator]
    order = np.tile(np.arange(past + x.shape[1]), (len(x), 1))
    q_order = order[:, past:]
    rotations, temperatures = {}, {}
    if isinstance(mixer, Attention | LatentAttention):
        for rope in mixer.ropes():
            rotations[rope] = ops.rope_cos_sin(q_order, ops.constant(rope.frequencies(reading.angle_format)))
        if mixer.temperature is not None:
            temperatures[mixer.temperature] = cast(mixer.temperature(ops, q_order, reading.angle_format))
    state = {name: cast(values[name], entry.dtype) for name, entry in mixer.state().items()} if past else None
    inputs = Inputs(
        q_order=q_order,
        k_order=order,
        rotations=rotations,
        past_order=order[:, :past],
        temperatures=temperatures,
        ring=ring,
    )
    beside = [cast(values["hidden"])] if isinstance(block, MultiToken) else []
    return block(ops, weights, x, *beside, inputs, state)[0]  # type: ignore[operator]


def _mixer(block: Block) -> Mixer | None:
    """The attention in a block, None where it has none."""
    layer = block.layer if isinstance(block, MultiToken) else block
    mixer = layer.mixer if isinstance(layer, Layer) else layer
    return mixer if isinstance(mixer, Mixer) else None


@dataclass(frozen=True, kw_only=True)
class BlockCase(Case):
    """A block on random weights. past: tokens in its cache, of which a ring keeps the last. length: of new ones."""

    block: Block
    past: int
    ring: bool = False
    length: int = LENGTH

    def inputs(self, reading: Exact) -> dict[str, Array]:
        """x, the parameters and the cache as a reading takes them."""

        def disturbed(name: str, array: Array) -> Array:
            found: Array = reading.disturb_wide(array) if name in self.kept else reading.disturb(array)
            return found

        return {name: disturbed(name, array) for name, array in self.drawn.items()}

    @cached_property
    def kept(self) -> frozenset[str]:
        """Which of the cache stays in float32, whatever the tested dtype."""
        mixer = _mixer(self.block)
        return frozenset(name for name, entry in mixer.state().items() if entry.dtype) if mixer else frozenset()

    @cached_property
    def drawn(self) -> dict[str, Array]:
        """The same, wide numbers that the tested dtype holds exactly, or float32 where they stay in that."""
        wide = wide_format(self.dtype)
        generator = np.random.default_rng(crc32(self.id.replace(TOKENS[self.dtype], "").encode()))
        shapes: dict[str, tuple[int, ...]] = {"x": (BATCH, self.length, WIDTH), **self.block.parameters()}
        if isinstance(self.block, MultiToken):
            shapes["hidden"] = shapes["x"]
        mixer = _mixer(self.block)
        for name, entry in mixer.state().items() if mixer and self.past else ():
            kept = min(self.past, entry.window or self.past) if self.ring else self.past
            shapes[name] = (BATCH, kept, *entry.shape) if entry.grows else (BATCH, *entry.shape)
        found = {}
        for name, shape in shapes.items():
            array = generator.standard_normal(shape)
            if name.endswith("weight"):
                array = array * (1.5 / np.sqrt(shape[-1])) if len(shape) > 1 else 1 + array / 2
            dtype = computing_format(self.dtype) if name in self.kept else self.dtype
            found[name] = array.astype(FORMATS[dtype]).astype(wide)
        if isinstance(self.block, MoE):
            found["x"] = _decided_tokens(self.block.router, found, generator, self.dtype).astype(wide)
        if isinstance(mixer, LatentAttention) and mixer.indexer is not None:
            found |= _decided_rows(mixer, mixer.indexer, found, generator, self.dtype, past=self.past)
        return found

    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        ops = BackendOps(backend, self.dtype)

        def compare() -> Judgement:
            with combining("the block"):
                output = self.answer(ops)
            if not ops.used:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in ops.refused.items())
                return Judgement(verdict="unsupported", sentence=reasons) if reasons else NOT_COVERED
            return judge_one(output, self.expected(), self.dtype, axes="BTD")

        return attempt(compare)

    def answer(self, ops: Ops, block: Block | None = None) -> Any:
        """What an interpreter makes of the block, or of another wiring of it, in the tested dtype."""
        reading = InFormat(self.dtype)

        def stored(array: Array, narrowest: str | None) -> Array:
            return array.astype(FORMATS[computing_format(self.dtype) if narrowest else self.dtype])

        values = self.inputs(reading)
        return evaluate_block(block or self.block, values, ops, reading, past=self.past, ring=self.ring, stored=stored)

    def expected(self) -> Expectation:
        """The truth, and what is allowed beside it."""

        def evaluate(reading: Exact) -> tuple[Array, ...]:
            values = self.inputs(reading)
            made = evaluate_block(self.block, values, reading.ops(), reading, past=self.past, ring=self.ring)
            return (reading.widen(made),)

        return expect(evaluate, self.dtype)[0]


def _decided_tokens(router: Router, values: dict[str, Array], generator: np.random.Generator, dtype: str) -> Array:
    """x [B, T, D], numbers of `dtype`, of tokens that a few roundings of their logits send nowhere else."""
    weights = Scoped({name: array.astype(np.float64) for name, array in values.items()}, "router")

    def draw(count: int) -> Array:
        return generator.standard_normal((count, WIDTH)).astype(FORMATS[dtype]).astype(np.float64)

    def keep(x: Array) -> Array:
        logits = linear(x, weights["weight"], *([weights["bias"]] if router.bias else []))
        return stands(lambda scores: router.choose(NumpyOps(), weights, scores)[0], logits, unit_roundoff(dtype))

    return drawn_until(keep, draw, BATCH * LENGTH).reshape(BATCH, LENGTH, WIDTH)


def _decided_rows(
    mixer: LatentAttention,
    indexer: Indexer,
    values: dict[str, Array],
    generator: np.random.Generator,
    dtype: str,
    *,
    past: int,
) -> dict[str, Array]:
    """x [B, T, D] and the keys of the indexer in the cache [B, past, K], wide numbers of `dtype`.

    They are of rows of which a few roundings of a score change no query's choice of keys.
    """
    reading = Exact(dtype)
    shapes = {"x": (LENGTH, WIDTH), **({"index_key": (past, indexer.head_dim)} if past else {})}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])

    def draw(count: int) -> Array:
        return generator.standard_normal((count, ends[-1])).astype(FORMATS[dtype]).astype(reading.wide)

    def parts(rows: Array) -> dict[str, Array]:
        found = zip(shapes.items(), np.split(rows, ends[:-1], axis=1), strict=True)
        return {name: part.reshape(len(rows), *shape) for (name, shape), part in found}

    def keep(rows: Array) -> Array:
        rest = {name: np.repeat(values[name][:1], len(rows), axis=0) for name in mixer.state() if past}
        ops = Traced(NumpyOps())
        evaluate_block(mixer, {**values, **rest, **parts(rows)}, ops, reading, past=past)
        later = np.arange(past + LENGTH) > np.arange(past, past + LENGTH)[:, None]
        scores = np.where(later, -np.inf, ops.values["indexer.scores"])
        return np.asarray(border_stands(scores, indexer.top_k, STEPS * unit_roundoff(dtype)).all(axis=-1))

    return parts(drawn_until(keep, draw, BATCH))


def _phases(block: Block) -> Iterator[tuple[str, int, bool, int]]:
    """Each phase of a block, how many tokens came before, whether a ring keeps them, and how many are new."""
    mixer = _mixer(block)
    if mixer is None:
        yield "any", 0, False, LENGTH
        return
    yield from (("prefill", 0, False, LENGTH), ("pieces", PAST, False, LENGTH))
    if any(entry.window for entry in mixer.state().values()):
        yield "pieces", PAST, True, LENGTH
    if not all(entry.grows for entry in mixer.state().values()):
        yield "decode", PAST, False, 1


def block_cases(dtype: str) -> list[Case]:
    """Every block without and, where it has one, with a cache."""
    if dtype not in FORMATS:
        return []
    found: list[Case] = []
    for level, variants in BLOCKS.items():
        for variant, block in variants.items():
            for phase, past, ring, length in _phases(block):
                size = f"t{length}s{length + past}" if phase != "any" else f"t{length}"
                case_id = f"{level}/{variant}{'_ring' * ring}-{phase}-{TOKENS[dtype]}-{size}d{WIDTH}"
                found.append(
                    BlockCase(
                        id=case_id,
                        level="block",
                        function=level,
                        dtype=dtype,
                        block=block,
                        past=past,
                        ring=ring,
                        length=length,
                    )
                )
    return found
