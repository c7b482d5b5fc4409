"""refimpl: an executable NumPy specification of decoder-only language models.

`blueprint` says what a model is, `load` and `init` give one that runs, `generate` decodes with it. The layers themselves are
in `refimpl.layers`; the suite that checks other implementations is `conformance`, the exporter to ONNX is `export`.
"""

from refimpl.api import blueprint, init, load, releases
from refimpl.drafters import Drafter, ModelDrafter, MultiTokenDrafter
from refimpl.generate import generate
from refimpl.model import Cache, Model
from refimpl.sampler import Sampling

# The version of the numbers: any change of a result is a new one. Separate from the version of the package.
SPEC_VERSION = "2026.1"

__all__ = [
    "SPEC_VERSION",
    "Cache",
    "Drafter",
    "Model",
    "ModelDrafter",
    "MultiTokenDrafter",
    "Sampling",
    "blueprint",
    "generate",
    "init",
    "load",
    "releases",
]
