"""Laws of multi-token prediction: a module in pieces, the halves of its input, and the losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.laws.law import Call, Draw, Law
from refimpl.blocks import Attention, GatedMLP, Inputs, Layer, MultiToken, RMSNorm, Rope
from refimpl.numerics import Array
from refimpl.ops import GLUE, Ops

WIDTH, LENGTH = 12, 9
ROPE = Rope(rotary_dim=6, theta=100.0)
NORM = RMSNorm(size=WIDTH, eps=1e-2)
MODULE = MultiToken(
    hidden_size=WIDTH,
    enorm=NORM,
    hnorm=NORM,
    norm=NORM,
    layer=Layer(
        mixer=Attention(hidden_size=WIDTH, heads=4, kv_heads=2, head_dim=6, scale=0.4, rope=ROPE),
        mlp=GatedMLP(hidden_size=WIDTH, intermediate_size=14),
        mixer_norm=NORM,
        mlp_norm=NORM,
    ),
)
CALLED = ("multi_token_input", "rms_norm", "linear", "rope_cos_sin", "rotary_embedding", "attention", "swiglu")


class _Called(Ops):
    """A wiring in which the functions are somebody's."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        return GLUE[name](*values, **options) if name in GLUE else self._call(name, *values, **options)


def module_in(lengths: tuple[int, ...]) -> Any:
    """Pieces over the module's own cache, against all pairs at once."""

    def sides(call: Call, draw: Draw) -> tuple[Array, Array]:
        ops = _Called(call)
        embedding, hidden = draw.normal(2, LENGTH, WIDTH), draw.normal(2, LENGTH, WIDTH, scale=3)
        weights = {
            name: draw.normal(*shape, scale=1.5 / shape[-1] ** 0.5) if len(shape) > 1 else draw.normal(*shape)
            for name, shape in MODULE.parameters().items()
        }

        def run(start: int, length: int, state: Any) -> Any:
            order = np.tile(np.arange(start + length), (2, 1))
            cos, sin = ops.rope_cos_sin(order[:, start:] + 1, ROPE.frequencies(draw.wide))
            inputs = Inputs(q_order=order[:, start:], k_order=order, rotations={ROPE: (cos, sin)})
            piece = slice(start, start + length)
            return MODULE(ops, weights, embedding[:, piece], hidden[:, piece], inputs, state)

        found, state, start = [], None, 0
        for length in lengths:
            output, state = run(start, length, state)
            found.append(output)
            start += length
        return np.concatenate(found, axis=1), run(0, LENGTH, None)[0]

    return sides


def halves(call: Call, draw: Draw) -> tuple[Array, Array]:
    embedding, hidden, weight = draw.normal(2, 5, 12), draw.normal(2, 5, 12, scale=3), draw.normal(12, 24)
    left = call("multi_token_input", embedding, hidden, weight)
    parts = [call("linear", x, part) for x, part in ((embedding, weight[:, :12]), (hidden, weight[:, 12:]))]
    return left, parts[0] + parts[1]


def _targets(draw: Draw, *shape: int) -> Array:
    return draw.generator.integers(0, 11, shape)


def shifted_logits(call: Call, draw: Draw) -> tuple[Array, Array]:
    logits, targets = draw.grid(2, 6, 11), _targets(draw, 2, 6)
    return call("cross_entropy", logits + 4, targets), call("cross_entropy", logits, targets)


def ignored_is_left_out(call: Call, draw: Draw) -> tuple[Array, Array]:
    logits, targets = draw.normal(2, 6, 11, scale=2), _targets(draw, 2, 6)
    ignoring = targets.copy()
    ignoring[:, 4:] = -100
    return call("cross_entropy", logits, ignoring), call("cross_entropy", logits[:, :4], targets[:, :4])


def sum_over_depths(call: Call, draw: Draw) -> tuple[Array, Array]:
    logits, labels = draw.normal(3, 2, 6, 11, scale=2), _targets(draw, 2, 6)
    main, first, second = (call("cross_entropy", logits[depth, :, : 5 - depth], labels[:, depth + 1 :]) for depth in range(3))
    return call("multi_token_loss", logits, labels, weight=0.5), main + 0.25 * (first + second)


def unread_places(call: Call, draw: Draw) -> tuple[Array, Array]:
    """The last places of each depth hold other logits."""
    logits, labels = draw.normal(3, 2, 6, 11, scale=2), _targets(draw, 2, 6)
    changed = logits.copy()
    for depth in range(3):
        changed[depth, :, 5 - depth :] = draw.normal(2, 1 + depth, 11, scale=9)
    return call("multi_token_loss", changed, labels, weight=0.5), call("multi_token_loss", logits, labels, weight=0.5)


LAWS = (
    Law(
        name="module_in_pieces",
        functions=CALLED,
        statement="a module's pairs in pieces give what all at once give",
        sides=module_in((5, 1, 3)),
        phase="pieces",
    ),
    Law(
        name="module_is_incremental",
        functions=CALLED,
        statement="a module's pairs one at a time give what all at once give",
        sides=module_in((1,) * LENGTH),
        phase="decode",
    ),
    Law(
        name="halves",
        functions=("multi_token_input", "linear"),
        statement="the input is the sum of the embedding's map and of the hidden state's",
        sides=halves,
    ),
    Law(
        name="shifted_logits",
        functions=("cross_entropy",),
        statement="one number added to all logits changes nothing",
        sides=shifted_logits,
    ),
    Law(
        name="ignored_is_left_out",
        functions=("cross_entropy",),
        statement="an ignored target counts as if its place were not there",
        sides=ignored_is_left_out,
    ),
    Law(
        name="sum_over_depths",
        functions=("multi_token_loss", "cross_entropy"),
        statement="the loss is the model's plus the weighted mean of the modules', each shifted by one more token",
        sides=sum_over_depths,
    ),
    Law(
        name="unread_places",
        functions=("multi_token_loss",),
        statement="the last places of a depth, which predict nothing, are not read",
        sides=unread_places,
    ),
)
