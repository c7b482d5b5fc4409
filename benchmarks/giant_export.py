"""(f) In-place export of a release of a trillion parameters over sparse files in its layout: seconds, memory, bytes written.

Nothing is stored but headers (the rest reads as zeros), a few dozen MB. The release is an argument, by default
moonshotai/Kimi-K2-Thinking.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from pathlib import Path

import onnxruntime

import refimpl
from export import export_onnx
from refimpl.checkpoint.dtypes import DTYPES
from refimpl.storage import STORED_FLOATS, Leaf


def main() -> None:
    release = sys.argv[1] if len(sys.argv) > 1 else "moonshotai/Kimi-K2-Thinking"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        tensors = write_sparse(release, directory)
        size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        parameters = refimpl.blueprint(release).num_parameters()
        print(f"{release}: {parameters:,} parameters, {tensors:,} tensors, {size / 1e9:,.0f} GB")
        result = export_onnx(directory, directory / "model.onnx")
        print(f"  export {result.seconds:.1f} s, {result.bytes_written / 1e6:.1f} MB written, peak {peak()} MB")
        start = time.perf_counter()
        onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
        print(f"  onnxruntime opens it in {time.perf_counter() - start:.1f} s, peak {peak()} MB")


def write_sparse(release: str, directory: Path) -> int:
    """The checkpoint, a file a layer; how many tensors it has."""
    blueprint = refimpl.blueprint(release)
    files: dict[str, dict[str, Leaf]] = defaultdict(dict)
    for name, leaf in blueprint.layouts[0].leaves(blueprint.parameters()).items():
        layer = re.search(r"layers\.(\d+)\.", name)
        files[f"model-{layer[1] if layer else 'rest'}.safetensors"][name] = leaf
    for file, leaves in files.items():
        write_file(directory / file, leaves)
    index = {"metadata": {}, "weight_map": {name: file for file, leaves in files.items() for name in leaves}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(dict(blueprint.config)))
    return len(index["weight_map"])


def write_file(path: Path, leaves: Mapping[str, Leaf]) -> None:
    """A safetensors file of zeros."""
    header, end = {}, 0
    for name, leaf in leaves.items():
        # Both plain tensors and the scales of INT4 are BF16 in the release; those of FP8 come first as F32.
        stored = "BF16" if leaf.formats == STORED_FLOATS or name.endswith("_scale") else leaf.formats[0]
        start, end = end, end + prod(leaf.shape) * DTYPES[stored].itemsize
        header[name] = {"dtype": stored, "shape": leaf.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)


def peak() -> int:
    """Of the process so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


if __name__ == "__main__":
    main()
