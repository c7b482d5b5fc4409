"""(b) Time and bytes of an export, weights in place against copied, for growing checkpoints."""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import save_qwen3

from export import export_onnx


def main() -> None:
    print(f"{'checkpoint':>12} {'in place':>22} {'copy':>22}")
    for layers, hidden in ((4, 512), (12, 1024), (22, 1024)):
        with tempfile.TemporaryDirectory() as name:
            directory = save_qwen3(Path(name), layers=layers, hidden=hidden)
            size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
            cells = []
            for weights in ("in-place", "copy"):
                result = export_onnx(directory, directory / f"{weights}.onnx", weights=weights)
                cells.append(f"{result.bytes_written / 1e6:9.1f} MB {result.seconds:6.2f} s")
            print(f"{size / 1e6:9.0f} MB {cells[0]:>22} {cells[1]:>22}")


if __name__ == "__main__":
    main()
