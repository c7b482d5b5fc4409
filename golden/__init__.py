"""Golden tensors: fixed inputs and float64 results of every layer and of one small model an architecture.

`golden/<spec version>/MANIFEST.json` lists the files with their sha256, the rules that they exercise and how they were
made. `verify` recomputes all of them from the files alone; `make` writes them anew, which is a change of the specification.
"""

from golden.make import make
from golden.manifest import GoldenError, directory
from golden.verify import Verdict, verify

__all__ = ["GoldenError", "Verdict", "directory", "make", "verify"]
