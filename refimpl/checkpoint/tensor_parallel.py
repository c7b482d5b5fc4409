"""The tensor-parallel layout of a checkpoint, in which every rank of the machine that trained it wrote its own files.

pytorch_model-NNNNN-TP-common.safetensors holds whole tensors, pytorch_model-NNNNN-TP-RRR.safetensors slices of rank RRR, which
count from 000. A split tensor has the same name in the files of every rank, so no index, which maps a name to one file,
can describe the layout. Here NAME@TP-RRR names the slice of one rank; along which axis slices join is the model's knowledge.
Source: the files of xai-org/grok-2 (18 groups NNNNN, the routed experts split over 8 ranks); any prefix is accepted, as by
SGLang, python/sglang/srt/models/grok.py, `_prepare_presharded_weights`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from refimpl.checkpoint.errors import CheckpointError
from refimpl.checkpoint.safetensors_file import TensorInfo, read_header

COMMON = "common"

_FILE = re.compile(r".+-TP-([0-9]{3}|common)\.safetensors")
_SLICE = re.compile(r"(.+)@TP-([0-9]{3})")


def part_of(file_name: str) -> str | None:
    """The part whose file has this name: a rank as three digits, or `COMMON`; None when the layout has no such file."""
    match = _FILE.fullmatch(file_name)
    return match[1] if match else None


def part_file_name(group: int, part: str) -> str:
    """The name of the file of a part with number `group`."""
    return f"pytorch_model-{group:05d}-TP-{part}.safetensors"


def slice_name(name: str, part: str) -> str:
    """What the tensor `name` of a part is called among the tensors of the checkpoint."""
    return name if part == COMMON else f"{name}@TP-{part}"


def split_name(name: str) -> tuple[str, str]:
    """The name in the file, and the part whose file it is: the inverse of `slice_name`."""
    match = _SLICE.fullmatch(name)
    return (match[1], match[2]) if match else (name, COMMON)


def slices_of(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The split tensors among `names`, each with the names of its slices in the order of the ranks."""
    slices: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        whole, part = split_name(name)
        if part != COMMON:
            slices[whole].append(name)
    return {whole: tuple(found) for whole, found in slices.items()}


def read_parts(directory: Path, files: Mapping[Path, str]) -> dict[str, TensorInfo]:
    """The tensors of all files, given with their parts: common ones, then the slices, those of one tensor in rank order."""
    parts: dict[str, dict[str, TensorInfo]] = {}
    for file, part in files.items():
        held = parts.setdefault(part, {})
        for name, tensor in read_header(file).items():
            if name in held:
                other = held[name].file.name
                raise CheckpointError(f"{directory}: tensor {name!r} is in more than one file: {other} and {file.name}")
            held[name] = tensor
    check_parts(str(directory), {part: {name: info.dtype for name, info in held.items()} for part, held in parts.items()})
    ranks = sorted(set(parts) - {COMMON})
    slices = (replace(parts[rank][name], name=slice_name(name, rank)) for name in parts[ranks[0]] for rank in ranks)
    return parts.get(COMMON, {}) | {info.name: info for info in slices}


def check_parts(where: str, parts: Mapping[str, Mapping[str, str]]) -> None:
    """CheckpointError, starting with `where`, unless the parts (names to dtypes) are consistent.

    Ranks are 000 to the last without a gap, each has a slice of the same tensors in the same dtype, and no tensor is both
    split and whole. How many ranks there should be is written nowhere: when the last are missing only a shape can tell.
    """
    ranks = sorted(set(parts) - {COMMON})
    if not ranks:
        raise CheckpointError(f"{where}: has common files but needs the files of rank 000 as well")
    missing = [f"{rank:03d}" for rank in range(len(ranks)) if f"{rank:03d}" not in ranks]
    if missing:
        raise CheckpointError(f"{where}: has files of rank {ranks[-1]} but needs those of rank {missing[0]} as well")
    for rank in ranks:
        _check_same_slices(where, parts, rank)
    for name in [*parts.get(COMMON, {}), *parts["000"]]:
        if name in parts.get(COMMON, {}) and name in parts["000"]:
            raise CheckpointError(f"{where}: tensor {name!r} is both in a common file and in the files of the ranks")
        if split_name(name)[1] != COMMON:
            raise CheckpointError(f"{where}: tensor {name!r} in a file would be mistaken for the slice of a rank")


def _check_same_slices(where: str, parts: Mapping[str, Mapping[str, str]], rank: str) -> None:
    """Rank `rank` has slices of the tensors that rank 000 has, in the same dtypes."""
    first, slices = parts["000"], parts[rank]
    for name in [*first, *slices]:
        if name not in slices or name not in first:
            lacking, having = (rank, "000") if name not in slices else ("000", rank)
            raise CheckpointError(f"{where}: rank {lacking} lacks a slice of tensor {name!r}, which rank {having} has")
        if slices[name] != first[name]:
            raise CheckpointError(f"{where}: tensor {name!r} is {first[name]} on rank 000 but {slices[name]} on rank {rank}")
