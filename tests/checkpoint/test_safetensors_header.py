"""The header of a safetensors file: what is accepted, and one sentence for everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refimpl.checkpoint.dtypes import DTYPES
from refimpl.checkpoint.errors import CheckpointError
from refimpl.checkpoint.safetensors_file import MAX_HEADER_BYTES, TensorInfo, read_header
from tests.checkpoint.handmade import entry, framed

X = entry("U8", [2], 0, 2)
Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """write(header, data) -> the path of a safetensors file."""

    def write_file(header: Any, data: bytes = b"") -> Path:
        file = tmp_path / "model.safetensors"
        file.write_bytes(framed(header, data))
        return file

    return write_file


def with_(**changes: Any) -> dict[str, Any]:
    return {"x": X | changes}


def test_table_gives_absolute_offsets_in_the_order_of_the_data(write: Writer) -> None:
    header = {"__metadata__": {"format": "pt"}, "late": entry("BF16", [1, 3], 4, 10), "early": entry("F32", [], 0, 4)}
    file = write(header, bytes(10))
    start = 8 + len(json.dumps(header))
    assert list(read_header(file).values()) == [
        TensorInfo("early", "F32", (), file, start, 4),
        TensorInfo("late", "BF16", (1, 3), file, start + 4, 6),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_its_size(write: Writer, dtype: str) -> None:
    nbytes = 6 * DTYPES[dtype].itemsize
    assert read_header(write({"x": entry(dtype, [2, 3], 0, nbytes)}, bytes(nbytes)))["x"].nbytes == nbytes


def test_item_sizes_are_in_the_names() -> None:
    bits = {name: int("".join(filter(str.isdigit, name.split("_")[0]))) for name in DTYPES if name != "BOOL"}
    assert {name: DTYPES[name].itemsize * 8 for name in bits} == bits


def test_empty_tensors_lie_anywhere_between_the_others(write: Writer) -> None:
    header = {"full": X, "first": entry("F64", [0], 0, 0), "last": entry("F64", [3, 0], 2, 2)}
    assert set(read_header(write(header, b"12"))) == set(header)


def test_a_file_without_tensors_and_padding_after_the_header_are_fine(write: Writer) -> None:
    assert read_header(write(b"{}      ")) == {}


@pytest.mark.parametrize(
    ("header", "data", "sentence"),
    [
        (b"", b"", r"starts with b'' instead of"),
        (b" {}", b"", r"starts with b' ' instead of"),
        (b"[1]", b"", r"must be a JSON object but starts with b'\['"),
        (b"{]", b"", r"not valid JSON"),
        (b"{}\0", b"", r"not valid JSON"),
        (b'{"\xff": 1}', b"", r"not valid JSON .*utf-8"),
        (b'{"x":' + b"[" * 100_000, b"", r"not valid JSON .*recursion"),
        (b'{"x": ' + b"1" * 5000 + b"}", b"", r"not valid JSON .*digits"),
        (b'{"x": 1, "x": 2}', b"", r"key 'x' appears 2 times"),
        (b'{"x": {"dtype": "U8", "dtype": "I8", "shape": [], "data_offsets": [0, 1]}}', b"1", r"key 'dtype' appears 2 times"),
        ({"__metadata__": ["pt"]}, b"", r"__metadata__ must map strings to strings but is \['pt'\]"),
        ({"__metadata__": {"size": 3}}, b"", r"__metadata__ must map strings to strings but is \{'size': 3\}"),
        (b'{"\\ud800": null}', b"", r"not valid Unicode"),
        ({"x": [1]}, b"", r"tensor 'x' needs exactly the keys dtype, shape and data_offsets but its entry is \[1\]"),
        ({"x": {"dtype": "U8", "shape": []}}, b"", r"needs exactly the keys"),
        (with_(strides=[1]), b"12", r"needs exactly the keys"),
        (with_(dtype="F7"), b"12", r"unknown dtype 'F7'; known are F64, F32, .*F8_E8M0$"),
        (with_(dtype=["U8"]), b"12", r"unknown dtype \['U8'\]"),
        (with_(shape=2), b"12", r"shape 2 but needs a list of non-negative integers"),
        (with_(shape=[-2]), b"12", r"shape \[-2\] but needs"),
        (with_(shape=[-1, -2]), b"12", r"shape \[-1, -2\] but needs"),
        (with_(shape=[2.0]), b"12", r"shape \[2.0\] but needs"),
        (with_(shape=[2, True]), b"12", r"shape \[2, True\] but needs"),
        (with_(shape=["2"]), b"12", r"shape \['2'\] but needs"),
        (with_(shape=[2] + [1] * 64), b"12", r"65 dimensions but at most 64"),
        (with_(shape=[0, 2**63], data_offsets=[0, 0]), b"", r"too large to address"),
        (with_(shape=[0, 2**40, 2**40], data_offsets=[0, 0]), b"", r"too large to address"),
        (with_(data_offsets=[0]), b"12", r"data_offsets \[0\] but needs \[begin, end\]"),
        (with_(data_offsets=[0, 1, 2]), b"12", r"data_offsets \[0, 1, 2\] but needs"),
        (with_(data_offsets=[2, 0]), b"12", r"data_offsets \[2, 0\] but needs"),
        (with_(data_offsets=[-2, 0]), b"12", r"data_offsets \[-2, 0\] but needs"),
        (with_(data_offsets=[0, 2.0]), b"12", r"data_offsets \[0, 2.0\] but needs"),
        (with_(data_offsets=None), b"12", r"data_offsets None but needs"),
        (with_(shape=[3]), b"12", r"2 bytes of data but U8 of shape \[3\] needs 3"),
        (with_(dtype="F32"), b"12", r"2 bytes of data but F32 of shape \[2\] needs 8"),
        ({"x": X}, b"1", r"tensor 'x' ends at byte 70 but the file has only 69 bytes: truncated\?"),
        ({"x": X}, b"123", r"1 surplus bytes after tensor 'x'"),
        ({}, b"1", r"1 surplus bytes after the header"),
        (with_(data_offsets=[1, 3]), b"123", r"tensor 'x' leaves a hole after the header: it starts at byte 69, not 68"),
        ({"x": X, "y": entry("U8", [2], 3, 5)}, b"12345", r"tensor 'y' leaves a hole after tensor 'x'"),
        ({"x": X, "y": entry("U8", [2], 1, 3)}, b"123", r"tensor 'y' overlaps tensor 'x'"),
        ({"x": X, "y": X}, b"12", r"tensor 'y' overlaps tensor 'x'"),
        ({"x": X, "y": entry("U8", [0], 1, 1)}, b"12", r"overlaps"),
    ],
)
def test_malformed_header_is_one_sentence(write: Writer, header: Any, data: bytes, sentence: str) -> None:
    file = write(header, data)
    with pytest.raises(CheckpointError, match=sentence) as error:
        read_header(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"has 0 bytes but a safetensors file has at least 8"),
        (b"1234567", r"has 7 bytes"),
        (framed(b"{}", b"")[:-1], r"announces a header up to byte 10 but has only 9 bytes"),
        ((2**64 - 1).to_bytes(8, "little"), rf"header of {2**64 - 1} bytes but at most {MAX_HEADER_BYTES} are allowed"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", rf"header of {MAX_HEADER_BYTES + 1} bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", r"Git LFS pointer"),
    ],
)
def test_malformed_frame_is_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        read_header(file)


def test_long_values_are_abbreviated(write: Writer) -> None:
    with pytest.raises(CheckpointError) as error:
        read_header(write(with_(shape=["a" * 10_000])))
    assert len(str(error.value)) < 400


def test_unreadable_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_header(tmp_path)
