"""A pytest plugin that tells of each test as it happens, a line of JSON each, on an inherited pipe.

It is not imported by the runner: the runner writes this file into the unit's folder and pytest loads it with `-p`.
So it stands alone, and works with pytest 7, 8 and 9. What it writes:

    {"event": "collected", "ids": [...]}                      the tests that will run
    {"event": "not_collected", "id", "outcome", "message"}    a file that could not be collected, or skipped itself
    {"event": "start", "id"}                                  a test begins
    {"event": "finish", "id", "outcome", "seconds", "message"}
    {"event": "end", "exit": n}                               the session came to its end
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, Tuple

import pytest

MESSAGE_CAP = 16 * 1024
SEVERITY = ("error", "failed", "xpassed", "passed", "xfailed", "skipped")


def pytest_configure(config: Any) -> None:
    if hasattr(config, "workerinput"):
        return  # A process of pytest-xdist: its controller tells everything.
    fd = os.environ.get("COMMONFLEET_STREAM_FD")
    if fd:
        config.pluginmanager.register(Stream(int(fd), os.environ.get("COMMONFLEET_SELECT")), "commonfleet-stream")


class Stream:
    def __init__(self, fd: int, select: Optional[str]) -> None:
        self.fd = fd
        os.set_inheritable(fd, False)
        self.pid = os.getpid()
        self.told: Dict[str, List[Any]] = {}
        self.selected = None
        if select:
            with open(select, encoding="utf-8") as file:
                self.selected = set(json.load(file))

    def tell(self, **event: Any) -> None:
        if os.getpid() != self.pid:
            return  # A fork of a test's making, running the hooks again.
        data = json.dumps(event).encode() + b"\n"
        while data:
            data = data[os.write(self.fd, data) :]

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, config: Any, items: List[Any]) -> Any:
        yield  # Chosen among what all other hooks leave: a conftest.py may rename tests, and so they were listed.
        if self.selected is not None:
            left_out = [item for item in items if item.nodeid not in self.selected]
            items[:] = [item for item in items if item.nodeid in self.selected]
            if left_out:
                config.hook.pytest_deselected(items=left_out)

    def pytest_collection_finish(self, session: Any) -> None:
        self.tell(event="collected", ids=[item.nodeid for item in session.items])

    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome in ("failed", "skipped"):
            outcome = "error" if report.failed else "skipped"
            self.tell(event="not_collected", id=report.nodeid, outcome=outcome, message=text_of(report))

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.told[nodeid] = []
        self.tell(event="start", id=nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        self.told.setdefault(report.nodeid, []).append(report)

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        outcome, seconds, message = judge(self.told.pop(nodeid, []))
        self.tell(event="finish", id=nodeid, outcome=outcome, seconds=seconds, message=message)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: Any, exitstatus: int) -> None:
        self.tell(event="end", exit=int(exitstatus))


def judge(reports: List[Any]) -> Tuple[str, float, str]:
    """One outcome for all phases of a test."""
    outcomes, messages, seconds = set(), [], 0.0
    for report in reports:
        seconds += getattr(report, "duration", 0.0)
        outcome = outcome_of(report)
        if report.outcome == "rerun":
            messages.append(f"run again by the suite's own pytest plugin, after this:\n{text_of(report)}")
        if outcome is None:
            continue
        outcomes.add(outcome)
        if outcome != "passed":
            messages.append(text_of(report))
    worst = next((outcome for outcome in SEVERITY if outcome in outcomes), "error")
    if worst == "error" and "failed" in outcomes:
        worst = "failed"  # The test itself failed; that its teardown went wrong as well stands in the message.
    if not outcomes:
        messages.append("pytest reported no phase of this test")
    return worst, seconds, cap("\n".join(message for message in messages if message))


def outcome_of(report: Any) -> Optional[str]:
    """What one phase says; None where it says nothing about the whole."""
    if report.outcome == "failed":
        return "failed" if report.when == "call" else "error"
    if hasattr(report, "context"):
        return None  # A subtest that did not fail.
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.outcome == "passed" else "xfailed"
    if report.outcome == "skipped":
        return "skipped"
    if report.outcome == "passed" and report.when == "call":
        return "passed"
    return None


def text_of(report: Any) -> str:
    if hasattr(report, "wasxfail") and report.wasxfail:
        return str(report.wasxfail)
    longrepr = report.longrepr
    if isinstance(longrepr, tuple) and len(longrepr) == 3:
        return str(longrepr[2])
    text = "" if longrepr is None else str(getattr(report, "longreprtext", "") or longrepr)
    context = getattr(report, "context", None)
    if context is not None:
        text = "subtest {} {}\n{}".format(getattr(context, "msg", "") or "", dict(getattr(context, "kwargs", {})), text)
    return cap(text)


def cap(text: str) -> str:
    if len(text) <= MESSAGE_CAP:
        return text
    half = MESSAGE_CAP // 2
    return text[:half] + "\n[...]\n" + text[-half:]
