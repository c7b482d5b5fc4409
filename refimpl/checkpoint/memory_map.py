"""Tensors as read-only arrays over memory maps, each over its own byte range and unmapped with the array.

One map a tensor, rather than one a file, keeps a pass over the layers at the memory of one layer, also while an array of
another part of the file is held.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref

import numpy as np
import numpy.typing as npt

from refimpl.checkpoint.dtypes import DTYPES
from refimpl.checkpoint.errors import CheckpointError
from refimpl.checkpoint.safetensors_file import TensorInfo

# Smaller tensors are read: a map takes whole pages, and a process has a limited number of maps (65,530 on Linux).
SMALLEST_MAP_BYTES = 64 * 1024


def read_tensor(info: TensorInfo) -> npt.NDArray[np.generic]:
    """The tensor as a read-only array in its stored dtype. CheckpointError when its file is gone or has shrunk."""
    try:
        with info.file.open("rb", buffering=0) as stream:
            file_bytes = os.fstat(stream.fileno()).st_size
            # Beyond the end of its file a map raises a signal, not an exception.
            if file_bytes < info.offset + info.nbytes:
                raise CheckpointError(f"{info.file}: has shrunk to {file_bytes} bytes since it was opened")
            if info.nbytes < SMALLEST_MAP_BYTES:
                stream.seek(info.offset)
                data = memoryview(stream.read(info.nbytes))
            else:
                data = _map(stream.fileno(), info.offset, info.nbytes)
    except OSError as error:
        raise CheckpointError(f"{info.file}: tensor {info.name!r} cannot be read ({error.strerror})") from None
    return np.frombuffer(data, dtype=DTYPES[info.dtype]).reshape(info.shape)


def _map(descriptor: int, offset: int, nbytes: int) -> memoryview:
    """A read-only map of a byte range; maps start at a multiple of the allocation granularity."""
    skipped = offset % mmap.ALLOCATIONGRANULARITY
    if sys.platform == "win32":
        whole = memoryview(mmap.mmap(descriptor, skipped + nbytes, access=mmap.ACCESS_READ, offset=offset - skipped))
    else:
        whole = _map_posix(descriptor, offset - skipped, skipped + nbytes)
    return whole[skipped:]


if sys.platform != "win32":
    # Before Python 3.13 an mmap.mmap keeps a file descriptor of its own open, so that holding the tensors of a large
    # model would exhaust the process's descriptors; the system call itself needs none once the map exists.
    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong)
    _libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    _MAP_FAILED = ctypes.c_void_p(-1).value

    def _map_posix(descriptor: int, start: int, length: int) -> memoryview:
        address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, start)
        if address == _MAP_FAILED:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        buffer = (ctypes.c_ubyte * length).from_address(address)
        # Not at exit, when arrays may still be in use; the system unmaps then.
        weakref.finalize(buffer, _libc.munmap, address, length).atexit = False
        return memoryview(buffer).toreadonly().cast("B")
