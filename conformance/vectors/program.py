"""The door `exec:`: a program in any language, called once a question.

    runner --about                                     prints one JSON object: who it is and which layers it has
    runner CASE.json IN.safetensors OUT.safetensors    answers a question

Exit status 0: OUT is written; 3: not supported, the last line on standard error says why; anything else is an error, and
what it wrote to standard error goes into the report. Standard output is read with --about alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from conformance.backend import BackendError
from conformance.calls import Misbehaved, error_of
from conformance.vectors.door import FileBackend, read_about, refused
from conformance.vectors.question import CASE, IN, OUT, Question, read_tensors
from refimpl.checkpoint.errors import CheckpointError
from refimpl.numerics import Array

UNSUPPORTED = 3
ABOUT_SECONDS = 20.0
# Bytes of standard error that are looked at.
TAIL = 4096


class ProgramBackend(FileBackend):
    """A program and its arguments, called in the directory of the run."""

    def __init__(self, command: str) -> None:
        self._command = _split(command)
        about = read_about(self._ask_about(command), f"exec:{command} --about")
        if not about.layers and not about.models:
            raise BackendError(f"exec:{command} --about: names no layers and no models, so there is nothing to ask")
        self._timeout = about.timeout_s
        super().__init__(about, name=f"exec:{command}")

    def answer(self, question: Question) -> Mapping[str, Array]:
        with tempfile.TemporaryDirectory(prefix="refimpl-exec-") as scratch:
            directory = Path(scratch)
            question.write(directory)
            files = [str(directory / name) for name in (CASE, IN, OUT)]
            try:
                status, errors = self._run(files, self._timeout, directory / "stdout")
            except (subprocess.TimeoutExpired, OSError) as problem:
                raise Misbehaved(error_of(_unable(problem, self._timeout))) from None
            if status == UNSUPPORTED:
                raise refused(errors)
            if status != 0:
                raise Misbehaved(error_of(f"the program {_ended(status)}{_said(errors)}"))
            return _read(directory / OUT)

    def _ask_about(self, command: str) -> str:
        source = f"exec:{command} --about"
        with tempfile.TemporaryDirectory(prefix="refimpl-exec-") as scratch:
            output = Path(scratch) / "stdout"
            try:
                status, errors = self._run(["--about"], ABOUT_SECONDS, output)
            except (subprocess.TimeoutExpired, OSError) as problem:
                raise BackendError(f"{source}: {_unable(problem, ABOUT_SECONDS)}") from None
            if status != 0:
                raise BackendError(f"{source}: the program {_ended(status)}{_said(errors)}")
            return output.read_bytes()[: 1 << 20].decode("utf-8", "replace")

    def _run(self, arguments: Sequence[str], seconds: float, output: Path) -> tuple[int, str]:
        """The exit status and the end of standard error. The program is killed when time is over."""
        # Files, not pipes: a pipe that a grandchild holds open would be waited for.
        with output.open("wb") as stdout, output.with_name("stderr").open("w+b") as stderr:
            # In the process group of the run, which ends with it.
            process = subprocess.Popen([*self._command, *arguments], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
            try:
                status = process.wait(seconds)
            finally:
                process.kill()
                process.wait()
            stderr.seek(0, os.SEEK_END)
            stderr.seek(max(stderr.tell() - TAIL, 0))
            return status, stderr.read().decode("utf-8", "replace")


def _split(command: str) -> list[str]:
    """The words of a command as a shell takes them, or one path with spaces; the program by its full path."""
    try:
        words = [command] if Path(command).is_file() else shlex.split(command)
    except ValueError as error:
        raise BackendError(f"exec:{command}: cannot be read as a command ({error})") from None
    if not words:
        raise BackendError("exec: needs a program after the colon, such as exec:./runner")
    program = words[0]
    if not Path(program).is_file() and not (os.sep not in program and shutil.which(program)):
        raise BackendError(f"exec:{command}: {program}: no such program")
    if Path(program).is_file() and not os.access(program, os.X_OK):
        raise BackendError(f"exec:{command}: {program} is not executable (chmod +x {program})")
    found = str(Path(program).absolute()) if Path(program).is_file() else str(shutil.which(program))
    return [found, *words[1:]]


def _read(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise Misbehaved(error_of(f"the program ended with status 0 but wrote no {OUT}"))
    try:
        return read_tensors(path)
    except CheckpointError as error:
        raise Misbehaved(error_of(f"the program wrote a file that is not safetensors: {error}")) from None


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _said(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    text = "".join(letter for letter in " | ".join(lines[-3:]) if letter.isprintable())
    return f": {text[-300:]}" if text else " and said nothing"


def _unable(problem: Exception, seconds: float) -> str:
    if isinstance(problem, subprocess.TimeoutExpired):
        return f"the program gave no answer in {seconds:g} seconds"
    return f"the program cannot be run ({problem.strerror})" if isinstance(problem, OSError) else str(problem)
