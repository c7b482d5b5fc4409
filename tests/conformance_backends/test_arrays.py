"""Arrays cross to other libraries and back bit for bit, whatever their format and memory layout."""

import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from conformance.backends import arrays

NUMPY_DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64", "complex128"]
DTYPES = [*NUMPY_DTYPES, *arrays.BITS]


def every_bit_pattern(dtype_name):
    """[4, 6, 8] random bits of a format: NaN, infinities, subnormals and negative zero among them."""
    dtype = np.dtype(getattr(ml_dtypes, dtype_name, None) or dtype_name)
    rng = np.random.default_rng(0)
    if dtype == np.bool_:
        return rng.integers(0, 2, (4, 6, 8)).astype(bool)
    return rng.integers(0, 256, 4 * 6 * 8 * dtype.itemsize, dtype=np.uint8).view(dtype).reshape(4, 6, 8)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "contiguous": lambda a: a,
    "transposed": lambda a: a.transpose(2, 0, 1),
    "strided": lambda a: a[::2, 1:, ::3],
    "reversed": lambda a: a[:, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "read-only": read_only,
    "no axes": lambda a: a[1, 2, 3, ...],
    "empty": lambda a: a[:0],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")) if a.dtype.name not in arrays.BITS else a,
}


def assert_same_bits(got, expected):
    assert got.dtype.name == expected.dtype.name
    assert got.shape == expected.shape
    assert got.tobytes() == expected.astype(expected.dtype.newbyteorder("=")).tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_survive_dlpack(dtype, layout):
    array = LAYOUTS[layout](every_bit_pattern(dtype))
    bits = arrays.as_bits(array)
    if bits.flags.writeable:
        bits = np.from_dlpack(bits)
    assert_same_bits(arrays.from_bits(bits, dtype), array)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_survive_torch(dtype, layout):
    torch = pytest.importorskip("torch")
    array = LAYOUTS[layout](every_bit_pattern(dtype))
    tensor = arrays.as_torch(array)
    assert tensor.dtype == getattr(torch, dtype)
    assert_same_bits(arrays.from_torch(tensor), array)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_survive_jax(dtype, layout):
    jax = pytest.importorskip("jax")
    array = LAYOUTS[layout](every_bit_pattern(dtype))
    with jax.enable_x64():
        assert_same_bits(arrays.from_jax(arrays.as_jax(array)), array)


def test_jax_without_64_bits_refuses_to_round():
    pytest.importorskip("jax")
    with pytest.raises(ValueError, match="would narrow this float64 array"):
        arrays.as_jax(np.ones(2))
    with pytest.raises(ValueError, match="would narrow this int64 array"):
        arrays.as_jax(np.array([2**40]))
    assert_same_bits(arrays.from_jax(arrays.as_jax(np.array([7, -3]))), np.array([7, -3], np.int32))


def test_cupy_receives_the_bits_of_bfloat16(monkeypatch):
    cupy = SimpleNamespace(asarray=np.array, asnumpy=np.asarray, ndarray=np.ndarray)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    array = every_bit_pattern("bfloat16")
    moved = arrays.as_cupy(array)
    assert moved.dtype == np.uint16
    assert_same_bits(arrays.from_cupy(moved, "bfloat16"), array)


def test_torch_tensors_that_numpy_cannot_share_are_read():
    torch = pytest.importorskip("torch")
    needs_gradient = torch.arange(6.0).reshape(2, 3).requires_grad_()
    assert np.array_equal(arrays.from_torch(needs_gradient.T), np.arange(6.0, dtype=np.float32).reshape(2, 3).T)
    bfloat16 = torch.arange(6.0).reshape(2, 3).to(torch.bfloat16).requires_grad_().T
    assert_same_bits(arrays.from_torch(bfloat16), np.arange(6).reshape(2, 3).T.astype(ml_dtypes.bfloat16))


def test_a_tensor_does_not_write_into_a_read_only_array():
    pytest.importorskip("torch")
    array = read_only(np.zeros(3))
    arrays.as_torch(array).add_(1)
    assert not array.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: arrays.as_bits([1.0]), "got a list but need a NumPy array"),
        (lambda: arrays.as_bits(np.array(["a"])), "got an array of dtype <U1"),
        (lambda: arrays.from_bits(np.zeros(3, np.uint8), "bfloat16"), "dtype uint8 but need uint16, the bits of bfloat16"),
        (lambda: arrays.from_bits(np.zeros(3, np.float32), "float64"), "dtype float32 but need float64"),
    ],
)
def test_what_cannot_travel_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_library_that_is_absent_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="cupy is not installed"):
        arrays.as_cupy(np.zeros(2))
