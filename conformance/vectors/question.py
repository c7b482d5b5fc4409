"""A question in files: what an implementation in any language is asked, and how its answer is read.

`case.json` names what is asked, the tensors lie beside it in a safetensors file; the format is described in docs/vectors.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from conformance.cases import FAMILIES
from conformance.readings import computing_format
from conformance.results import KINDS
from refimpl import SPEC_VERSION
from refimpl.checkpoint.dtypes import NAMES
from refimpl.checkpoint.errors import CheckpointError
from refimpl.checkpoint.memory_map import read_tensor
from refimpl.checkpoint.safetensors_file import read_header
from refimpl.layers.precision import stays_wide
from refimpl.layers.signatures import signature_of
from refimpl.numerics import FORMATS, Array, is_float

FORMAT = 1
CASE, IN, OUT, EXPECTED, TAPS = "case.json", "in.safetensors", "out.safetensors", "expected.safetensors", "taps.safetensors"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A layer on arrays, or a model on tokens.

    dtype: the format of the floats in the answer, "int64" where it has none. options: every keyword option, as JSON has it;
    None: absent. arrays: by name. kinds: float, integer or bool for each tensor of the answer.
    checkpoint: the directory of the model.
    """

    level: str
    function: str
    dtype: str
    options: Mapping[str, Any]
    arrays: Mapping[str, Array]
    kinds: tuple[str, ...]
    wider: bool
    checkpoint: str = ""

    @classmethod
    def of_layer(cls, function: str, *values: Any, **options: Any) -> Question:
        """The call of a function of the vocabulary, its defaults written out."""
        bound = signature_of(function).bind(*values, **options)
        bound.apply_defaults()
        arrays = {name: value for name, value in bound.arguments.items() if isinstance(value, np.ndarray)}
        others = {name: _as_json(value) for name, value in bound.arguments.items() if name not in arrays}
        kinds = KINDS.get(function, ("float",))
        return cls(
            level="layer",
            function=function,
            dtype=_tested(others, arrays) if "float" in kinds else "int64",
            options=others,
            arrays=arrays,
            kinds=kinds,
            wider=FAMILIES[function].wider,
        )

    @classmethod
    def of_model(
        cls, directory: Path, tokens: Array, *, steps: Sequence[int] = (), attention_mask: Array | None = None
    ) -> Question:
        """Logits of tokens [B, T]. steps: the lengths of the pieces; attention_mask [B, T]: 0 for padding."""
        config = _config(directory)
        arrays = {"tokens": tokens, "attention_mask": attention_mask}
        return cls(
            level="model",
            function=str(config.get("model_type", "model")),
            dtype=str(config.get("torch_dtype", "float32")),
            options={"steps": list(steps) or [tokens.shape[1]]},
            arrays={name: np.asarray(array, np.int64) for name, array in arrays.items() if array is not None},
            kinds=("float",),
            wider=True,
            checkpoint=str(directory),
        )

    @property
    def names(self) -> list[str]:
        """The tensors of the answer."""
        if self.level == "model":
            return ["logits"]
        return ["out"] if len(self.kinds) == 1 else [f"out.{index}" for index in range(len(self.kinds))]

    def record(self) -> dict[str, Any]:
        """What stands in case.json of it."""
        codes = {"integer": "I64", "bool": "BOOL"}
        return {
            "format": FORMAT,
            "spec_version": SPEC_VERSION,
            "level": self.level,
            "function": self.function,
            "dtype": self.dtype,
            **({"checkpoint": self.checkpoint} if self.checkpoint else {}),
            "options": dict(self.options),
            "inputs": [
                {"name": name, "dtype": NAMES[array.dtype], "shape": list(array.shape)} for name, array in self.arrays.items()
            ],
            "outputs": [
                {"name": name, "dtype": codes.get(kind) or self._float(place), "wider": self.wider and kind == "float"}
                for place, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True))
            ],
        }

    def _float(self, place: int) -> str:
        """The format of a tensor of floats in the answer."""
        dtype = self.dtype if self.dtype in FORMATS else "float64"
        return NAMES[FORMATS[computing_format(dtype) if stays_wide(self.function, place) else dtype]]

    def digest(self) -> str:
        """The same for the same question, wherever it comes from."""
        # Of a checkpoint the last part of its path is its name.
        whole = replace(self, checkpoint=Path(self.checkpoint).name).record()
        found = hashlib.sha256(json.dumps(whole, sort_keys=True).encode())
        for name in sorted(self.arrays):
            found.update(self.arrays[name].tobytes())
        return found.hexdigest()

    def write(self, directory: Path, **more: Any) -> None:
        """case.json, with what `more` says of the case, and the inputs."""
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / CASE, {**self.record(), **more})
        write_tensors(directory / IN, self.arrays)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    save_file({name: np.array(array, order="C") for name, array in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file. CheckpointError, which calls the file by its name, when it is none."""
    try:
        return {name: np.array(read_tensor(info)) for name, info in read_header(path).items()}
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(path), path.name)) from None


def _config(directory: Path) -> dict[str, Any]:
    config = directory / "config.json"
    found: dict[str, Any] = json.loads((config if config.exists() else directory / "params.json").read_text(encoding="utf-8"))
    return found


def _as_json(value: Any) -> Any:
    if isinstance(value, (type, np.dtype)):
        return str(np.dtype(value))
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def _tested(options: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """The format of the result: that of the option `dtype`, or of the first array of floats."""
    if "dtype" in options:
        return str(options["dtype"])
    return next((str(array.dtype) for array in arrays.values() if is_float(array.dtype)), "float64")
