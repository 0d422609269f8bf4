"""GoogleTest's JSON (`--gtest_output=json:FILE`), as its documentation and its source write it."""

from __future__ import annotations

import re
from typing import Any

from tasks.collect.readers import text
from tasks.collect.readers.base import Limits, Notes, Told
from tasks.collect.readers.json_text import Broken, decoded, items, mapping, mended, parsed, said
from tasks.collect.readers.rows import Rows

NAME = "gtest-json"

_MARK = re.compile(r'"testsuites?"\s*:\s*\[')


def recognises(head: str) -> bool:
    return head.startswith("{") and _MARK.search(head) is not None


def read(data: bytes, rows: Rows, limits: Limits) -> Told:
    """Every test of every suite; of a document that ends in the middle those that are complete."""
    notes = Notes()
    content, replaced = decoded(data)
    if replaced:
        notes.add("encoding", "Bytes that are no UTF-8 were replaced.")
    why = ""
    try:
        document = parsed(content)
    except Broken as broken:
        why = f"it ends in the middle or is no JSON: {broken}"
        rest = mended(content, within=4)  # document, suites, suite, tests
        if rest is None:
            return Told(False, why, None, notes.issues())
        try:
            document = parsed(rest)
        except Broken:
            return Told(False, why, None, notes.issues())
    known = text.count(mapping(document).get("tests"))
    for suite in items(mapping(document).get("testsuites")):
        for test in items(mapping(suite).get("testsuite")):
            if rows.cases >= limits.cases:
                return Told(False, f"more than {limits.cases:,} cases", known, notes.issues())
            _case(mapping(suite), test, rows, notes)
    if not why and known is not None and known != rows.cases:
        notes.add("count", f"The report says that it holds {known} cases; there are {rows.cases}.")
    return Told(not why, why, known, notes.issues())


def _case(suite: dict[str, Any], test: Any, rows: Rows, notes: Notes) -> None:
    if not isinstance(test, dict):
        notes.add("shape", "Something that is no test stands among the tests.")
        return
    failures = items(test.get("failures"))
    seconds = text.duration(test.get("time"))
    if seconds is None and test.get("time") not in (None, ""):
        notes.add("time", "A time that is none (0 to 7 days) became unknown.")
    rows.case(
        suite=said(suite.get("name")),
        file=said(test.get("file")),
        cls=said(test.get("classname")) or said(suite.get("name")),
        name=said(test.get("name")),
        outcome="failed" if failures else _outcome(test),
        seconds=seconds,
        message=text.message(*(said(mapping(failure).get("failure")) for failure in [*failures, *_skips(test)][:20])),
    )


def _outcome(test: dict[str, Any]) -> str:
    if said(test.get("result")).upper() in ("SKIPPED", "SUPPRESSED") or said(test.get("status")).upper() == "NOTRUN":
        return "skipped"
    return "passed"


def _skips(test: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"failure": said(mapping(skip).get("message"))} for skip in items(test.get("skipped"))]
