"""What a backend must not remember: an answer is a function of the question, and stays as it was given."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from conformance.calls import Misbehaved, Unsupported, bits
from conformance.judge import failure
from conformance.verdict import Judgement

Outputs = tuple[Any, ...]


def without_memory(
    first: Outputs,
    judge: Callable[[Outputs], Judgement],
    ask_again: Callable[[], Outputs],
    ask_another: Callable[[], Outputs],
) -> Judgement:
    """The verdict on outputs and, where they pass, on what becomes of them after another question and the same one again.

    Answers need not be the same to the last bit, only right each time.
    """
    judgement = judge(first)
    if judgement.verdict != "pass":
        return judgement
    given = [bits(output) for output in first]
    with suppress(Unsupported, Misbehaved, ValueError):  # whether it answers the other question is another case's affair
        ask_another()
    if [bits(output) for output in first] != given:
        return failure("state", "the result changed when another call was made: results share memory")
    try:
        again = ask_again()
    except (Unsupported, Misbehaved) as error:
        return failure("state", f"answered once, but not a second time with equal inputs: {error}")
    if [bits(output) for output in again] == given:
        return judgement
    second = judge(again)
    if second.verdict == "pass":
        return judgement
    return failure("state", f"right once, but wrong a second time with equal inputs: {second.sentence}", worst=second.worst)
