"""Running transformers in float64 throughout.

Its modelling code asks for float32 by name in norms, softmax and rotation angles (`.to(torch.float32)`, `.float()`), so that
a model whose weights are float64 still computes to seven digits only. Inside `double_precision` these names mean float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch


@contextmanager
def double_precision() -> Iterator[None]:
    """`torch.float32`, `torch.float`, `Tensor.float` and the default dtype are float64 while inside.

    Models have to be built inside as well, for the rotary frequencies are computed then. Modules have to be imported, and
    safetensors files read, outside: what they look up by name while the names are exchanged would stay wrong.
    """
    default = torch.get_default_dtype()
    with ExitStack() as exchanged:
        for name in ("float32", "float"):
            exchanged.enter_context(patch.object(torch, name, torch.float64))
        exchanged.enter_context(patch.object(torch.Tensor, "float", torch.Tensor.double))
        exchanged.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(torch.float64)
        yield
