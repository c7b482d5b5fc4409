"""The file of known failures: `glob  # reason  https://...`, one a line.

A case that the glob matches and that fails does not fail the run; one that passes is reported. A line without a reason and
a glob that matches no case are errors, so that the file cannot rot. A glob is a case id with * and ? in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Xfail:
    """One line of the file."""

    glob: str
    reason: str
    line: int

    def matches(self, case_id: str) -> bool:
        pattern = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in self.glob)
        return re.fullmatch(pattern, case_id) is not None


@dataclass(frozen=True)
class Xfails:
    """All lines of a file; none when there is no file."""

    path: str
    entries: tuple[Xfail, ...]

    def reason(self, case_id: str) -> str:
        """Why the case is expected to fail; empty when it is not."""
        return next((entry.reason for entry in self.entries if entry.matches(case_id)), "")

    def check(self, case_ids: Iterable[str]) -> None:
        """ValueError when an entry matches none of all cases there are."""
        known = list(case_ids)
        for entry in self.entries:
            if not any(entry.matches(case_id) for case_id in known):
                raise ValueError(f"{self.path}:{entry.line}: {entry.glob!r} matches no case")


def read_xfails(path: str | os.PathLike[str] | None) -> Xfails:
    """The known failures in a file. ValueError when it cannot be read or a line has no reason."""
    if path is None:
        return Xfails("", ())
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"xfails_file is {path!r} but needs a path")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    entries = []
    for number, line in enumerate(lines, start=1):
        glob, _, reason = (part.strip() for part in line.partition("#"))
        if not glob:
            continue
        if not reason:
            raise ValueError(f"{path}:{number}: {glob!r} has no reason; write it after a #, with a link where there is one")
        entries.append(Xfail(glob, reason, number))
    return Xfails(str(path), tuple(entries))
