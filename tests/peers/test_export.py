"""Every variant exported in place from the peer's own directory: onnxruntime gives what the specification gives."""

from __future__ import annotations

import pytest

from export import export_onnx

from .conftest import PairOf
from .variants import LATENT_ATTENTION, VARIANTS

FORMS = [
    (name, form)
    for name, variant in VARIANTS.items()
    for form in (("absorbed", "expanded") if variant.architecture in LATENT_ATTENTION else (None,))
]


@pytest.mark.parametrize(("name", "latent"), FORMS)
def test_the_graph_is_verified(name: str, latent: str | None, pair_of: PairOf) -> None:
    directory = pair_of(name).directory
    path = directory / f"{latent}.onnx"
    try:
        result = export_onnx(directory, path, verify=True, latent=latent)
    finally:
        path.unlink(missing_ok=True)
    assert result.weights == "in-place"
    assert result.verification is not None
