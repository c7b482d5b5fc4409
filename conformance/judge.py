"""The judge: how far a correct implementation may be from the truth, and whether a candidate is within it.

The budget of a problem is derived from the problem. Its noise is the largest, over all of these, of the distance to the truth:

    (a) the specification evaluated in the tested dtype, here and for inputs nearby, and with every step off by some ulps; the
        same of its layers' other forms
    (b) the truth for inputs perturbed by one rounding of the dtype
    (c) one ulp at the scale of the output (in the RMS: one rounding, which of few entries is as uncertain as 1/√n), and the
        smallest step that the dtype has

in two norms over the whole output: the maximum and the root mean square. The budget is twice the noise, for every layer.
Samples are drawn in rounds. The noise is that of all `ROUNDS`; the first decides alone where a candidate is inside it already,
and is what its share of the budget then refers to.
Outputs that stay in float32 where a model is narrower (`refimpl.layers.precision`) have the noise of float32.
A candidate must be inside in both norms. Integers and bools have no budget: they are equal or wrong, and so are floats that
are copied or decoded without a rounding. Beside integers that choose (`conformance.choice`) a sample is held against the truth
of its own choice among equal scores, and its noise is that of the entries where the choice is the same.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial, reduce
from typing import Any

import numpy as np

from conformance.forms import MOST_FORMS
from conformance.readings import Exact, InFormat, InOtherForm, Nearby, Perturbed, computing_format
from conformance.unsteady import Unsteady
from conformance.verdict import Judgement, Kind
from refimpl.numerics import FORMATS, Array, is_float, smallest_step, unit_roundoff

CONSTANT = 2.0
ROUNDS = 8
# Of one round.
UNSTEADY_SAMPLES = 1
PERTURBED_SAMPLES = 2
NEARBY_SAMPLES = 3
# The first and the last bin of a histogram of errors: 2^e and more, of the budget. Float64 may be wrong by 2^50 budgets.
SMALLEST_BIN, LARGEST_BIN = -8, 24
# Outside by more than this, no further round lets a candidate in: of 2,294 outputs the noise of all rounds was at most 15.3
# times that of the first (of a single number), of all others below 7 times.
PATIENCE = 32.0

Evaluate = Callable[[Exact], tuple[Array, ...]]
Follow = Callable[[tuple[Array, ...]], tuple[Array, ...]]
Pair = tuple[tuple[Array, ...], tuple[Array, ...]]


@dataclass(frozen=True)
class Norms:
    """The size of an error, a noise or a budget."""

    maximum: float
    rms: float

    @classmethod
    def of(cls, error: Array) -> Norms:
        """The norms of an array; 0 of an empty one."""
        if not error.size:
            return cls(0.0, 0.0)
        return cls(float(np.max(np.abs(error))), float(np.sqrt(np.mean(np.square(error)))))

    def larger(self, other: Norms) -> Norms:
        return Norms(max(self.maximum, other.maximum), max(self.rms, other.rms))

    def __add__(self, other: Norms) -> Norms:
        return Norms(self.maximum + other.maximum, self.rms + other.rms)

    def __rmul__(self, factor: float) -> Norms:
        return Norms(factor * self.maximum, factor * self.rms)


@dataclass(frozen=True)
class Expectation:
    """A true output and its noise (None where it must be met exactly). dtype: its format where that is not the tested one.

    noise: that of the first round of samples. further: that of all of them.
    """

    truth: Array
    noise: Norms | None
    dtype: str | None = None
    further: Callable[[], Norms] | None = field(default=None, repr=False, compare=False)

    @property
    def budget(self) -> Norms:
        return CONSTANT * self.noise if self.noise else Norms(0.0, 0.0)

    def settled(self) -> Expectation:
        """The same with the noise of all rounds."""
        return replace(self, noise=self.further(), further=None) if self.further else self


def expect(
    evaluate: Evaluate,
    dtype: str,
    *,
    exact: bool = False,
    wide: Sequence[int] = (),
    follow: Follow | None = None,
    outputs: tuple[Array, ...] | None = None,
) -> tuple[Expectation, ...]:
    """The truth of each output of a problem and the noise that is legitimate at `dtype` (none when `exact`).

    wide: which outputs stay in float32 where `dtype` is narrower. Their noise is that of the same problem at float32.
    follow: what is true where outputs choose as they do. outputs: those of a candidate, whose choice the truth then follows.
    """
    with np.errstate(all="ignore"):
        truths = evaluate(Exact(dtype)) if follow is None or outputs is None else follow(outputs)
    if exact or not any(is_float(truth.dtype) for truth in truths):
        return tuple(Expectation(truth, None) for truth in truths)
    formats = [computing_format(dtype) if index in wide else dtype for index in range(len(truths))]

    @np.errstate(all="ignore")
    def noises(rounds: range) -> list[Norms]:
        found = [rounding_noise(truth, each) for truth, each in zip(truths, formats, strict=True)]
        for each in sorted(set(formats)):
            pairs = [pair for number in rounds for pair in samples(evaluate, each, truths, number, follow=follow)]
            for index, truth in enumerate(truths):
                if formats[index] == each and is_float(truth.dtype):
                    found[index] = noise_of(truth, each, _errors(pairs, index))
        return found

    @cache
    def later_noises() -> list[Norms]:
        return noises(range(1, ROUNDS))

    def of_all_rounds(index: int) -> Norms:
        return first[index].larger(later_noises()[index])

    first = noises(range(1))
    return tuple(
        Expectation(truth, first[index], formats[index], further=partial(of_all_rounds, index))
        if is_float(truth.dtype)
        else Expectation(truth, None)
        for index, truth in enumerate(truths)
    )


def samples(
    evaluate: Evaluate, dtype: str, truths: tuple[Array, ...], number: int = 0, *, follow: Follow | None = None
) -> list[Pair]:
    """Round `number` of what parts (a) and (b) of the noise are taken from: readings of a problem, each beside its truth."""

    def seeds(count: int) -> range:
        return range(number * count, (number + 1) * count)

    here: list[Exact] = [] if number else [InFormat(dtype)]
    here += [Unsteady(dtype, seed) for seed in seeds(UNSTEADY_SAMPLES)]
    here += [Perturbed(dtype, seed) for seed in seeds(PERTURBED_SAMPLES)]
    found = [(sample, follow(sample) if follow else truths) for sample in map(evaluate, here)]
    nearby = [evaluate(Nearby(dtype, seed)) for seed in seeds(NEARBY_SAMPLES)]
    found += zip([evaluate(InFormat(dtype, seed)) for seed in seeds(NEARBY_SAMPLES)], nearby, strict=True)
    for form in range(MOST_FORMS):
        other = InOtherForm(dtype, form)
        sample = evaluate(other)
        if not other.differs:
            break
        found += [(sample, follow(sample) if follow else truths)]
        found += zip([evaluate(InOtherForm(dtype, form, seed)) for seed in seeds(NEARBY_SAMPLES)], nearby, strict=True)
    return found


def noise_of(truth: Array, dtype: str, errors: Iterable[Array]) -> Norms:
    """The noise of one output, of which `errors` are the samples."""
    noise = rounding_noise(truth, dtype)
    for each in errors:
        error = Norms.of(each)
        if not np.isfinite(error.maximum):
            raise ValueError(f"the inputs of this problem do not fit {dtype}: the specification overflows in it")
        noise = noise.larger(error)
    return noise


def _sum_of_budgets(expectations: Iterable[Expectation]) -> Norms:
    return reduce(operator.add, (one.budget for one in expectations))


def _errors(pairs: Iterable[Pair], index: int) -> Iterator[Array]:
    """Of output `index`, where the choice is the same."""
    for sample, reference in pairs:
        yield np.where(_chosen_alike(sample, reference), sample[index] - reference[index], 0)


def _chosen_alike(sample: Sequence[Array], reference: Sequence[Array]) -> Array | bool:
    """Where two readings of a problem chose alike: true, or bools [..., 1] when some of its outputs are integers."""
    alike: Array | bool = True
    for ours, theirs in zip(sample, reference, strict=True):
        if not is_float(ours.dtype):
            alike = alike & np.all(ours == theirs, axis=-1, keepdims=True)
    return alike


def rounding_noise(truth: Array, dtype: str) -> Norms:
    """Part (c) of the noise."""
    scale, step, rounding = Norms.of(truth), smallest_step(dtype), unit_roundoff(dtype)
    return Norms(2 * rounding * scale.maximum + step, rounding * (1 + max(truth.size, 1) ** -0.5) * scale.rms + step)


def judge(
    outputs: Sequence[Any], expectations: Sequence[Expectation], dtype: str, *, axes: Sequence[str], wider: bool = False
) -> Judgement:
    """The verdict on a candidate's outputs, the worst of them.

    axes: the dimension letters of each output, for naming places. wider: formats wider than `dtype` are right as well.
    """
    if len(outputs) != len(expectations):
        return failure("shape", f"returned {len(outputs)} arrays but needs {len(expectations)}")
    judgements = [
        judge_one(output, expectation, dtype, axes=letters, wider=wider)
        for output, expectation, letters in zip(outputs, expectations, axes, strict=True)
    ]
    return next((found for found in judgements if found.verdict != "pass"), max(judgements, key=lambda one: one.share or 0.0))


def judge_one(output: Any, expectation: Expectation, dtype: str, *, axes: str = "", wider: bool = False) -> Judgement:
    """The verdict on one output."""
    truth, dtype = expectation.truth, expectation.dtype or dtype
    if not isinstance(output, np.ndarray):
        return failure("dtype", f"returned a {type(output).__name__} but needs a NumPy array")
    if output.shape != truth.shape:
        return failure("shape", f"returned shape {output.shape} but needs {truth.shape}")
    wrong = _wrong_dtype(output.dtype, truth, dtype, wider=wider)
    if wrong:
        return failure("dtype", wrong)
    if expectation.noise is None:
        return _judge_exactly(output, truth, axes)
    values = output.astype(truth.dtype)
    if not np.isfinite(values).all():
        return failure(
            "non-finite", _non_finite(values, axes), worst=_place(np.argmin(np.isfinite(values)), values.shape, axes)
        )
    return within(values, truth, [expectation], kind="numeric", axes=axes)


def within(actual: Array, truth: Array, expectations: Sequence[Expectation], *, kind: Kind, axes: str = "") -> Judgement:
    """Whether two arrays are within the sum of these budgets of each other. Further rounds are drawn where they can matter."""
    judgement = measure(actual, truth, _sum_of_budgets(expectations), kind=kind, axes=axes)
    if judgement.verdict == "fail" and (judgement.share or 0.0) <= PATIENCE:
        settled = _sum_of_budgets(one.settled() for one in expectations)
        return measure(actual, truth, settled, kind=kind, axes=axes)
    return judgement


def measure(actual: Array, truth: Array, budget: Norms, *, kind: Kind, axes: str = "") -> Judgement:
    """Whether two arrays are within `budget` of each other in both norms."""
    error = Norms.of(actual - truth)
    shares = [
        part / allowed if allowed else float(part > 0)
        for part, allowed in ((error.maximum, budget.maximum), (error.rms, budget.rms))
    ]
    share = max(shares)
    passed = share <= 1
    worst = "" if passed else _worst(actual, truth, axes)
    return Judgement(
        verdict="pass" if passed else "fail",
        kind="" if passed else kind,
        sentence="" if passed else _explain(actual, truth, share),
        worst=worst,
        share=share,
        max_error=error.maximum,
        max_budget=budget.maximum,
        rms_error=error.rms,
        rms_budget=budget.rms,
        histogram=() if passed else histogram(actual - truth, budget.maximum),
    )


def histogram(error: Array, budget: float) -> tuple[tuple[int, int], ...]:
    """How many entries are wrong by how many budgets, as `Judgement.histogram` counts them."""
    if not budget:
        return ()
    with np.errstate(divide="ignore"):
        exponents = np.ceil(np.log2(np.abs(error) / budget)) - 1
    bins, counts = np.unique(np.clip(exponents, SMALLEST_BIN, LARGEST_BIN).astype(int), return_counts=True)
    return tuple(zip(bins.tolist(), counts.tolist(), strict=True))


def failure(kind: Kind, sentence: str, *, worst: str = "") -> Judgement:
    """A failure without numbers."""
    return Judgement(verdict="fail", kind=kind, sentence=sentence, worst=worst)


def _judge_exactly(output: Array, truth: Array, axes: str) -> Judgement:
    wrong = output.astype(truth.dtype) != truth
    if is_float(truth.dtype):
        wrong &= ~(np.isnan(output.astype(truth.dtype)) & np.isnan(truth))
    if not wrong.any():
        return Judgement(verdict="pass", share=0.0)
    sentence = f"{np.count_nonzero(wrong)} of {truth.size} entries differ"
    if (output == output.flat[0]).all() and not (truth == truth.flat[0]).all():
        sentence = f"a constant: every entry is {output.flat[0]}"
    place = _place(np.argmax(wrong), truth.shape, axes)
    first = np.unravel_index(int(np.argmax(wrong)), truth.shape)
    return failure("numeric", sentence, worst=f"{place}: yours {output[first]}, truth {truth[first]}")


def _wrong_dtype(actual: np.dtype[Any], truth: Array, dtype: str, *, wider: bool) -> str:
    if truth.dtype == bool:
        return "" if actual.kind == "b" else f"returned dtype {actual} but needs bool"
    if not is_float(truth.dtype):
        return "" if actual.kind in "iu" else f"returned dtype {actual} but needs an integer format"
    if actual == FORMATS[dtype]:
        return ""
    if wider and is_float(actual) and actual.itemsize > FORMATS[dtype].itemsize:
        return ""
    return f"returned dtype {actual} but needs {dtype}{' or wider' if wider else ''}"


def _explain(actual: Array, truth: Array, share: float) -> str:
    if (actual == actual.flat[0]).all() and not (truth == truth.flat[0]).all():
        return f"a constant: every entry is {float(actual.flat[0]):.4g}"
    return f"outside the budget by a factor of {share:.3g}"


def _non_finite(values: Array, axes: str) -> str:
    bad = np.count_nonzero(~np.isfinite(values))
    kinds = [name for name, found in (("NaN", np.isnan(values)), ("infinity", np.isinf(values))) if found.any()]
    return f"{bad} of {values.size} entries are {' or '.join(kinds)} where the truth is finite"


def _worst(actual: Array, truth: Array, axes: str) -> str:
    flat = int(np.argmax(np.abs(actual - truth)))
    index = np.unravel_index(flat, truth.shape)
    return f"{_place(flat, truth.shape, axes)}: yours {float(actual[index]):.5g}, truth {float(truth[index]):.5g}"


def _place(flat: Any, shape: tuple[int, ...], axes: str) -> str:
    index = np.unravel_index(int(flat), shape)
    letters = axes if len(axes) == len(shape) else [f"axis{axis}" for axis in range(len(shape))]
    return " ".join(f"{letter}={position}" for letter, position in zip(letters, index, strict=True))
