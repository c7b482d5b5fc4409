"""Where the parts of models are in transformers, and how one runs alone."""

from __future__ import annotations

import importlib
from typing import Any

from conformance.backends.on_device import Tensor

PARTS = "transformers.models"


def part(model: str, name: str) -> Any:
    """A function or a class of the file of a model."""
    return getattr(importlib.import_module(f"{PARTS}.{model}.modeling_{model}"), name)


def ran(module: Any, parameters: dict[str, Tensor], *values: Tensor, **options: Any) -> Any:
    """What a module makes of values with these parameters."""
    from torch.func import functional_call

    return functional_call(module.eval(), parameters, values, options)


def activation(name: str) -> Any:
    """What a configuration calls by this name."""
    from transformers.activations import ACT2FN

    return ACT2FN[name]
