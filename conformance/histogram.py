"""The histogram of a failing case as a drawing of bars (`conformance.judge.histogram` counts it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conformance.judge import LARGEST_BIN, SMALLEST_BIN

HEIGHT, STEP, BAR = 60, 12, 10
NARROWEST = 120  # room for the words beneath


@dataclass(frozen=True)
class Histogram:
    """bins: pairs (e, count) of entries with 2^e < error / budget <= 2^(e+1)."""

    bins: Sequence[tuple[int, int]]

    @property
    def first(self) -> int:
        return min(-2, *(exponent for exponent, _ in self.bins))

    @property
    def last(self) -> int:
        return max(1, *(exponent for exponent, _ in self.bins))

    @property
    def width(self) -> int:
        return max(STEP * (self.last - self.first + 1), NARROWEST)

    @property
    def border(self) -> int:
        """Where the budget is."""
        return STEP * -self.first - (STEP - BAR) // 2

    def path(self, beyond: bool) -> str:
        """The bars within the budget, or those beyond it. One entry is to be seen as well."""
        tallest = max(count for _, count in self.bins)
        heights = ((exponent, max(1, round(HEIGHT * count / tallest))) for exponent, count in self.bins)
        return "".join(
            f"M{STEP * (exponent - self.first)} {HEIGHT}v-{height}h{BAR}v{height}"
            for exponent, height in heights
            if (exponent >= 0) == beyond
        )

    @property
    def ends(self) -> tuple[str, str]:
        """What the left and the right end stand for."""
        return power(self.first), f"{power(self.last + 1)} budgets"

    @property
    def sentence(self) -> str:
        """The same in words, for who does not see it."""
        total = sum(count for _, count in self.bins)
        within = sum(count for exponent, count in self.bins if exponent < 0)
        parts = ", ".join(f"{count} {_between(exponent)}" for exponent, count in self.bins)
        return f"Errors of {total} entries in budgets: {within} within one budget, {total - within} beyond. {parts}."


def power(exponent: int) -> str:
    """2^exponent as a fraction or a whole number."""
    return f"{2**exponent}" if exponent >= 0 else f"1/{2**-exponent}"


def _between(exponent: int) -> str:
    if exponent == SMALLEST_BIN:
        return f"up to {power(exponent + 1)}"
    return f"over {power(exponent)}" + ("" if exponent == LARGEST_BIN else f" up to {power(exponent + 1)}")
