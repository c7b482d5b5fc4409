"""Checkpoint files built by hand, byte by byte, so that they can be broken in one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def entry(dtype: str, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    """What a header says of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def framed(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file of a header (bytes, or a value to write as JSON) and data that need not belong together."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def bytes_file(tensors: dict[str, bytes]) -> bytes:
    """A well-formed file of U8 vectors."""
    table, data = {}, b""
    for name, values in tensors.items():
        table[name] = entry("U8", [len(values)], len(data), len(data) + len(values))
        data += values
    return framed(table, data)


def write_index(directory: Path, weight_map: Any) -> None:
    text = json.dumps({"metadata": {"total_size": 4}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(text)
