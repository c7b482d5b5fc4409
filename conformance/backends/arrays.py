"""NumPy arrays to and from other array libraries, bit for bit.

Formats that NumPy does not know by itself (those of ml_dtypes) cannot travel through DLPack: NumPy refuses to export
them. They travel as integers of the same width that hold the same bits, and are viewed as floats again on the other side.

    array dtype                           through DLPack    torch              jax             cupy
    float64, float32, float16,            as it is          the same dtype     the same dtype  the same dtype
    complex, integers, bool
    bfloat16                              uint16 bits       torch.bfloat16     jnp.bfloat16    uint16 bits
    float8_e4m3fn, float8_e4m3fnuz,       uint8 bits        torch.float8_...   jnp.float8_...  uint8 bits
    float8_e5m2, float8_e5m2fnuz,
    float8_e8m0fnu

For a library that is not listed: `library.from_dlpack(as_bits(array))`, and `from_bits(np.from_dlpack(result), dtype)` back.

Memory is shared where the other library can: do not write into what you were given. No library is imported before its
function is called.
"""

from __future__ import annotations

import importlib
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from refimpl.numerics import Array

BITS: dict[str, type[np.unsignedinteger[Any]]] = {
    "bfloat16": np.uint16,
    "float8_e4m3fn": np.uint8,
    "float8_e4m3fnuz": np.uint8,
    "float8_e5m2": np.uint8,
    "float8_e5m2fnuz": np.uint8,
    "float8_e8m0fnu": np.uint8,
}


def as_bits(array: Array) -> Array:
    """`array` in a format that DLPack takes: bfloat16 and float8 as the unsigned integers of their bits, others unchanged.

    ValueError for anything but an array of a number format in the table.
    """
    if not isinstance(array, np.ndarray):
        raise ValueError(f"got a {type(array).__name__} but need a NumPy array")
    if array.dtype.name in BITS:
        return array.view(BITS[array.dtype.name])
    if array.dtype.kind not in "biufc":
        raise ValueError(f"got an array of dtype {array.dtype} but need bool, integers, floats or one of {', '.join(BITS)}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def from_bits(array: Array, dtype: npt.DTypeLike) -> Array:
    """The inverse of `as_bits`: `array` as `dtype`, which is a name in the table (or its NumPy dtype).

    ValueError when the array does not hold what `as_bits` makes of that dtype.
    """
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    expected = np.dtype(BITS.get(name, name))
    if array.dtype != expected:
        raise ValueError(f"got an array of dtype {array.dtype} but need {expected}, the bits of {name}")
    return array.view(getattr(ml_dtypes, name)) if name in BITS else array


def as_torch(array: Array, device: Any = "cpu") -> Any:
    """`array` as a torch tensor on `device`, bfloat16 and float8 as torch's own formats of the same name."""
    torch = _library("torch")
    bits = as_bits(array)
    if not bits.flags.writeable or any(stride < 0 or stride % bits.itemsize for stride in bits.strides):
        bits = bits.copy()  # torch has neither read-only memory nor such strides
    tensor = torch.from_numpy(bits)
    if array.dtype.name in BITS:
        tensor = tensor.view(getattr(torch, array.dtype.name))
    return tensor.to(device)


def from_torch(tensor: Any) -> Array:
    """A torch tensor on any device as a NumPy array."""
    torch = _library("torch")
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"got a {type(tensor).__name__} but need a torch tensor")
    name = str(tensor.dtype).removeprefix("torch.")
    if name in BITS:
        return from_bits(tensor.detach().view(getattr(torch, np.dtype(BITS[name]).name)).cpu().numpy(), name)
    return np.asarray(tensor.numpy(force=True))


def as_jax(array: Array) -> Any:
    """`array` as a jax array, which knows the formats of ml_dtypes itself.

    jax without `jax_enable_x64` has no 64-bit numbers: integers become 32-bit where their values allow it, anything else
    is a ValueError, because jax would round it in silence.
    """
    jax = _library("jax")
    bits = as_bits(array)
    array = array if array.dtype.name in BITS else bits
    if array.dtype.itemsize < 8 or array.dtype == np.complex64 or jax.config.jax_enable_x64:
        return jax.numpy.asarray(array)
    if array.dtype.kind in "iu":
        narrow = np.dtype(f"{array.dtype.kind}4")
        if np.array_equal(array.astype(narrow), array):
            return jax.numpy.asarray(array.astype(narrow))
    raise ValueError(
        f'jax would narrow this {array.dtype} array to 32 bits; it needs jax.config.update("jax_enable_x64", True) first'
    )


def from_jax(array: Any) -> Array:
    """A jax array as a NumPy array."""
    jax = _library("jax")
    if not isinstance(array, jax.Array):
        raise ValueError(f"got a {type(array).__name__} but need a jax array")
    return np.asarray(array)


def as_cupy(array: Array) -> Any:
    """`array` as a cupy array on the current device; bfloat16 and float8 as their bits, for a kernel to read as floats."""
    return _library("cupy").asarray(as_bits(array))


def from_cupy(array: Any, dtype: npt.DTypeLike | None = None) -> Array:
    """A cupy array as a NumPy array; `dtype` says which format its bits are in where that is bfloat16 or float8."""
    cupy = _library("cupy")
    if not isinstance(array, cupy.ndarray):
        raise ValueError(f"got a {type(array).__name__} but need a cupy array")
    host = cupy.asnumpy(array)
    return host if dtype is None else from_bits(host, dtype)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"{name} is not installed in this Python environment") from None
