"""JUnit XML as pytest, gtest, CTest, Maven surefire and others write it: documents, one after another, into rows.

The standard library's expat does the parsing and `junit_cases.py` makes the rows. A content that expat refuses is
repaired once (`xml_repair.py`); where that fails too, the cases that ended before the error are kept.
"""

from __future__ import annotations

import re
from pyexpat import ExpatError, ParserCreate, errors
from typing import Any

from tasks.collect.readers import xml_repair
from tasks.collect.readers.base import MB, Limits, Notes, Told
from tasks.collect.readers.junit_cases import Cases, Stop
from tasks.collect.readers.junit_plain import Runs
from tasks.collect.readers.rows import Rows

NAME = "junit"

_CHUNK = MB  # pyexpat hands expat no more at a time anyway
_MOST_DOCUMENTS = 1_000
_CUT_SHORT = (
    errors.XML_ERROR_NO_ELEMENTS, errors.XML_ERROR_UNCLOSED_TOKEN, errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    errors.XML_ERROR_PARTIAL_CHAR,
)  # fmt: skip
_NEXT_DOCUMENT = (errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT, errors.XML_ERROR_MISPLACED_XML_PI)
_BLANK = re.compile(rb"[\s\0]*")


def recognises(head: str) -> bool:
    return head.startswith("<")


def read(data: bytes, rows: Rows, limits: Limits) -> Told:
    """Every case of every document in `data`."""
    notes = Notes()
    cases = Cases(rows, notes, limits)
    try:
        _read(data, cases, notes, limits)
    except Stop as stop:
        cases.flush()
        return Told(False, str(stop), cases.known(), notes.issues())
    cases.flush()
    if not cases.suites and not rows.cases:
        return Told(False, f"no JUnit report: its outermost element is <{cases.root[:60]}>", None, notes.issues())
    known = cases.known()
    if known is not None and known != rows.cases:
        notes.add("count", f"The report says that it holds {known} cases; there are {rows.cases}.")
    return Told(True, known=known, issues=notes.issues())


def _read(data: bytes, cases: Cases, notes: Notes, limits: Limits) -> None:
    """Read to the end, mending on the way what can be mended. Raises Stop where that is not possible."""
    mended: set[str] = set()
    view, start = memoryview(data), 0
    for _ in range(_MOST_DOCUMENTS):
        begun = cases.mark()
        try:
            end = _document(view[start:], cases, limits, utf8=bool(mended & {"repaired"}))
        except _Token as long:
            if "shortened" in mended:
                raise Stop(f"a tag, comment or instruction of more than {limits.token_bytes // MB} MB") from long
            mended.add("shortened")
            notes.add("shortened", "Attributes of more than 64 kB were cut.")
            view, start = memoryview(xml_repair.shortened(bytes(view[start:]))), 0
            cases.back_to(begun)
            continue
        except (ExpatError, LookupError, ValueError) as error:  # the last two: of codecs that the document names
            if "repaired" in mended or _cut_short(error):
                raise Stop(_said(error)) from error
            mended.add("repaired")
            fixed = xml_repair.repaired(bytes(view[start:]))
            notes.add(
                "repaired", f"Not well-formed as it was ({_said(error)}): read as UTF-8 without what XML forbids."
            )
            view, start = memoryview(fixed), 0
            cases.back_to(begun)
            continue
        if end is None:
            return
        start += end
        blank = _BLANK.match(view, start)
        start = blank.end() if blank else start
        if start >= len(view):
            return
        if view[start] != ord("<"):
            raise Stop("something that is no XML follows the document")
        notes.add("documents", "Several documents, one after another.")
    raise Stop(f"more than {_MOST_DOCUMENTS:,} documents in one file")


class _Token(Exception):
    """A single tag, comment or instruction is longer than expat takes in linear time."""


def _document(view: memoryview, cases: Cases, limits: Limits, *, utf8: bool) -> int | None:
    """Parse one document; None at the end of all, or where in `view` the next one starts."""
    # Named UTF-8 overrides what the document declares: after a repair it is not true any more.
    parser: Any = ParserCreate("utf-8" if utf8 else None)
    parser.buffer_text = True
    parser.buffer_size = 1 << 16
    parser.StartDoctypeDeclHandler = _doctype
    cases.attach(parser)
    feed = _Feed(parser, view, limits)
    try:
        runs = Runs(view)
        while run := runs.next(feed.at):
            feed.up_to(run.start)
            # Only where expat has understood all that is before: not inside a tag, a comment or a CDATA section.
            if run.cases and feed.understood() and cases.take_plain():
                cases.plain(run.columns, run.cases)
                feed.leave_out(run.end)
            else:
                feed.up_to(run.end)
        feed.up_to(len(view))
        parser.Parse(b"", True)
    except ExpatError as error:
        if errors.messages[error.code] in _NEXT_DOCUMENT and cases.ended():
            return int(parser.ErrorByteIndex) + feed.left_out
        if feed.left_out:
            error.lineno, error.offset = feed.place(int(parser.ErrorByteIndex) + feed.left_out)
        raise
    return None


class _Feed:
    """Hands a document to expat, piece by piece, and counts what expat does not get to see."""

    def __init__(self, parser: Any, view: memoryview, limits: Limits) -> None:
        self.at = self.left_out = 0
        self._parser, self._view, self._limits = parser, view, limits

    def up_to(self, end: int) -> None:
        """Raises _Token for one that is too long to be parsed."""
        while self.at < end:
            piece = self._view[self.at : min(self.at + _CHUNK, end)]
            self._parser.Parse(piece, False)
            self.at += len(piece)
            if self.at - self.left_out - self._parser.CurrentByteIndex > self._limits.token_bytes:
                raise _Token

    def understood(self) -> bool:
        """Whether nothing waits for its end."""
        return bool(self._parser.CurrentByteIndex == self.at - self.left_out)

    def leave_out(self, end: int) -> None:
        self.left_out += end - self.at
        self.at = end

    def place(self, index: int) -> tuple[int, int]:
        """Line and column of a byte, as expat counts them."""
        before = bytes(self._view[:index])
        return before.count(b"\n") + 1, len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace"))


def _doctype(*_: object) -> None:
    # Entities, bombs and files of the reader's machine all need one; no report does.
    raise Stop("it declares a document type, which no report needs")


def _cut_short(error: Exception) -> bool:
    return isinstance(error, ExpatError) and errors.messages[error.code] in _CUT_SHORT


def _said(error: Exception) -> str:
    if not isinstance(error, ExpatError):
        return f"its encoding: {error}"[:200]
    if _cut_short(error):
        return f"it ends in the middle, at line {error.lineno}"
    return f"line {error.lineno}, column {error.offset}: {errors.messages[error.code]}"
