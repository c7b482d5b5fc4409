"""Backends that hang, end their process or remember, in a module that worker processes can import."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.layers import VOCABULARY, silu

gelu = VOCABULARY["gelu"]


def hang(x: Any) -> Any:
    time.sleep(3600)


def hang_in_compiled_code(x: Any) -> Any:
    ctypes.CDLL(None).pause()


def leave(x: Any) -> Any:
    os._exit(0)


def say_threads(x: Any) -> Any:
    raise RuntimeError(f"threads: {os.environ.get('OMP_NUM_THREADS')}")


def segfault(x: Any) -> Any:
    ctypes.string_at(0)


def print_below_python(x: Any) -> Any:
    os.write(1, b"printed\n")
    subprocess.run([sys.executable, "-c", "print('printed')"], check=True)
    return silu(x)


class OnShape:
    """silu by `function` where the last axis has `width` entries, as it should be elsewhere."""

    def __init__(self, function: Callable[[Any], Any], width: int) -> None:
        self.function, self.width = function, width

    def silu(self, x: Any) -> Any:
        return self.function(x) if x.shape[-1] == self.width else silu(x)

    def gelu(self, x: Any, **options: Any) -> Any:
        return gelu(x, **options)


class OneBuffer:
    """All results lie in the same memory."""

    def __init__(self) -> None:
        self.memory = np.zeros(2**16, np.float32)

    def silu(self, x: Any) -> Any:
        result = self.memory[: x.size].reshape(x.shape)
        result[...] = silu(x)
        return result


class Counting:
    """The second call and those after it are another function."""

    def __init__(self) -> None:
        self.calls = 0

    def silu(self, x: Any) -> Any:
        self.calls += 1
        return silu(x) * x.dtype.type(1 if self.calls == 1 else 1.5)


def leave_whatever(*values: Any, **options: Any) -> Any:
    os._exit(1)


def interrupt(x: Any) -> Any:
    raise KeyboardInterrupt


class OnlyHere:
    """Cannot be made again."""

    silu = staticmethod(silu)

    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("not in a worker")

    def __getstate__(self) -> Any:
        return {"state": 1}


class LeavesWhenMade(OnlyHere):
    """Ends the process in which it is made again."""

    def __setstate__(self, state: Any) -> None:
        os._exit(5)


class Starting(OnShape):
    """Starts another program and hangs, where the last axis has 7 entries."""

    def __init__(self, path: str) -> None:
        super().__init__(self.start, 7)
        self.path = path

    def start(self, x: Any) -> Any:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        Path(self.path).write_text(str(process.pid))
        process.wait()

    def alive(self) -> bool:
        """Whether the program runs still; a dead one may wait to be collected by whoever inherited it."""
        try:
            return Path(f"/proc/{Path(self.path).read_text()}/stat").read_text().split()[2] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False
