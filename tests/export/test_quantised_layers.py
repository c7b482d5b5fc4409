"""Quantised storage in graphs: every code and every format of scales, bit for bit as the specification decodes them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from export.layers import LayerRunner, layer_model, split_arguments
from export.runtimes import onnxruntime_run, reference_run
from refimpl.layers import fp8_block_decode, int4_group_decode
from refimpl.layers.fp8 import FP8_FORMATS, SCALE_FORMATS
from refimpl.layers.int4 import INT4_SCALE_FORMATS
from tests.tiny import normal

RUNTIMES = {"onnxruntime": onnxruntime_run, "onnx.reference": reference_run}
# Shape and block: whole ones, ragged in both axes, ragged in rows alone, beyond the matrix, stacks.
BLOCKS: dict[str, tuple[tuple[int, ...], tuple[int, int]]] = {
    "whole": ((16, 32), (8, 16)),
    "ragged": ((10, 9), (4, 8)),
    "releases": ((130, 257), (128, 128)),
    "rows": ((9, 12), (4, 6)),
    "beyond": ((3, 5), (4, 8)),
    "stack": ((3, 5, 6), (2, 4)),
    "stacks": ((2, 3, 5, 7), (2, 4)),
}


@pytest.fixture(params=RUNTIMES)
def runner(request: pytest.FixtureRequest) -> LayerRunner:
    return LayerRunner(RUNTIMES[request.param])


def assert_identical(result: np.ndarray, expected: np.ndarray) -> None:
    """The same bits, but for those of what is not a number."""
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    bits, needed = (np.where(np.isnan(array), 0, array).view(f"u{array.itemsize}") for array in (result, expected))
    np.testing.assert_array_equal(bits, needed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("format", FP8_FORMATS)
@pytest.mark.parametrize("scale", SCALE_FORMATS)
@pytest.mark.parametrize("sizes", BLOCKS)
def test_fp8(runner: Any, sizes: str, scale: str, format: str, dtype: str) -> None:
    shape, block = BLOCKS[sizes]
    codes = np.arange(np.prod(shape)) * 37 % 256
    values = codes.astype(np.uint8).view(FP8_FORMATS[format]).reshape(shape)
    scales_shape = (*shape[:-2], *(-(-size // of) for size, of in zip(shape[-2:], block, strict=True)))
    scales: np.ndarray = normal(*scales_shape).astype(SCALE_FORMATS[scale])
    if scale == "ue8m0":
        scales = np.resize(np.array([0, 255, 127, 100, 254, 1], np.uint8), scales_shape).view(SCALE_FORMATS[scale])
    expected = fp8_block_decode(values, scales, block=block, dtype=dtype)
    assert_identical(runner("fp8_block_decode", values, scales, block=block, dtype=np.dtype(dtype)), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", INT4_SCALE_FORMATS)
@pytest.mark.parametrize(("front", "groups", "group"), [((), 3, 32), ((7,), 5, 32), ((3, 2), 4, 8), ((2, 3, 4), 1, 64)])
def test_int4(runner: Any, front: tuple[int, ...], groups: int, group: int, scale: str, dtype: str) -> None:
    packed = np.random.default_rng(0).integers(-(1 << 31), 1 << 31, (*front, groups * group // 8)).astype(np.int32)
    scales = normal(*front, groups).astype(INT4_SCALE_FORMATS[scale])
    expected = int4_group_decode(packed, scales, group=group, dtype=dtype)
    assert_identical(runner("int4_group_decode", packed, scales, group=group, dtype=np.dtype(dtype)), expected)


def test_rows_and_columns_are_dynamic() -> None:
    def call(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        values = normal(rows, columns).astype(ml_dtypes.float8_e4m3fn)
        return values, normal(-(-rows // 4), -(-columns // 3)).astype(np.float32)

    for load in RUNTIMES.values():
        run = load(layer_model("fp8_block_decode", *split_arguments("fp8_block_decode", *call(4, 3), block=(4, 3))))
        for sizes in ((1, 1), (5, 6), (8, 10)):
            values, scales = call(*sizes)
            expected = fp8_block_decode(values, scales, block=(4, 3))
            assert_identical(run({"values": values, "scales": scales})["output"], expected)
