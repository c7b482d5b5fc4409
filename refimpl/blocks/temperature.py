"""Attention temperatures as parts of a model: which law, with which constants."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from refimpl.ops import Ops


@dataclass(frozen=True, kw_only=True)
class LogLength:
    """`log_length_temperature`."""

    length: int

    def __call__(self, ops: Ops, positions: Any, dtype: np.dtype[Any]) -> Any:
        return ops.log_length_temperature(positions, dtype=dtype, **asdict(self))


@dataclass(frozen=True, kw_only=True)
class LogFloor:
    """`log_floor_temperature`."""

    scale: float
    floor: int
    offset: int = 1

    def __call__(self, ops: Ops, positions: Any, dtype: np.dtype[Any]) -> Any:
        return ops.log_floor_temperature(positions, dtype=dtype, **asdict(self))


Temperature = LogLength | LogFloor
