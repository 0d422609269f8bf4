"""Components: awaited, restarted, given up, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from blocks.errors import CommonfleetError
from blocks.process import Process, identify
from deployments.up import supervise
from deployments.up.supervise import Component, Supervised


async def at_once() -> bool:
    return True


def component(tmp_path: Path, script: str, **changes: object) -> Component:
    values = {
        "role": "part",
        "argv": ["/bin/sh", "-c", script],
        "environment": {"PATH": os.defpath},
        "log": tmp_path / "part.log",
        "ready": at_once,
        "grace_seconds": 0.5,
        **changes,
    }
    return Component(**values)  # type: ignore[arg-type]


def ignored(role: str, process: Process | None) -> None:
    """Nobody keeps a record here."""


async def test_one_that_dies_is_started_again_and_told_of(tmp_path: Path) -> None:
    told: list[Process | None] = []
    part = Supervised(component(tmp_path, "sleep 60"), lambda role, process: told.append(process))
    await part.start()
    keeping = asyncio.create_task(part.keep())
    assert part.child
    first = part.child.pid
    part.child.kill()
    while part.child.pid == first:  # noqa: ASYNC110 - it is another process that we wait for
        await asyncio.sleep(0.05)
    keeping.cancel()
    await part.end()
    assert [process and process.pid for process in told] == [first, part.child.pid, None]


async def test_one_that_keeps_dying_is_given_up_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "FIRST_PAUSE_SECONDS", 0.01)
    part = Supervised(component(tmp_path, "echo the reason; exit 3"), ignored)
    await part.start()
    with pytest.raises(CommonfleetError, match="died 5 times within a minute") as caught:
        await asyncio.wait_for(part.keep(), 10)
    assert "the reason" in str(caught.value)
    assert (tmp_path / "part.log").read_text().count("the reason") == 5


async def test_one_that_dies_while_starting_says_why(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    part = Supervised(component(tmp_path, "echo no such table; exit 1", ready=never), ignored)
    with pytest.raises(CommonfleetError, match="no such table"):
        await part.start()


async def test_stopping_ends_also_what_ignores_it_and_what_it_started(tmp_path: Path) -> None:
    script = "trap '' TERM; (trap '' TERM; sleep 300) & echo $! > " + str(tmp_path / "child") + "; wait; sleep 300"
    part = Supervised(component(tmp_path, script), ignored)
    await part.start()
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().strip():  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    child = int((tmp_path / "child").read_text())
    began = time.monotonic()
    await part.end()
    assert time.monotonic() - began < 5
    assert part.child
    assert part.child.returncode == -signal.SIGKILL
    for _ in range(50):
        if identify(child) is None:
            break
        await asyncio.sleep(0.05)
    assert identify(child) is None


async def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "LOG_BYTES", 10)
    (tmp_path / "part.log").write_text("more than ten bytes")
    part = Supervised(component(tmp_path, "echo new"), ignored)
    await part.start()
    await part.end()
    assert (tmp_path / "part.log.1").read_text() == "more than ten bytes"
