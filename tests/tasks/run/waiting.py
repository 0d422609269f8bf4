"""Waiting for what a runner does, and a unit that is a line of shell."""

from __future__ import annotations

import time
from typing import Any

from tests.tasks.run.conftest import Wire, unit


def wait(what: Any, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def wait_for(wire: Wire, what: Any, seconds: float = 30) -> Any:
    """The lease's line of `status`, once there is one and `what` holds of it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        lines = wire.ok("status")["runners"]
        if lines and what(lines[0]):
            return lines[0]
        time.sleep(0.02)
    raise AssertionError(lines)


def shell(number: str, script: str) -> dict[str, Any]:
    return unit(number, "command", {"argv": ["/bin/sh", "-c", script]})
