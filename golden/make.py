"""Writing the golden tensors: layers from the suite's hand-picked cases, models from seeded weights."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from golden import models
from golden.configs import CONFIGS
from golden.layers import evaluate, golden_cases, split
from golden.manifest import NAME, GoldenError, directory, sha256, write_manifest, write_tensors
from refimpl import SPEC_VERSION
from refimpl.numerics import Array

# Float64 logits [B, T, V] of a checkpoint directory for tokens [B, T], by an implementation that is not this one, with its
# name and version.
Confirm = Callable[[Path, Array], tuple[Array, str, str]]
AGREEMENT = 1e-10


def make(root: Path | None = None, *, confirm: Confirm | None = None) -> Path:
    """Write all golden tensors under `root` (default: this package's own) and return it.

    confirm: an independent implementation that must agree on the models' logits to 1e-10 of their largest; without it
      the manifest says that the models are unconfirmed.
    """
    root = root or directory()
    if root.exists() and not (root / NAME).is_file() and (not root.is_dir() or any(root.iterdir())):
        raise GoldenError(f"{root}: holds no {NAME}; golden tensors go into a directory of their own")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        made = Path(scratch) / root.name
        made.mkdir()
        entries = [_layer(made, case) for case in golden_cases()]
        entries += [_model(made, name, confirm) for name in CONFIGS]
        made_with = {name: importlib.metadata.version(name) for name in ("numpy", "safetensors")}
        write_manifest(made, {"spec_version": SPEC_VERSION, "made_with": made_with, "entries": entries})
        if root.exists():
            root.rename(Path(scratch) / "replaced")
        made.rename(root)
    return root


def _layer(root: Path, case: Any) -> dict[str, Any]:
    path = Path("layers") / f"{case.id}.safetensors"
    arrays, options = split(case)
    about = {"id": case.id, "function": case.function, "options": options, "rules": list(case.rules)}
    inputs = {f"in.{name}": array for name, array in arrays.items()}
    write_tensors(root / path, {**inputs, **evaluate(case.function, arrays, options)}, about)
    how = "float64 specification on the inputs of the suite's case of the same id"
    return {"kind": "layer", **about, "file": str(path), "sha256": sha256(root / path), "how": how}


def _model(root: Path, name: str, confirm: Confirm | None) -> dict[str, Any]:
    folder = Path("models") / name
    models.save(name, root / folder)
    token_ids = models.tokens(name)
    results = models.run(root / folder, token_ids)
    expected = folder.with_suffix(".safetensors")
    write_tensors(root / expected, {"tokens": token_ids, **results}, {"id": name})
    files = [expected, *sorted(file.relative_to(root) for file in (root / folder).iterdir())]
    return {
        "kind": "model",
        "id": f"model/{name}",
        "rules": [],
        "folder": str(folder),
        "file": str(expected),
        "sha256": {str(file): sha256(root / file) for file in files},
        "how": "float64 specification on seeded float32 weights: taps of a prefill, logits of it and of cached steps",
        "confirmed_by": _confirmation(root / folder, token_ids, results, confirm),
    }


def _confirmation(folder: Path, token_ids: Array, results: dict[str, Array], confirm: Confirm | None) -> dict[str, Any] | None:
    if confirm is None:
        return None
    theirs, implementation, version = confirm(folder, token_ids)
    steps = [results[f"decode.{step}.logits"] for step in range(models.TOTAL - models.PREFILL)]
    ours = np.concatenate([results["prefill.logits"], *steps], axis=1)
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not error <= AGREEMENT:
        raise GoldenError(f"{folder.name}: {implementation} {version} differs by {error:.1e} of the largest logit")
    return {"implementation": implementation, "version": version, "largest_relative_error": error}
