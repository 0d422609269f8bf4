"""The events of a JUnit document, gathered into rows.

Most cases are one tag with three attributes, so the start of a case only keeps the parser's dictionary; what few have
(an outcome, a message, output) is kept beside it by number, and columns are made for thousands of cases at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blocks.lease import BAD
from tasks.collect.readers import identity, text
from tasks.collect.readers.base import Limits, Notes
from tasks.collect.readers.rows import Places, Rows

_PIECE = 4_000
_MOST_TEXT = 1 << 20  # characters gathered of one element before the middle is dropped
_MOST_PARTS = 20  # messages, or outputs, of one case
_RANK = {"passed": 0, "xfailed": 1, "skipped": 1, "failed": 2, "error": 3}
_STATUS = {"failure": "failed", "error": "error", "skipped": "skipped"}
_OUTPUT = ("system-out", "system-err")
_RERUNS = ("rerunFailure", "rerunError", "flakyFailure", "flakyError", "rerun")
_SUITES = ("testsuite", "testsuites")
_NOT_RUN = frozenset({"disabled", "notrun", "suppressed", "skipped"})  # of `status` (CTest, gtest) and `result` (gtest)
_DECLINED = ("SKIP_RETURN_CODE", "SKIP_REGULAR_EXPRESSION_MATCHED", "Disabled")  # CTest's words for a wanted skip


class Stop(Exception):
    """Nothing more can or may be read; the message says why."""


@dataclass(frozen=True, eq=False)  # told apart by identity: a file may have thousands, and each case asks
class _Suite:
    """One suite element: the names down to it, the file that it names, the flavour it is written in."""

    path: str
    file: str
    flavour: str


class Cases:
    """One file's cases. Attach it to a parser for each document; `flush` at the end."""

    def __init__(self, rows: Rows, notes: Notes, limits: Limits) -> None:
        self.root = ""
        self.suites = 0
        self._rows, self._notes, self._limits = rows, notes, limits
        self._most_attributes = limits.attributes
        self._claims: list[tuple[int, int | None]] = []  # depth and `tests` of each suite element
        self._name: list[str] = []  # of each given case, as the next four
        self._time: list[str] = []
        self._class: list[str | None] = []
        self._file: list[str | None] = []
        self._of: list[_Suite] = []
        self._outcome: dict[int, str] = {}
        self._message: dict[int, list[str]] = {}
        self._output: dict[int, list[str]] = {}
        self._reruns: dict[int, int] = {}
        self._declined: set[int] = set()  # cases whose attributes say that they did not run
        self._complete = 0
        self._reset()

    def _reset(self) -> None:
        self._depth = 0
        self._flavour = "junit"
        self._stack: list[tuple[int, _Suite]] = []
        self._suite = _Suite("", "", "junit")
        self._case_at = 0  # depth of the case that is open
        self._open: tuple[str, int] | None = None  # element whose text is gathered, and its depth
        self._text: list[str] = []
        self._size = 0
        self._cdata = False

    def attach(self, parser: Any) -> None:
        """Begin a document."""
        self._reset()
        self._parser = parser
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartCdataSectionHandler = self._start_cdata
        parser.EndCdataSectionHandler = self._end_cdata

    def ended(self) -> bool:
        """Whether the document's outermost element has been closed."""
        return self._depth == 0 and bool(self.root)

    def mark(self) -> tuple[int, int, int]:
        """Where we are, between two documents."""
        self.flush()
        return self._rows.cases, self.suites, len(self._claims)

    def back_to(self, mark: tuple[int, int, int]) -> None:
        """Forget what came of a document that is to be read again."""
        self._rows.drop_after(mark[0])
        self.suites = mark[1]
        del self._claims[mark[2] :]
        for column in self._columns():
            column.clear()
        for kept in (self._outcome, self._message, self._output, self._reruns):
            kept.clear()
        self._declined.clear()
        self._complete = 0

    def known(self) -> int | None:
        """How many cases the outermost elements that say a number claim together."""
        total, below = None, 0
        for depth, tests in self._claims:
            if below and depth > below:
                continue  # inside one that has said it already
            below = depth if tests is not None else 0
            total = total if tests is None else (total or 0) + tests
        return total

    # -- events ----------------------------------------------------------------------------------------------------

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if len(attributes) > self._most_attributes:
            raise Stop(f"an element with more than {self._most_attributes} attributes")
        if tag == "testcase" and not self._case_at:
            self._case(attributes)
        elif self._depth > self._limits.depth:
            raise Stop(f"elements more than {self._limits.depth} deep")
        elif self._open is None:
            self._other(tag.rpartition(":")[2], attributes)

    def _case(self, attributes: dict[str, str]) -> None:
        self._case_at = self._depth
        get = attributes.get
        self._name.append(get("name", ""))
        self._time.append(get("time", ""))
        self._class.append(get("classname"))
        self._file.append(get("file"))
        self._of.append(self._suite)
        if "status" in attributes or "result" in attributes:
            self._not_run(len(self._of) - 1, get("status", ""), get("result", ""))

    def take_plain(self) -> bool:
        """Whether a case may stand here that is not told by events: directly in a suite, with nothing open."""
        inside = bool(self._stack) and self._stack[-1][0] == self._depth
        return inside and not self._case_at and self._open is None and not self._cdata

    def plain(self, columns: Mapping[str, Sequence[str]], cases: int) -> None:
        """Many cases at once that are nothing but their tag (and what they printed)."""
        at = len(self._of)
        self._name += columns["name"]
        self._time += columns.get("time") or [""] * cases
        self._class += columns.get("classname") or [None] * cases
        self._file += columns.get("file") or [None] * cases
        self._of += [self._suite] * cases
        self._complete += cases
        status, result = (columns.get(said) or [""] * cases for said in ("status", "result"))
        if not _NOT_RUN.isdisjoint(map(str.lower, {*status, *result})):
            for number in range(cases):
                self._not_run(at + number, status[number], result[number])
        if self._complete >= _PIECE:
            self._many()

    def _start_cdata(self) -> None:
        self._cdata = True

    def _end_cdata(self) -> None:
        self._cdata = False

    def _other(self, tag: str, attributes: dict[str, str]) -> None:
        if self._depth == 1:
            self.root = tag
            self._flavour = identity.flavour(tag, attributes)
        if tag in _SUITES and not self._case_at:
            self._enter(tag, attributes)
        elif tag == "testcase" and not self._case_at:
            self._case(attributes)
        elif tag in _STATUS or tag in _OUTPUT or tag in _RERUNS:
            if tag in _OUTPUT and (not self._case_at or self._outcome.get(len(self._of) - 1) not in BAD):
                return  # what a test printed is kept where it says why; writers put it after the failure
            if not self._case_at:
                # A failure of the suite itself (its set-up, or an unloadable file) must not be lost.
                self._case({"name": "(suite)", "classname": self._suite.path.rpartition("/")[2]})
            self._begin(tag, attributes)

    def _enter(self, tag: str, attributes: dict[str, str]) -> None:
        self.suites += 1
        self._claims.append((self._depth, text.count(attributes.get("tests"))))
        self._stack.append((self._depth, self._suite))
        if self._depth <= 2 and self._flavour == "junit":
            self._flavour = identity.flavour(tag, attributes)
        path, file = self._suite.path, self._suite.file
        if tag == "testsuite":
            own = text.clean(attributes.get("name", ""))[: text.NAME_CAP]
            path = f"{path}/{own}" if path and own else path or own
        self._suite = _Suite(path, attributes.get("file", file), self._flavour)

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        at = len(self._of) - 1
        if tag in _STATUS:
            self._rank(at, self._judged(tag, attributes))
            _keep(self._message, at, attributes.get("message") or (tag != "skipped" and attributes.get("type")) or "")
        elif tag in _RERUNS:
            self._reruns[at] = self._reruns.get(at, 0) + 1
            _keep(self._output, at, f"{tag}: {attributes.get('message', '')}")
        self._open = (tag, self._depth)
        self._parser.CharacterDataHandler = self._gather

    def _judged(self, tag: str, attributes: dict[str, str]) -> str:
        if tag != "skipped":
            return _STATUS[tag]
        if attributes.get("type") == "pytest.xfail":
            return "xfailed"
        # CTest calls a test whose program is missing skipped; it counts as a failure there too.
        declined = attributes.get("message", "").startswith(_DECLINED)
        return "error" if self._flavour == "ctest" and not declined else "skipped"

    def _rank(self, at: int, outcome: str) -> None:
        if _RANK[outcome] >= _RANK[self._outcome.get(at, "passed")]:
            self._outcome[at] = outcome

    def _gather(self, piece: str) -> None:
        self._text.append(piece)
        self._size += len(piece)
        if self._size > _MOST_TEXT:
            self._text = [text.cut("".join(self._text), _MOST_TEXT // 2)]
            self._size = len(self._text[0])

    def _end(self, tag: str) -> None:
        depth = self._depth
        self._depth = depth - 1
        if self._open is not None:
            if self._open[1] != depth:
                return
            self._close(self._open[0])  # and go on: the element of a suite's own failure is its case too
        if self._case_at == depth:
            self._case_at = 0
            self._complete += 1
            if self._complete >= _PIECE:
                self._many()
        elif not self._case_at and self._stack and self._stack[-1][0] == depth:
            self._suite = self._stack.pop()[1]

    def _close(self, tag: str) -> None:
        _keep(self._message if tag in _STATUS else self._output, len(self._of) - 1, "".join(self._text))
        self._text, self._size, self._open = [], 0, None
        self._parser.CharacterDataHandler = None

    def _many(self) -> None:
        self.flush()
        if self._rows.cases >= self._limits.cases:
            raise Stop(f"more than {self._limits.cases:,} cases")

    # -- rows ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make rows of the cases that have ended."""
        end = self._complete
        if not end:
            return
        names = self._name[:end]
        if not all(names) or max(map(len, names)) > text.NAME_CAP:
            names = [text.name(one) for one in names]
        said = self._time[:end]
        seconds = list(map(text.seconds, said))
        self._notes.add("time", "A time that is none (0 to 7 days) became unknown.", _unread(said, seconds))
        for at in self._declined:
            if at < end:
                self._outcome.setdefault(at, "skipped")
        messages = {at: text.message(*parts) for at, parts in self._message.items()}
        output = {at: text.message(*parts) for at, parts in self._output.items()}
        columns = {
            "name": names, "outcome": _sparse(self._outcome, end, "passed"), "seconds": seconds,
            "message": _sparse(messages, end, None), "output": _sparse(output, end, None),
            "reruns": _sparse(self._reruns, end, 0),
        }  # fmt: skip
        self._rows.many(_places(self._class[:end], self._file[:end], self._of[:end]), columns)
        self._forget(end)

    def _columns(self) -> tuple[list[Any], ...]:
        return self._name, self._time, self._class, self._file, self._of

    def _not_run(self, at: int, status: str, result: str) -> None:
        if status.lower() in _NOT_RUN or result.lower() in _NOT_RUN:
            self._declined.add(at)

    def _forget(self, end: int) -> None:
        """Drop what has become rows; a case that is still open keeps what was gathered for it."""
        for column in self._columns():
            del column[:end]
        self._declined = {at - end for at in self._declined if at >= end}
        self._complete = 0
        for name in ("_outcome", "_message", "_output", "_reruns"):
            kept: dict[int, Any] = getattr(self, name)
            setattr(self, name, {at - end: value for at, value in kept.items() if at >= end})


def _places(classes: list[str | None], files: list[str | None], of: list[_Suite]) -> Places:
    """Suite, file and class of each case; few are different, so each is taken apart once."""
    places = Places()
    known: dict[tuple[str | None, str | None, _Suite], int] = {}
    for key in zip(classes, files, of, strict=True):
        index = known.get(key)
        if index is None:
            suite = key[2]
            file, cls = suite.file if key[1] is None else key[1], key[0] or ""
            place = identity.SPLITS[suite.flavour](_capped(file), _capped(cls))
            index = known[key] = places.index(suite.path, *place)
        places.of.append(index)
    return places


def _keep(kept: dict[int, list[str]], at: int, said: str) -> None:
    parts = kept.setdefault(at, [])
    if said and len(parts) < _MOST_PARTS:
        parts.append(text.cut(said))


def _capped(name: str) -> str:
    return text.name(name) if name else ""


def _sparse(values: dict[int, Any], size: int, default: Any) -> list[Any]:
    column = [default] * size
    for at, value in values.items():
        if at < size:
            column[at] = value
    return column


def _unread(said: list[str], read: list[float | None]) -> int:
    return sum(1 for text_, value in zip(said, read, strict=True) if value is None and text_) if None in read else 0
