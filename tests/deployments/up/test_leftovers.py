"""Only what an earlier `up` started is ended, whoever has its process ids now."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blocks.errors import CommonfleetError
from blocks.home import Home, open_home
from blocks.process import Process, alive, identify
from deployments.up import leftovers
from deployments.up.leftovers import Record, end_leftovers, hold, marked, read_record, write_record
from deployments.up.settings import MARK

Start = Callable[..., Process]
OURS = "deployments.up.something"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = open_home(tmp_path / "home")
    home.prefect.mkdir()
    return home


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a sleeping process with these words in its command line and this mark in its environment."""
    children: list[subprocess.Popen[bytes]] = []

    def start(*words: str, mark: str = "") -> Process:
        environment = {**os.environ, **({MARK: mark} if mark else {})}
        script = "import time; time.sleep(300)"
        child = subprocess.Popen([sys.executable, "-c", script, *words], env=environment, start_new_session=True)
        children.append(child)
        while b"time.sleep" not in Path(f"/proc/{child.pid}/cmdline").read_bytes():
            time.sleep(0.01)  # not exec'd yet
        process = identify(child.pid)
        assert process
        return process

    yield start
    for child in children:
        child.kill()
        child.wait()


def no_database() -> int | None:
    return None


def record(mark: str, **children: Process) -> Record:
    return Record(pid=1, start_time=1, mark=mark, children=children)


def test_recorded_and_marked_processes_are_ended_and_nothing_else(home: Home, start: Start) -> None:
    mark = secrets.token_hex(8)
    recorded = start("worker")
    unrecorded = start(OURS, mark=mark)
    runner = start("runner.pyz", "serve", mark=mark)  # outlives its orchestrator by design
    foreign = start(OURS, mark=mark + "x")
    stranger = start(OURS)
    reused = replace(stranger, start_time=stranger.start_time - 1)  # the id is another process's now
    write_record(home, record(mark, worker=recorded, server=reused))
    assert len(end_leftovers(home, no_database)) == 2
    assert [alive(p) for p in (recorded, unrecorded, runner, foreign, stranger)] == [False, False, True, True, True]
    assert read_record(home) is None


def test_without_a_readable_record_nothing_is_ended(home: Home, start: Start) -> None:
    process = start(OURS, mark="m")
    leftovers.record_file(home).write_text("{half a rec")
    assert end_leftovers(home, no_database) == []
    assert alive(process)


def test_a_record_comes_back_as_it_was_written(home: Home) -> None:
    written = write_record(home, record("m", server=Process(5, 6)))
    assert read_record(home) == written


def test_the_process_itself_is_never_among_the_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.getpid() not in [process.pid for process in marked(os.environ.get(MARK, "none"))]


def test_the_second_holder_is_refused_and_the_lock_ends_with_its_process(home: Home) -> None:
    write_record(home, Record(pid=4711, start_time=1, mark="m"))
    script = f"""
import sys, time
from pathlib import Path
from blocks.home import Home
from deployments.up.leftovers import hold
hold(Home(Path({str(home.root)!r})))
print("held", flush=True)
time.sleep(300)
"""
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(CommonfleetError, match="process 4711"):
        hold(home)
    holder.kill()
    holder.wait()
    os.close(hold(home))
