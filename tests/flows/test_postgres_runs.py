"""Real runs of a small project on a ledger in PostgreSQL: from end to end, through `kill -9`, through its restart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rounds import SOAK
from tests.postgres import NoPostgres, Postgres, start
from tests.small import asked, commonfleet, small_catalog, surroundings

UNITS = 8
SECRET = "password="  # what no output may hold, with what follows it


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server of this file's own, since it is restarted."""
    try:
        made = start()
    except NoPostgres as reason:
        pytest.skip(f"no PostgreSQL here: {reason}")
    yield made
    made.stop()


@pytest.fixture
def env(tmp_path: Path, server: Postgres) -> dict[str, str]:
    """A project whose units take a moment each and write down that they ended."""
    names = [f"unit{n:02}" for n in range(UNITS)]
    commands = {
        name: ["sh", "-c", f"sleep 0.{n % 3 + 2}; echo {name} >> {tmp_path}/ended"] for n, name in enumerate(names)
    }
    catalog = small_catalog(tmp_path, commands, sandbox="none")
    return {**surroundings(tmp_path, catalog), "COMMONFLEET_LEDGER": server.new_database()}


def driver(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    program = Path(sys.executable).with_name("commonfleet")
    pipe = subprocess.PIPE
    return subprocess.Popen([str(program), *arguments], env=env, text=True, stdout=pipe, stderr=pipe)


def ended(env: dict[str, str]) -> Counter[str]:
    file = Path(env["COMMONFLEET_HOME"]).parent / "ended"
    return Counter(file.read_text().split()) if file.exists() else Counter()


def wait_until_some_ended(env: dict[str, str], count: int) -> None:
    until = time.monotonic() + 60
    while len(ended(env)) < count:
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.05)


def assert_nothing_lost_nothing_twice(env: dict[str, str]) -> None:
    shown: dict[str, Any] = asked("show", "latest", env=env)
    assert shown["state"] == "complete"
    assert shown["units"] == {**shown["units"], "planned": UNITS, "ran": UNITS, "not_run": 0, "lost": 0}
    rows = asked("query", "select unit, count(*) as n from results group by unit", env=env)
    assert [row["n"] for row in rows] == [1] * UNITS
    assert ended(env) == Counter(f"unit{n:02}" for n in range(UNITS)), "a unit ran twice or not at all"
    assert not (Path(env["COMMONFLEET_HOME"]) / "ledger.db").exists()


def test_a_run_from_end_to_end_and_a_kill_9_of_its_driver(env: dict[str, str]) -> None:
    first = driver(env, "run", "--profile", "small")
    wait_until_some_ended(env, 3)
    first.send_signal(signal.SIGKILL)
    first.communicate()

    done = commonfleet("resume", "latest", env=env)

    assert done.returncode == 0, done.stdout + done.stderr
    assert_nothing_lost_nothing_twice(env)
    doctor = commonfleet("doctor", "--json", env=env)
    password = env["COMMONFLEET_LEDGER"].partition("postgres:")[2].partition("@")[0]
    for said in (done.stdout, done.stderr, doctor.stdout, doctor.stderr):
        assert password not in said


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["immediate", "fast"] if SOAK else ["immediate"])
def test_a_restart_of_postgresql_in_the_middle_of_a_run_loses_nothing(
    env: dict[str, str], server: Postgres, mode: str
) -> None:
    running = driver(env, "run", "--profile", "small", "--json")
    wait_until_some_ended(env, 3)
    server.restart(down_seconds=1.5, mode=mode)
    said, told = running.communicate(timeout=200)

    assert running.returncode in (0, 2), said + told
    if running.returncode == 2:
        assert "Traceback" not in told
        resumed = commonfleet("resume", "latest", env=env)
        assert resumed.returncode == 0, resumed.stderr
    print(f"the driver ended with {running.returncode}: {told}")
    assert_nothing_lost_nothing_twice(env)


def test_a_database_that_stays_away_ends_the_driver_with_2_and_the_run_can_be_resumed(
    env: dict[str, str], server: Postgres
) -> None:
    env = {**env, "COMMONFLEET_LEDGER_WAIT": "1"}
    running = driver(env, "run", "--profile", "small")
    wait_until_some_ended(env, 3)
    server._ctl("-m", "immediate", "-w", "stop")
    _, told = running.communicate(timeout=100)
    server.run()

    assert running.returncode == 2
    assert "resume" in told
    assert os.linesep + "Traceback" not in told
    assert commonfleet("resume", "latest", env=env).returncode == 0
    assert_nothing_lost_nothing_twice(env)
