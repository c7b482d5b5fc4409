"""What the parts of the torch backend share: NumPy arrays outside, tensors on its device inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from conformance.backends.arrays import as_torch, from_torch

Tensor = Any  # torch.Tensor, which may not be installed


class OnDevice:
    """Functions on tensors of one device."""

    device: str


def on_device(method: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: the method sees tensors on the backend's device, its caller NumPy arrays."""

    @wraps(method)
    def call(self: OnDevice, *values: Any, **options: Any) -> Any:
        import torch

        def tensor(value: Any) -> Any:
            return as_torch(value, self.device) if isinstance(value, np.ndarray) else value

        with torch.inference_mode():
            result = method(self, *map(tensor, values), **{name: tensor(value) for name, value in options.items()})
            return tuple(map(from_torch, result)) if isinstance(result, tuple) else from_torch(result)

    return call


def wide(x: Tensor) -> Tensor:
    """In float32 where `x` is narrower."""
    return x.float() if x.itemsize < 4 else x


def tensor_format(dtype: Any) -> Any:
    """The torch dtype of a NumPy dtype."""
    import torch

    return getattr(torch, np.dtype(dtype).name)
