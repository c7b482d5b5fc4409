"""Judging in processes that may hang or die: the case is reported, the process replaced, and the run goes on.

A worker process judges one job at a time and sends each result as soon as it has it, so that the case that is to blame is the
next one. It leads a process group of its own: what the backend has started ends with it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from conformance.backend import Backend, BackendError
from conformance.calls import described
from conformance.jobs import SENDABLE, Job
from conformance.threads import share_of_cores
from conformance.verdict import Kind, Result

TIMEOUT = 60.0
# Cases of one job that may end or block a process before the others are not asked.
LOSSES = 3
# To load the backend, which is no case.
START_TIMEOUT = 300.0
# To leave after the last job, before a process is ended.
LEAVE_TIMEOUT = 2.0


def results_of_workers(jobs: Iterable[Job], backend: Backend, *, workers: int, timeout: float) -> Generator[Result, None, None]:
    """The results in the order in which they come. BackendError where the backend cannot be made in a worker."""
    try:
        carried = pickle.dumps(backend)
    except Exception as error:  # whatever a backend's own objects raise when they are pickled
        sentence = f"{backend.name}: cannot be sent to worker processes ({described(error)}); {SENDABLE}"
        raise BackendError(sentence) from error
    waiting = deque(jobs)
    with tempfile.TemporaryDirectory(prefix="refimpl-", ignore_cleanup_errors=True) as directory:
        processes = min(workers, len(waiting))
        places = [_Place(carried, backend.name, directory, processes, timeout) for _ in range(processes)]
        try:
            while True:
                for place in places:
                    if place.idle and waiting:
                        place.give(waiting.popleft())
                busy = [place for place in places if not place.idle]
                if not busy:
                    return
                wait([thing for place in busy for thing in place.watched], max(0.0, min(place.patience for place in busy)))
                for place in busy:
                    yield from place.results()
        finally:
            for place in places:
                place.close()


class _Place:
    """Where one process works at a time, and what is left of its job."""

    def __init__(self, carried: bytes, name: str, directory: str, processes: int, timeout: float) -> None:
        self._start = (carried, name, directory, processes)
        self._timeout = timeout
        self._worker: _Worker | None = None
        self._job = Job((), 0, 0)
        self._left: deque[str] = deque()
        self._losses = 0

    @property
    def idle(self) -> bool:
        return not self._left

    @property
    def watched(self) -> list[Connection | int]:
        """What becomes ready when there is something to do."""
        assert self._worker is not None
        return [self._worker.connection, self._worker.process.sentinel]

    @property
    def patience(self) -> float:
        """Seconds until the process is ended."""
        return self._deadline - time.monotonic()

    def give(self, job: Job) -> None:
        self._job, self._left, self._losses = job, deque(job.case_ids), 0
        self._send()

    def results(self) -> Iterator[Result]:
        """What has come, including that nothing more will."""
        worker = self._worker
        assert worker is not None
        gone = not worker.process.is_alive()  # asked first: what it sent before its end is still to be read
        for message in worker.messages():
            yield from self._taken(message)
        if self._left and gone:
            yield from self._lost("crash", f"ended its process ({worker.end()})")
        elif self._left and self.patience <= 0:
            yield from self._lost("timeout", f"gave no answer within {self._allowed:g} s")

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close(at_once=not self.idle)
            self._worker = None

    def _send(self) -> None:
        if self._worker is None or not self._worker.process.is_alive():
            self.close()
            self._worker = _Worker(*self._start)
        rest = replace(self._job, case_ids=tuple(self._left))
        self._worker.ask(rest)
        self._wait_for(self._seconds() if self._worker.ready else START_TIMEOUT)

    def _taken(self, message: object) -> Iterator[Result]:
        assert self._worker is not None
        if isinstance(message, BaseException):
            raise message
        self._worker.ready = True
        if isinstance(message, Result):
            self._left.popleft()
            yield message
        if self._left:
            self._wait_for(self._seconds())

    def _seconds(self) -> float:
        return self._timeout * self._job.questions(self._left[0])

    def _wait_for(self, seconds: float) -> None:
        self._allowed, self._deadline = seconds, time.monotonic() + seconds

    def _lost(self, kind: Kind, sentence: str) -> Iterator[Result]:
        assert self._worker is not None
        if not self._worker.ready:
            raise BackendError(f"{self._start[1]}: cannot be loaded in a worker process, which {sentence}")
        yield self._job.lost(self._left.popleft(), kind, sentence)
        self._losses += 1
        self._worker.close(at_once=True)
        self._worker = None
        if self._losses == LOSSES:
            not_asked = f"not asked, after {LOSSES} cases like it that ended or blocked their processes"
            yield from (self._job.lost(case_id, kind, not_asked) for case_id in self._left)
            self._left.clear()
        if self._left:
            self._send()


class _Worker:
    """One process of so many and the connection to it. ready: it has loaded the backend."""

    def __init__(self, carried: bytes, name: str, directory: str, processes: int) -> None:
        context = multiprocessing.get_context("spawn")  # forked threads of runtimes would hang
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, carried, name, directory))
        with share_of_cores(processes):
            self.process.start()
        theirs.close()
        self.ready = False

    def ask(self, job: Job) -> None:
        with suppress(OSError):  # it is gone, which `results` finds out
            self.connection.send(job)

    def messages(self) -> Iterator[object]:
        with suppress(OSError, EOFError):
            while self.connection.poll():
                yield self.connection.recv()

    def end(self) -> str:
        """How the process ended."""
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def close(self, *, at_once: bool) -> None:
        """End the process and what it has started, leaving it time to go by itself unless `at_once`."""
        if not at_once:
            with suppress(OSError):
                self.connection.send(None)
            self.process.join(LEAVE_TIMEOUT)
        if hasattr(os, "killpg") and self.process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, carried: bytes, name: str, directory: str) -> None:
    """The life of a worker process: load the backend, then judge one job after the other."""
    if hasattr(os, "setsid"):
        os.setsid()
    os.dup2(2, 1)  # what compiled code prints must not get into the report either
    tempfile.tempdir = directory
    try:
        backend = pickle.loads(carried)
    except BackendError as error:
        return connection.send(error)
    except BaseException as error:
        return connection.send(BackendError(f"{name}: cannot be made in a worker process ({described(error)}); {SENDABLE}"))
    connection.send(None)
    try:
        while (job := connection.recv()) is not None:
            for result in job.results(backend):
                connection.send(result)
    except EOFError:
        return None
    except KeyboardInterrupt:
        return connection.send(KeyboardInterrupt())
    except Exception as error:
        return connection.send(RuntimeError(f"in a worker process: {described(error)}"))
