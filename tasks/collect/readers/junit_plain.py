"""Runs of plain cases in a JUnit document: tags with the same few attributes in ASCII and nothing to tell, one after
another. They are most of most reports, and taking them out by a pattern costs a third of what a parser's events cost.

This is no second parser. The pattern takes only bytes that can mean one thing in XML (no reference, no `<` and no
control character in a value, no repeated attribute), and `junit.py` uses it only where expat has understood everything
before and stands directly inside a suite. All other bytes are expat's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WANTED = ("name", "classname", "file", "time", "status", "result")

_VALUE = r'"[ !#-%\'-;=-~]{0,4096}+"'  # printable ASCII without `"`, `&` and `<`
_FIRST = re.compile(rf"<testcase((?:[ \n]++[a-z_]{{1,40}}={_VALUE}){{1,16}}+)[ \n]*+/?>".encode())
_NAME = re.compile(rb"([a-z_]+)=" + _VALUE.encode())
# What a passed test printed is not kept, so it need not be read; it must only be sure where it ends.
_REST = r"[ \n]*+(?:/>|>[ \n]*+(?:<system-out>[\t\n -%'-;=-~]*+</system-out>[ \n]*+)?</testcase>)[ \n]*+"
_PLAIN_ENCODING = re.compile(
    rb"""(?:\xef\xbb\xbf)?\s*(?:<\?xml(?:(?!encoding)[^>])*?(?:encoding\s*=\s*["'](?:utf-8|us-ascii|iso-8859-1)["'][^>]*?)?\?>)?\s*<[a-zA-Z!]""",
    re.IGNORECASE,
)
_NEAR = 1 << 16  # bytes in which the first plain case is looked for
_MOST = 20_000  # cases of one run
_LEAST_BYTES = 300  # a shorter run is not worth leaving the parser for


@dataclass(frozen=True)
class Run:
    """Plain cases between two places of a document: a column for each of `WANTED` that they have."""

    start: int
    end: int
    columns: Mapping[str, Sequence[str]]
    cases: int


class Runs:
    """Finds the runs of one document. `next` is None where there is none any more."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._names: tuple[str, ...] = ()
        if _PLAIN_ENCODING.match(view[:300]) and (first := _FIRST.search(view[:_NEAR])):
            names = tuple(name.decode() for name in _NAME.findall(first[1]))
            self._names = names if len(set(names)) == len(names) and "name" in names else ()

    def next(self, start: int) -> Run | None:
        """The first run at `start` or behind it; without cases where the parser should read it."""
        if not self._names:
            return None
        whole, one = _patterns(self._names)
        match = whole.search(self._view, start)
        if match is None:
            return None
        run = match[0]
        if len(run) < _LEAST_BYTES or b"]]>" in run:
            # Given back all the same: looking on for a better one would read many documents many times.
            return Run(match.start(), match.end(), {}, 0)
        found = one.findall(run.decode("ascii"))
        wanted = [name for name in self._names if name in WANTED]
        columns = dict(zip(wanted, zip(*found, strict=True), strict=False))  # the last one is empty
        return Run(match.start(), match.end(), columns, len(found))


@functools.lru_cache(maxsize=64)
def _patterns(names: tuple[str, ...]) -> tuple[re.Pattern[bytes], re.Pattern[str]]:
    """For cases with these attributes: a run of them, and one of them with its values."""
    tag = "<testcase" + "".join(rf"[ \n]++{name}={_VALUE}" for name in names) + _REST
    captured = "<testcase" + "".join(
        rf'[ \n]++{name}="' + ('([^"]*+)' if name in WANTED else '[^"]*+') + '"' for name in names
    )
    # The empty group makes every match a tuple, also where one attribute is wanted.
    # Started by a tag outside of the group: so the search goes from one `<testcase` to the next.
    return re.compile(rf"{tag}(?:{tag}){{0,{_MOST}}}+".encode()), re.compile(captured + "()")
