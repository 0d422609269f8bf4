"""pytest-reportlog's JSON lines: a line per phase of a test, written as it ends, so that a killed process leaves them.

A test's row stands when its teardown was told. Of a log without an end the tests whose outcome is known already are
kept, and the one in hand is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from blocks.lease import BAD
from tasks.collect.readers import text
from tasks.collect.readers.base import Limits, Notes, Told
from tasks.collect.readers.json_text import Broken, decoded, items, lines, mapping, parsed, said
from tasks.collect.readers.rows import Rows

NAME = "pytest-reportlog"

_RANK = ("passed", "xfailed", "xpassed", "skipped", "failed", "error")


def recognises(head: str) -> bool:
    return head.startswith("{") and '"$report_type"' in head.partition("\n")[0]


@dataclass
class _Test:
    """One test that has begun."""

    outcome: str = ""  # empty while nothing but a set-up that passed is known
    seconds: float | None = None
    messages: list[str] = field(default_factory=list)
    output: str = ""
    reruns: int = 0


def read(data: bytes, rows: Rows, limits: Limits) -> Told:
    """A row per test that was run to its outcome."""
    notes = Notes()
    content, replaced = decoded(data)
    if replaced:
        notes.add("encoding", "Bytes that are no UTF-8 were replaced.")
    begun: dict[str, _Test] = {}
    finished = False
    for record, kind in _records(content, notes):
        finished = kind == "SessionFinish" or (finished and kind != "SessionStart")
        if kind in ("TestReport", "SubTestReport", "SubtestReport"):
            _phase(record, kind == "TestReport", begun, rows, notes)
        elif kind == "CollectReport" and record.get("outcome") == "failed":
            node, longrepr = said(record.get("nodeid")), record.get("longrepr")
            rows.case("pytest", node, "", "(collection)", "error", None, text.message(_told(longrepr)))
        if rows.cases + len(begun) >= limits.cases:
            return Told(False, f"more than {limits.cases:,} cases", None, notes.issues())
    for node, test in begun.items():
        if test.outcome:
            _row(node, test, rows)
            notes.add("teardown", f"No teardown was told of {node[:200]}.")
        else:
            notes.add("in_hand", f"The log ends in {node[:200]}: how that went is not known.")
    if not finished:
        return Told(False, "the session's end is missing: the process died", None, notes.issues())
    return Told(True, issues=notes.issues())


def _records(content: str, notes: Notes) -> Iterator[tuple[dict[str, Any], str]]:
    for line, ended in lines(content):
        try:
            record = mapping(parsed(line))
        except Broken:
            notes.add("line" if ended else "cut", "A line is no JSON." if ended else "The last line is cut.")
            continue
        kind = said(record.get("$report_type"))
        if not kind:
            notes.add("line", "A line is no report.")
        yield record, kind


def _phase(record: dict[str, Any], whole: bool, begun: dict[str, _Test], rows: Rows, notes: Notes) -> None:
    node, when, outcome = said(record.get("nodeid")), record.get("when"), said(record.get("outcome"))
    # Workers of pytest-xdist may run the same node each; their lines are mixed.
    key = f"{node}\0{said(record.get('worker_id'))}" if "worker_id" in record else node
    test = begun.setdefault(key, _Test())
    if outcome == "rerun":
        test.reruns += 1
        return
    _judge(test, record, when, outcome)
    duration = record.get("duration")
    if when == "call" and whole and duration is not None:
        test.seconds = text.duration(duration)
        if test.seconds is None:
            notes.add("time", "A time that is none (0 to 7 days) became unknown.")
    if whole and when == "teardown":
        test.output = "\n".join(f"{said(name)}:\n{said(body)}" for name, body in _sections(record))
        _row(key, begun.pop(key), rows)


def _judge(test: _Test, record: dict[str, Any], when: Any, outcome: str) -> None:
    expected = "wasxfail" in record
    verdict = ""
    if outcome == "failed":
        verdict = "failed" if when == "call" else "error"
    elif outcome == "skipped":
        verdict = "xfailed" if expected else "skipped"
    elif when == "call":
        verdict = ("xpassed" if expected else "passed") if outcome == "passed" else "error"
    if verdict and (not test.outcome or _RANK.index(verdict) >= _RANK.index(test.outcome)):
        test.outcome = verdict
    if outcome != "passed" and len(test.messages) < 20:
        test.messages += [_told(record.get("longrepr")), said(record.get("wasxfail"))]


def _row(key: str, test: _Test, rows: Rows) -> None:
    file, cls, name = _split(key.partition("\0")[0])
    rows.case(
        "pytest", file, cls, name, test.outcome or "error", test.seconds,
        text.message(*test.messages), text.message(test.output) if test.outcome in BAD else None, test.reruns,
    )  # fmt: skip


def _split(node: str) -> tuple[str, str, str]:
    """`a/test_b.py::C::D::test_e[x::y]` is ("a/test_b.py", "C::D", "test_e[x::y]")."""
    path, _, rest = node.partition("::")
    head, bracket, parameters = rest.partition("[")
    names = head.split("::")
    return path, "::".join(names[:-1]), names[-1] + bracket + parameters


def _sections(record: dict[str, Any]) -> list[list[Any]]:
    return [section for section in items(record.get("sections")) if isinstance(section, list) and len(section) == 2]


def _told(longrepr: Any) -> str:
    """What pytest said: text, (file, line, reason), or a traceback's lines."""
    if isinstance(longrepr, str):
        return longrepr
    if isinstance(longrepr, list):
        return said(longrepr[-1]) if longrepr else ""
    lines_: list[str] = []
    for entry in items(mapping(mapping(longrepr).get("reprtraceback")).get("reprentries")):
        lines_ += [said(line) for line in items(mapping(mapping(entry).get("data")).get("lines"))]
    crash = said(mapping(mapping(longrepr).get("reprcrash")).get("message"))
    return "\n".join([*lines_, crash] if crash not in "\n".join(lines_) else lines_)
