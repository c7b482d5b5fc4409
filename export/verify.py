"""Whether an exported graph computes what the specification says, judged by budgets that are derived and not chosen.

The graph runs in onnxruntime on the calls that a decoder serves; the oracle is the specification in float64. What error the
problem allows at the graph's format follows from two measurements: the error of the specification itself in that format,
and the distance by which the oracle moves when every value that enters or leaves a layer, weights included, is rounded once
more, up or down. The largest of them, doubled, is the budget, in the maximum and in the root mean square.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.errors import ExportError
from export.lowerings.chunked import CHUNK
from export.runtimes import onnxruntime_run
from export.session import Session, SessionCache
from export.source import Exported
from refimpl.blocks import LatentAttention
from refimpl.blueprint import Blueprint
from refimpl.numerics import Array, unit_roundoff
from refimpl.ops import NumpyOps, Ops, Wrapper

BUDGET_FACTOR = 2.0
PERTURBED_SAMPLES = 12  # with half as many a right graph was 3 % outside, in the maximum
DRAWS = 8
LENGTH, PADDING = 12, 5
LONGEST_WINDOW = 256  # a longer one is not reached: the oracle would take too long
SEED = 20260101


@dataclass(frozen=True, kw_only=True)
class CallCheck:
    """One kind of call: its errors against float64 and its share of the budget (above 1 it fails)."""

    call: str
    max_error: float
    rms_error: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Every call that was checked, with the budgets that all of them were held to."""

    max_budget: float
    rms_budget: float
    calls: tuple[CallCheck, ...]

    def summary(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        return asdict(self)


def verify_export(exported: Exported, path: Path, dtype: str) -> Verification:
    """Run the graph at `path` against the specification. ExportError names the first call that exceeds its budget."""
    tokens, mask, oracle, rehearsals = _clear_rehearsals(exported, dtype)
    real = mask.astype(bool)
    floor = unit_roundoff(dtype) * np.abs(oracle[real]).max()
    errors = [_errors(rehearsal[real], oracle[real]) for rehearsal in rehearsals]
    max_budget, rms_budget = (BUDGET_FACTOR * max(floor, *column) for column in zip(*errors, strict=True))
    checks = []
    for call, result, expected in _calls(Session(path, onnxruntime_run(path)), tokens, mask, oracle):
        max_error, rms_error = _errors(result, expected)
        share = max(max_error / max_budget, rms_error / rms_budget)
        checks.append(CallCheck(call=call, max_error=max_error, rms_error=rms_error, share=share))
    verification = Verification(max_budget=max_budget, rms_budget=rms_budget, calls=tuple(checks))
    _require(verification, path)
    return verification


def _require(verification: Verification, path: Path) -> None:
    for check in verification.calls:
        if not check.share <= 1:  # also when it is not a number
            raise ExportError(
                f"{path}: {check.call} in onnxruntime is off by {check.max_error:.3g} (rms {check.rms_error:.3g}) from the "
                f"specification, which allows {verification.max_budget:.3g} (rms {verification.rms_budget:.3g})"
            )


def _clear_rehearsals(exported: Exported, dtype: str) -> tuple[Array, Array, Array, list[Array]]:
    """Tokens, mask, the oracle's logits and those of the rehearsals.

    A choice is discontinuous: where two experts, or two keys, are as good as equal, either is right and the logits jump. So
    tokens are drawn until every rehearsal chooses as the oracle.
    """
    for draw in range(DRAWS):
        tokens, mask = _padded_tokens(exported.blueprint, draw)
        oracle = _Choosing(NumpyOps())
        expected = _logits(exported, tokens, mask, "float64", oracle)
        readings = [("float64", _RoundedOnceMore(unit_roundoff(dtype), sample)) for sample in range(PERTURBED_SAMPLES)]
        plain: list[tuple[str, Ops]] = [(dtype, NumpyOps())] if dtype != "float64" else []
        results = []
        for precision, ops in [*plain, *readings]:
            rehearsal = _Choosing(ops)
            results.append(_logits(exported, tokens, mask, precision, rehearsal))
            if not rehearsal.agrees(oracle, mask):
                break
        else:
            return tokens, mask, expected, results
    raise ExportError(
        f"in {DRAWS} draws of tokens two experts or keys were always too close to call in {dtype}, so nothing can be verified"
    )


class _Choosing(Wrapper):
    """Remembers which experts were chosen, [B, T, A] a router, and which keys, [B, T, S] an indexer."""

    def __init__(self, inner: Ops) -> None:
        super().__init__(inner)
        self.choices: list[Array] = []

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        result = super().call(name, *values, **options)
        if name.endswith("_router"):
            self.choices.append(np.sort(result[0], axis=-1))
        elif name == "key_selection":
            self.choices.append(result[:, 0] == 0)
        return result

    def agrees(self, other: _Choosing, mask: Array) -> bool:
        """Whether both chose the same for every real token."""
        pairs = zip(self.choices, other.choices, strict=True)
        return all(np.array_equal(mine[mask == 1], theirs[mask == 1]) for mine, theirs in pairs)


def _padded_tokens(blueprint: Blueprint, draw: int) -> tuple[Array, Array]:
    """Two rows of tokens, the second shorter and padded on the left.

    They are longer than the windows, than what an indexer selects and than two chunks of linear attention, if positions
    allow it.
    """
    entries = [entry for state in blueprint.state() for entry in state.values()]
    windows = [(entry.window or 0) if entry.grows else 2 * CHUNK for entry in entries]
    indexers = [mixer.indexer for mixer in blueprint.attentions() if isinstance(mixer, LatentAttention)]
    windows += [indexer.top_k for indexer in indexers if indexer is not None]
    length = LENGTH + max((window for window in windows if window <= LONGEST_WINDOW), default=0)
    if blueprint.position_embedding is not None:
        length = min(length, blueprint.position_embedding.positions)
    tokens: Array = np.random.default_rng([SEED, draw]).integers(0, blueprint.vocab_size, (2, length))
    mask = np.ones_like(tokens)
    mask[1, : min(PADDING, length - 1)] = 0
    return tokens, mask


def _logits(exported: Exported, tokens: Array, mask: Array, dtype: str, ops: Ops) -> Array:
    """The specification's logits in `dtype`, as float64."""
    logits, _ = exported.specification(dtype).with_ops(ops)(tokens, attention_mask=mask)
    return logits.astype(np.float64)


class _RoundedOnceMore(Wrapper):
    """The specification with every weight, input and result of a function moved up or down by `roundoff`."""

    def __init__(self, roundoff: float, sample: int) -> None:
        super().__init__(NumpyOps())
        self._roundoff = roundoff
        self._generator = np.random.default_rng([SEED, sample])

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        result = super().call(name, *map(self._move, values), **options)
        return tuple(map(self._move, result)) if isinstance(result, tuple) else self._move(result)

    def _move(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype != np.float64:
            return value
        bits = np.frombuffer(self._generator.bytes(-(-value.size // 8)), np.uint8)
        moved = np.multiply(np.unpackbits(bits, count=value.size).reshape(value.shape), 2 * self._roundoff)
        moved += 1 - self._roundoff
        moved *= value  # in place: the largest weights of a model fill memory as it is
        return moved


def _calls(session: Session, tokens: Array, mask: Array, oracle: Array) -> Iterator[tuple[str, Array, Array]]:
    """What each kind of call gives and should give, at the real tokens."""
    row, expected, middle = tokens[:1], oracle[:1], tokens.shape[1] // 2
    yield "prefill", session(row)[0], expected
    first, half_way = session(row[:, :middle])
    second, _ = session(row[:, middle:], half_way)
    yield "prefill in pieces", np.concatenate([first, second], axis=1), expected
    steps: list[Array] = []
    cache: SessionCache | None = None
    for piece in np.split(row, _decode_steps(tokens.shape[1])[1:], axis=1):
        logits, cache = session(piece, cache)
        steps.append(logits)
    yield "cached decode", np.concatenate(steps, axis=1), expected
    padded, _ = session(tokens, attention_mask=mask)
    yield "a batch padded on the left", padded[mask.astype(bool)], oracle[mask.astype(bool)]


def _decode_steps(length: int) -> list[int]:
    """Where the calls of a decode begin: the first and the last tokens one by one, those between, which long windows need,
    in one piece."""
    last = range(max(0, length - LENGTH), length)
    return sorted({*range(min(LENGTH // 2, last.start) + 1), *last})


def _errors(result: Array, expected: Array) -> tuple[float, float]:
    """The largest and the root mean square difference."""
    difference = result.astype(np.float64) - expected
    return float(np.abs(difference).max()), float(np.sqrt(np.mean(difference**2)))
