"""What the strategies of `conformance.strategies` are made of."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Parameters = dict[str, Any]


def present(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Parameters]:
    """Any subset of options."""
    return st.fixed_dictionaries({}, optional=optional)


def sizes(**bounds: tuple[int, int]) -> st.SearchStrategy[Parameters]:
    return st.fixed_dictionaries({name: st.integers(*pair) for name, pair in bounds.items()})


def both(first: st.SearchStrategy[Parameters], second: st.SearchStrategy[Parameters]) -> st.SearchStrategy[Parameters]:
    return st.builds(lambda a, b: {**a, **b}, first, second)
