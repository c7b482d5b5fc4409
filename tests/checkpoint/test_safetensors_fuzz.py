"""Broken bytes: a damaged file is either refused with a CheckpointError or read exactly as the safetensors library reads it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import assume, example, given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from refimpl.checkpoint.errors import CheckpointError
from refimpl.checkpoint.safetensors_file import TensorInfo, read_header
from tests.checkpoint.handmade import entry, framed

HEADER = json.dumps(
    {
        "__metadata__": {"format": "pt"},
        "a.weight": entry("F32", [2, 3], 0, 24),
        "a.bias": entry("BF16", [3], 24, 30),
        "scalar": entry("U8", [], 30, 31),
        "empty": entry("F64", [0, 4], 31, 31),
    },
    separators=(",", ":"),
).encode()
DATA = bytes(range(31))
VALID = framed(HEADER, DATA)
JSON_PIECES = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"0", b"9", b".", b"e", b"null", b"true", b"NaN", b"\\", b" "]


def read(content: bytes) -> dict[str, TensorInfo] | None:
    """The table, or None for a CheckpointError; any other exception fails the test."""
    message = ""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "model.safetensors"
        file.write_bytes(content)
        try:
            return read_header(file)
        except CheckpointError as error:
            message = str(error)
    assert "\n" not in message
    return None


def assert_reads_as_the_library(content: bytes) -> bool:
    """Whether `content` was accepted; what was accepted must be what the safetensors library finds in it."""
    table = read(content)
    if table is None:
        return False
    try:
        expected = dict(deserialize(content))
    except SafetensorError as error:
        raise AssertionError(f"accepted what the library refuses: {error}") from None
    found = {name: (info.dtype, list(info.shape), content[info.offset :][: info.nbytes]) for name, info in table.items()}
    assert found == {name: (view["dtype"], view["shape"], bytes(view["data"])) for name, view in expected.items()}
    return True


def test_the_undamaged_file_is_accepted() -> None:
    assert assert_reads_as_the_library(VALID)


@given(length=st.integers(0, len(VALID) - 1))
def test_every_truncation_is_refused(length: int) -> None:
    assert read(VALID[:length]) is None


@given(extra=st.binary(min_size=1, max_size=8))
def test_every_extension_is_refused(extra: bytes) -> None:
    assert read(VALID + extra) is None


@given(changes=st.dictionaries(st.integers(0, len(VALID) - len(DATA) - 1), st.integers(0, 255), min_size=1, max_size=3))
@example({8 + HEADER.index(b"a.bias"): ord("b")})
def test_changed_bytes_of_length_and_header(changes: dict[int, int]) -> None:
    content = bytearray(VALID)
    for position, value in changes.items():
        content[position] = value
    assume(b"-0" not in content)  # an integer for Python's JSON, a float for the library's
    assert_reads_as_the_library(bytes(content))


@given(st.integers(0, len(HEADER)), st.integers(0, 6), st.lists(st.sampled_from(JSON_PIECES), max_size=3).map(b"".join))
def test_spliced_json(position: int, removed: int, inserted: bytes) -> None:
    header = HEADER[:position] + inserted + HEADER[position + removed :]
    assume(b"-0" not in header)
    assert_reads_as_the_library(framed(header, DATA))


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.builds(
            entry,
            st.sampled_from(["U8", "F16", "F64", "C64", "F4", "f32"]),
            st.lists(st.integers(-1, 4) | st.just(2**62), max_size=3),
            st.integers(-1, 40),
            st.integers(-1, 40),
        )
        | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=4),
        max_size=3,
    ),
    st.binary(max_size=40),
)
def test_arbitrary_tables(table: dict[str, object], data: bytes) -> None:
    assert_reads_as_the_library(framed(table, data))
