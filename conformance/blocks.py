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
from conformance.judge import expect, judge_one
from conformance.readings import Exact, InFormat, on_floats, wide_format
from conformance.verdict import Judgement
from refimpl.blocks import Attention, Block, Indexer, Inputs, LatentAttention, Layer, MoE, MultiToken, Router, Scoped
from refimpl.layers import linear
from refimpl.numerics import FORMATS, Array, plain, unit_roundoff
from refimpl.ops import GLUE, NumpyOps, Ops, Traced

if TYPE_CHECKING:
    from conformance.backend import Backend

BATCH, LENGTH, PAST = 2, 5, 6
# The scores of an indexer are the end of so many times more rounded steps than those of a router.
STEPS = 3
Mixer = Attention | LatentAttention


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


def evaluate_block(
    block: Block, values: dict[str, Array], ops: Ops, reading: Exact, *, past: int, ring: bool, cast: Callable[[Any], Any]
) -> Any:
    """The block's output for wide inputs, not yet widened."""
    weights = {name: cast(array) for name, array in values.items() if name in block.parameters()}
    x = cast(values["x"])
    mixer = _mixer(block)
    if mixer is None:
        return block(ops, weights, x)  # type: ignore[operator]
    order = np.tile(np.arange(past + LENGTH), (len(x), 1))
    q_order = order[:, past:]
    rotations = {
        rope: ops.rope_cos_sin(q_order, ops.constant(rope.frequencies(reading.angle_format))) for rope in mixer.ropes()
    }
    temperatures = {}
    if mixer.temperature is not None:
        temperatures[mixer.temperature] = cast(mixer.temperature(ops, q_order, reading.angle_format))
    state = {name: cast(values[name]) for name in mixer.state()} if past else None
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
    """A block on random weights. past: tokens in its cache, of which a ring keeps the last."""

    block: Block
    past: int
    ring: bool = False

    def inputs(self, reading: Exact) -> dict[str, Array]:
        """x, the parameters and the cache as a reading takes them."""
        return {name: reading.disturb(array) for name, array in self.drawn.items()}

    @cached_property
    def drawn(self) -> dict[str, Array]:
        """The same, wide numbers that the tested dtype holds exactly."""
        wide = wide_format(self.dtype)
        generator = np.random.default_rng(crc32(self.id.replace(TOKENS[self.dtype], "").encode()))
        shapes: dict[str, tuple[int, ...]] = {"x": (BATCH, LENGTH, WIDTH), **self.block.parameters()}
        if isinstance(self.block, MultiToken):
            shapes["hidden"] = shapes["x"]
        mixer = _mixer(self.block)
        for name, entry in mixer.state().items() if mixer and self.past else ():
            kept = min(self.past, entry.window or self.past) if self.ring else self.past
            shapes[name] = (BATCH, kept, *entry.shape)
        found = {}
        for name, shape in shapes.items():
            array = generator.standard_normal(shape)
            if name.endswith("weight"):
                array = array * (1.5 / np.sqrt(shape[-1])) if len(shape) > 1 else 1 + array / 2
            found[name] = array.astype(FORMATS[self.dtype]).astype(wide)
        if isinstance(self.block, MoE):
            found["x"] = _decided_tokens(self.block.router, found, generator, self.dtype).astype(wide)
        if isinstance(mixer, LatentAttention) and mixer.indexer is not None:
            found |= _decided_rows(mixer, mixer.indexer, found, generator, self.dtype, past=self.past)
        return found

    def judge(self, backend: Backend, workspace: Workspace) -> Judgement:
        ops = BackendOps(backend, self.dtype)

        def evaluate(reading: Exact) -> tuple[Array, ...]:
            values = self.inputs(reading)
            made = evaluate_block(self.block, values, reading.ops(), reading, past=self.past, ring=self.ring, cast=reading.cast)
            return (reading.widen(made),)

        def compare() -> Judgement:
            reading = InFormat(self.dtype)

            def cast(array: Array) -> Array:
                return array.astype(FORMATS[self.dtype])

            with combining("the block"):
                values = self.inputs(reading)
                output = evaluate_block(self.block, values, ops, reading, past=self.past, ring=self.ring, cast=cast)
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
        evaluate_block(mixer, {**values, **rest, **parts(rows)}, ops, reading, past=past, ring=False, cast=reading.cast)
        later = np.arange(past + LENGTH) > np.arange(past, past + LENGTH)[:, None]
        scores = np.where(later, -np.inf, ops.values["indexer.scores"])
        return np.asarray(border_stands(scores, indexer.top_k, STEPS * unit_roundoff(dtype)).all(axis=-1))

    return parts(drawn_until(keep, draw, BATCH))


def _phases(block: Block) -> Iterator[tuple[str, int, bool]]:
    """Each phase of a block, how many tokens came before, and whether a ring keeps them."""
    mixer = _mixer(block)
    if mixer is None:
        yield "any", 0, False
        return
    yield from (("prefill", 0, False), ("pieces", PAST, False))
    if any(entry.window for entry in mixer.state().values()):
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
