"""How many threads compute in a process: several processes share the cores, or their threads wait for one another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# What OpenBLAS, MKL, torch and other runtimes with OpenMP go by, and Apple's BLAS.
VARIABLES = ("OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """How many threads a runtime without OpenMP is to use here: 0, its own choice, unless OMP_NUM_THREADS is a number."""
    said = os.environ.get(VARIABLES[0], "")
    return int(said) if said.isdecimal() else 0


@contextmanager
def share_of_cores(processes: int) -> Iterator[None]:
    """Processes started meanwhile use a share of the cores each, of so many processes; what the user has set stands."""
    ours = [name for name in VARIABLES if processes > 1 and name not in os.environ]
    os.environ.update(dict.fromkeys(ours, str(max(1, cores() // processes))))
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
