"""None where a layer needs an array is one sentence that names the argument."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from refimpl.layers import VOCABULARY

REQUIRED = [
    (name, parameter.name)
    for name, function in VOCABULARY.items()
    for parameter in inspect.signature(function).parameters.values()
    if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
]
NUMBERS = {"eps": 1e-6, "scale": 1.0, "cap": 1.0, "window": 2, "chunk": 2, "theta": 10.0, "factor": 2.0}
SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 2.0, "original_max_position_embeddings": 8}


@pytest.mark.parametrize(("name", "argument"), REQUIRED)
def test_none_is_not_an_array(name: str, argument: str) -> None:
    parameters = inspect.signature(VOCABULARY[name]).parameters.values()
    given = {p.name: np.ones((2, 2)) for p in parameters if (name, p.name) in REQUIRED and p.name != argument}
    options = {p.name: {**NUMBERS, **SCALING}[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    with pytest.raises(ValueError, match=r"^\w+: \w+ (is|has) .* but "):
        VOCABULARY[name](**given, **{argument: None}, **options)
