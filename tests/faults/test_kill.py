"""`kill -9` of the orchestrator at any moment loses nothing: resume finishes the run, and no finished unit runs again.

Each unit writes its name to a file when it ends. Runners outlive the orchestrator, so after any number of kills of it
every unit has ended exactly once. Where a round kills the machine's processes too, only a unit that was in hand may
have run twice.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rounds import SOAK, rounds
from tests.small import asked, commonfleet, small_catalog, surroundings

UNITS = 14


def project(root: Path) -> dict[str, str]:
    names = [f"unit{n:02}" for n in range(UNITS)]
    commands = {name: ["sh", "-c", f"sleep 0.{n % 4 + 1}; echo {name} >> {root}/ended"] for n, name in enumerate(names)}
    return surroundings(root, small_catalog(root, commands, sandbox="none"))


def start(env: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("commonfleet")
    quiet = subprocess.DEVNULL
    return subprocess.Popen([str(program), *arguments], env=env, stdout=quiet, stderr=quiet, start_new_session=True)


def ended(root: Path) -> Counter[str]:
    file = root / "ended"
    return Counter(file.read_text().split()) if file.exists() else Counter()


def machine_processes(root: Path) -> list[int]:
    """The processes of this home's machine: the pipe's far end and the runners."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(root / "home" / "machine") in line and "runner-" in line:
            found.append(int(entry.name))
    return found


def round_of_kills(root: Path, dice: random.Random, *, machine_too: bool) -> None:
    env = project(root)
    driver = start(env, "run", "--profile", "small")
    for _ in range(dice.randint(1, 3)):
        time.sleep(dice.uniform(0.2, 4.0))
        if driver.poll() is not None:
            break
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        if machine_too:
            for pid in machine_processes(root):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it ended by itself in between
        if asked("runs", env=env) == []:
            driver = start(env, "run", "--profile", "small")  # killed before the run was opened: nothing is lost
        else:
            driver = start(env, "resume", "latest")
    driver.wait(120)
    settle_down(env)
    check(root, env, machine_too=machine_too)


def settle_down(env: dict[str, str]) -> None:
    """Finish what the last kill left open."""
    for row in asked("runs", env=env):
        if row["state"] in ("planning", "running", "cancelling"):
            done = commonfleet("resume", row["id"], env=env)
            assert done.returncode == 0, done.stdout + done.stderr


def check(root: Path, env: dict[str, str], *, machine_too: bool) -> None:
    shown: dict[str, Any] = asked("show", "latest", env=env)
    assert shown["state"] == "complete"
    assert {key: shown["units"][key] for key in ("planned", "ran", "skipped", "not_run", "lost")} == {
        "planned": UNITS, "ran": UNITS, "skipped": 0, "not_run": 0, "lost": 0,
    }  # fmt: skip
    rows = asked("query", "select unit, count(*) as n from results group by unit", env=env)
    assert [row["n"] for row in rows] == [1] * UNITS, "a unit is counted twice or not at all"
    times = ended(root)
    assert set(times) == {f"unit{n:02}" for n in range(UNITS)}
    if not machine_too:
        assert set(times.values()) == {1}, f"finished units were run again: {times}"
    else:
        # At each of at most three kills two slots had one unit in hand each.
        assert sum(times.values()) <= UNITS + 6
    assert machine_processes(root) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    "machine_too",
    [
        pytest.param(False, id="orchestrator"),
        pytest.param(True, id="orchestrator-and-machine"),
    ],
)
@pytest.mark.timeout(7200)
def test_kill_9_at_random_moments_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], machine_too: bool
) -> None:
    name = "kill-machine" if machine_too else "kill-orchestrator"
    with capsys.disabled():
        for number, dice in rounds(name, full=60 if not machine_too else 20, sample=1):
            folder = tmp_path / str(number)
            folder.mkdir()
            round_of_kills(folder, dice, machine_too=machine_too)
            if SOAK:
                print(f"{name}: round {number + 1} passed", flush=True)
