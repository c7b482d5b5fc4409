"""Checkpoint directories: the configuration and safetensors files, read through memory maps and written atomically.

Strict: a file, an index or a tensor that is not exactly what the format says is a CheckpointError, one sentence long.
No pickle is ever loaded.
"""

from refimpl.checkpoint.directory import Checkpoint, open_checkpoint
from refimpl.checkpoint.errors import CheckpointError
from refimpl.checkpoint.safetensors_file import TensorInfo
from refimpl.checkpoint.writer import save_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "TensorInfo", "open_checkpoint", "save_checkpoint"]
