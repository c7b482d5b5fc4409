"""Checking the golden tensors: the files are the listed ones, and the specification still gives what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golden import models
from golden.layers import evaluate
from golden.manifest import GoldenError, directory, read_manifest, read_tensors, sha256
from refimpl.numerics import Array, unit_roundoff

# Float64 sums may be taken in another order by another linear-algebra library: room for that, far below any change of meaning.
SLACK = 2**14 * unit_roundoff("float64")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One golden entry: `problem` is None when it holds. error is relative to the largest value of the tensor."""

    id: str
    error: float
    problem: str | None = None


def verify(root: Path | None = None) -> Iterator[Verdict]:
    """The verdict on every entry of the manifest. GoldenError when there is no manifest to go by."""
    root = root or directory()
    manifest = read_manifest(root)
    checks = {"layer": _layer, "model": _model}
    for entry in manifest["entries"]:
        try:
            error, worst = checks[entry["kind"]](root, entry)
        except (ValueError, KeyError) as problem:
            yield Verdict(id=entry["id"], error=float("nan"), problem=str(problem))
            continue
        wrong = None if error <= SLACK else f"{worst} differs by {error:.1e} of its largest value"
        yield Verdict(id=entry["id"], error=error, problem=wrong)
    yield from _unlisted(root, manifest)


def _layer(root: Path, entry: dict[str, Any]) -> tuple[float, str]:
    _same_bytes(root / entry["file"], entry["sha256"])
    tensors = read_tensors(root / entry["file"])
    arrays = {name.removeprefix("in."): array for name, array in tensors.items() if name.startswith("in.")}
    results = evaluate(entry["function"], arrays, entry["options"])
    return _compare(results, {name: array for name, array in tensors.items() if not name.startswith("in.")})


def _model(root: Path, entry: dict[str, Any]) -> tuple[float, str]:
    for name, digest in entry["sha256"].items():
        _same_bytes(root / name, digest)
    expected = read_tensors(root / entry["file"])
    return _compare(models.run(root / entry["folder"], expected.pop("tokens")), expected)


def _compare(results: dict[str, Array], expected: dict[str, Array]) -> tuple[float, str]:
    """The largest relative error over all tensors, and the tensor that has it."""
    if results.keys() != expected.keys():
        raise GoldenError(f"holds {sorted(expected)} but the specification gives {sorted(results)}")
    errors = {name: _error(results[name], array) for name, array in expected.items()}
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst


def _error(result: Array, expected: Array) -> float:
    if result.shape != expected.shape:
        raise GoldenError(f"shape {expected.shape} is stored but the specification gives {result.shape}")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(result, expected) else float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(result[~finite], expected[~finite], equal_nan=True) or not np.isfinite(result[finite]).all():
        return float("inf")
    result, expected = result[finite], expected[finite]
    largest = np.abs(expected).max(initial=np.finfo(np.float64).tiny)
    return float(np.abs(result - expected).max(initial=0.0) / largest)


def _same_bytes(path: Path, digest: str) -> None:
    if sha256(path) != digest:
        raise GoldenError(f"{path}: the bytes are not the listed ones (sha256)")


def _unlisted(root: Path, manifest: dict[str, Any]) -> Iterator[Verdict]:
    listed = {root / entry["file"] for entry in manifest["entries"]}
    folders = {root / entry["folder"] for entry in manifest["entries"] if entry["kind"] == "model"}
    for path in sorted(root.rglob("*.safetensors")):
        if path not in listed and path.parent not in folders:
            yield Verdict(id=str(path.relative_to(root)), error=float("nan"), problem="not listed in the manifest")
