"""The first error in a log: what a person would look for before anything else. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 300

# Compilers and linkers, CMake, pip, git, make; each as it is really printed. "-Werror:" and "0 errors" are none.
_ERROR = re.compile(
    r"(?:^|[\s:(])(?:fatal |internal compiler )?error(?: [A-Z]{1,4}\d+)?:"
    r"|^\s*CMake Error"
    r"|undefined reference to"
    r"|undefined symbol:"
    r"|ld: cannot find"
    r"|^\s*fatal: "
    r"|^make(?:\[\d+\])?: \*\*\* (?!\[)"
    r"|No space left on device"
    r"|: command not found"
    r"|Killed signal terminated program",
    re.IGNORECASE,
)
_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?::|$)")


def first_error(lines: Iterable[str]) -> str:
    """The first line that looks like an error, the last line of the first Python traceback, or the last line.

    Empty for an empty log. Never longer than 300 characters.
    """
    last = ""
    in_traceback = False
    wait_for_more = ""
    for raw in lines:
        line = raw.rstrip()
        if not line.strip():
            continue
        if wait_for_more:
            return _trim(f"{wait_for_more} {line.strip()}")
        last = line
        if in_traceback:
            # The frames are indented; the first line that is not is the exception.
            if not line.startswith((" ", "\t")) and _EXCEPTION.match(line):
                return _trim(line)
            continue
        if line.startswith(_TRACEBACK) or line.endswith(_TRACEBACK):
            in_traceback = True
        elif line.lstrip().startswith("CMake Error") and line.endswith(":"):
            wait_for_more = line.strip()  # CMake says where on one line and what on the next
        elif _ERROR.search(line):
            return _trim(line)
    return _trim(wait_for_more or last)


def _trim(line: str) -> str:
    text = line.strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
