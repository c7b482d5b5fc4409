"""What the files of a checkpoint are called: as Hugging Face names them, and as Mistral does in its own format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refimpl.config import is_params_json


@dataclass(frozen=True)
class FileNames:
    """`config` holds the configuration; the names of the files with tensors start with `stem`."""

    config: str
    stem: str

    @property
    def single(self) -> str:
        """The one file that holds all tensors."""
        return f"{self.stem}.safetensors"

    @property
    def index(self) -> str:
        """Which tensor is in which shard, where there are several files."""
        return f"{self.stem}.safetensors.index.json"

    def shard(self, number: int, count: int) -> str:
        """Shard `number`, from 1, of `count`."""
        return f"{self.stem}-{number:05d}-of-{count:05d}.safetensors"


HUGGING_FACE = FileNames("config.json", "model")
MISTRAL = FileNames("params.json", "consolidated")
# Some releases are stored in both ways at once; then Hugging Face's is read.
KNOWN = (HUGGING_FACE, MISTRAL)


def file_names(config: Mapping[str, Any]) -> FileNames:
    """The names under which a checkpoint with this configuration is stored."""
    return MISTRAL if is_params_json(config) else HUGGING_FACE


def preferred_configs(names: FileNames) -> tuple[str, ...]:
    """The configurations that are read in place of that of `names` where a directory holds both."""
    return tuple(other.config for other in KNOWN[: KNOWN.index(names)])
