"""The far end of the pipe is killed, hangs or stays away while real runs are driven: nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from blocks.errors import HostError
from blocks.home import open_home
from flows import drive as driving
from flows.request import Request
from tasks.provision.acquire import acquired
from tasks.run import agent
from tasks.run.line import Patience
from tests.small import commonfleet, small_catalog, surroundings

UNITS = 10
NO_PATIENCE = Patience(quiet_seconds=0.3, dead_seconds=1.5, pauses=(0.0, 0.3), reopen_seconds=20)


def project(root: Path, seconds: float = 0.3) -> dict[str, str]:
    """Commands that leave a line when they end, a slow discovery, and a build that takes a moment to unpack."""
    wait = f"sleep {seconds}"
    commands = {f"unit{n:02}": ["sh", "-c", f"{wait}; echo unit{n:02} >> {root}/ended"] for n in range(UNITS)}
    folder = small_catalog(root, commands, sandbox="none")
    (root / "project" / "answer.txt").write_bytes(random.Random(1).randbytes(12 << 20))
    subprocess.run(["git", "-C", str(root / "project"), "-c", "user.name=t", "-c", "user.email=t@example.org",
                    "commit", "-qam", "larger"], check=True)  # fmt: skip
    (folder / "tests").mkdir()
    for n in range(2):
        (folder / "tests" / f"test_{n}.py").write_text("import time\ntime.sleep(0.5)\ndef test_it():\n    pass\n")
    file = folder / "catalog.yaml"
    document = yaml.safe_load(file.read_text())
    # Units run with the interpreter behind ours, which need not have pytest.
    packages = {"PYTHONPATH": str(Path(pytest.__file__).parent.parent)}
    document["suites"]["listed"] = {
        "kind": "pytest", "sources": "tests", "files": ["test_*.py"], "memory_gib": 0.5, "env": packages,
    }  # fmt: skip
    document["profiles"]["small"]["matrix"].append({"environment": "here", "suite": "listed"})
    file.write_text(yaml.safe_dump(document))
    return surroundings(root, folder)


def far_ends(root: Path) -> list[int]:
    """The processes at the far end of this home's pipes."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "serve" in words and str(root / "home" / "machine") in words:
            found.append(int(entry.name))
    return found


def kill(pids: list[int], number: int = signal.SIGKILL) -> int:
    """How many of these got the signal."""
    sent = 0
    for pid in pids:
        try:
            os.kill(pid, number)
            sent += 1
        except ProcessLookupError:
            pass  # it ended by itself in between
    return sent


class Killer(threading.Thread):
    """Kills the far end at random moments, and once each while it unpacks and while it lists tests."""

    def __init__(self, root: Path, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self.root, self.dice = root, dice
        self.killed: Counter[str] = Counter()
        self.done = threading.Event()

    def run(self) -> None:
        machine = self.root / "home" / "machine"
        phases = {"unpack": machine / "builds", "discover": machine / "discover", "test": machine / "leases"}
        again = 0.0
        while not self.done.wait(0.002):
            for phase, folder in phases.items():
                busy = any(name.startswith(".") is (phase != "test") for name in _names(folder))
                if not busy or (phase == "test" and time.monotonic() < again):
                    continue
                if phase == "test" or not self.killed[phase]:
                    time.sleep(self.dice.uniform(0, 0.02))
                    self.killed[phase] += bool(kill(far_ends(self.root)))
                    again = time.monotonic() + self.dice.uniform(0.4, 1.2)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def rows(root: Path, sql: str) -> list[tuple[Any, ...]]:
    """What the ledger's records say."""
    with contextlib.closing(sqlite3.connect(f"file:{root}/home/ledger.db?mode=ro", uri=True)) as ledger:
        return ledger.execute(sql).fetchall()


def check(root: Path) -> None:
    """One run, complete: every unit ran, was run once, and counts once."""
    total = UNITS + 2
    assert rows(root, "select state from runs") == [("complete",)]
    assert rows(root, "select terminal, count(*) from settlements group by terminal") == [("ran", total)]
    assert rows(root, "select count(*), count(distinct unit), min(counted) from attempts") == [(total, total, 1)]
    assert set(Counter((root / "ended").read_text().split()).values()) == {1}, "a unit was run again"
    assert rows(root, "select distinct state from leases") == [("done",)]
    assert rows(root, "select state from submissions") == [("released",)]
    assert far_ends(root) == []


def test_a_far_end_that_is_killed_at_any_moment_costs_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SOAK_SEED={seed}")
    env = project(tmp_path)
    killer = Killer(tmp_path, random.Random(seed))
    killer.start()
    try:
        done = commonfleet("run", "--profile", "small", env=env)
    finally:
        killer.done.set()
        killer.join()

    assert done.returncode == 0, done.stderr
    check(tmp_path)
    assert killer.killed["unpack"] == 1
    assert killer.killed["discover"] == 1
    assert killer.killed["test"] >= 2
    ((reopened,),) = rows(tmp_path, "select count(*) from events where kind = 'pipe.reopened'")
    assert 0 < reopened <= killer.killed.total()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project, to be driven in this process by a driver of little patience."""
    env = project(tmp_path)
    monkeypatch.setenv("COMMONFLEET_CATALOG", env["COMMONFLEET_CATALOG"])
    monkeypatch.setattr(driving, "acquired", functools.partial(acquired, patience=NO_PATIENCE))


async def drive(root: Path, run: str | None = None) -> int:
    home = open_home(root / "home")
    conclusion = await driving.drive(Request(profile="small"), home=home, flow="on_demand", run=run)
    return conclusion.exit_code


async def begun(root: Path) -> None:
    """Wait until some units have ended."""
    for _ in range(600):
        if (root / "ended").exists():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("no unit ended")


@pytest.mark.usefixtures("here")
async def test_a_far_end_that_hangs_is_replaced_and_the_run_goes_on(tmp_path: Path) -> None:
    driven = asyncio.create_task(drive(tmp_path))
    await begun(tmp_path)
    hanging = far_ends(tmp_path)
    assert kill(hanging, signal.SIGSTOP) == 1

    assert await driven == 0

    check(tmp_path)
    assert kill(hanging, 0) == 0


@pytest.mark.usefixtures("here")
async def test_a_machine_out_of_reach_for_long_keeps_its_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "GONE_SECONDS", 0.5)
    slow = Patience(pauses=(2.0,), reopen_seconds=20)
    monkeypatch.setattr(driving, "acquired", functools.partial(acquired, patience=slow))
    driven = asyncio.create_task(drive(tmp_path))
    await begun(tmp_path)
    kill(far_ends(tmp_path))

    assert await driven == 0

    check(tmp_path)


@pytest.mark.usefixtures("here")
async def test_a_far_end_that_cannot_be_started_again_leaves_the_run_to_be_resumed(tmp_path: Path) -> None:
    driven = asyncio.create_task(drive(tmp_path))
    await begun(tmp_path)
    for runner in (tmp_path / "home" / "machine").glob("runner-*.pyz"):
        runner.unlink()
    kill(far_ends(tmp_path))

    with pytest.raises(HostError, match="cannot be opened again"):
        await driven

    assert rows(tmp_path, "select state from submissions") == [("leased",)]
    ((run,),) = rows(tmp_path, "select id from runs")
    assert await drive(tmp_path, run) == 0
    check(tmp_path)


@pytest.fixture
def unreachable(tmp_path: Path) -> Iterator[threading.Event]:
    """While it is set, every far end of this home is killed as soon as it is there."""
    wanted, over = threading.Event(), threading.Event()

    def hunt() -> None:
        while not over.is_set():
            if wanted.wait(0.05):
                kill(far_ends(tmp_path))
                over.wait(0.02)

    hunter = threading.Thread(target=hunt, daemon=True)
    hunter.start()
    yield wanted
    over.set()
    hunter.join()


def test_a_cancel_while_the_pipe_is_away_stops_everything(tmp_path: Path, unreachable: threading.Event) -> None:
    env = project(tmp_path, seconds=300)
    program = Path(sys.executable).with_name("commonfleet")
    driver = subprocess.Popen(
        [str(program), "run", "--profile", "small"], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    leases = tmp_path / "home" / "machine" / "leases"
    for _ in range(600):
        if len(list(leases.glob("*/in_hand.json"))) >= 2:
            break
        time.sleep(0.1)

    unreachable.set()
    time.sleep(1)
    driver.send_signal(signal.SIGINT)
    time.sleep(1)
    assert driver.poll() is None
    unreachable.clear()
    _, said = driver.communicate(timeout=60)

    assert driver.returncode == 1, said
    assert rows(tmp_path, "select state from runs") == [("cancelled",)]
    assert list(leases.iterdir()) == []
    shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"{tmp_path}/ended" not in shown
