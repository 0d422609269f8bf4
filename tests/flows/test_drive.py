"""Driving real runs of a small project: cancelled, taken over, shared, poisoned, stopped and resumed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from blocks.home import open_home
from blocks.ledger import Ledger, now
from blocks.ledger.schema import runs
from flows.drive import ledger_of, resume_stalled
from tests.small import asked, commonfleet, small_catalog, surroundings


def start(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    program = Path(sys.executable).with_name("commonfleet")
    return subprocess.Popen(
        [str(program), *arguments], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{condition} did not come true within {seconds} s")


def running(env: dict[str, str], at_least: int = 1) -> list[dict[str, Any]]:
    """The runs that have units in hand."""
    home = Path(env["COMMONFLEET_HOME"])
    if len(list((home / "machine").glob("leases/*/in_hand.json"))) < at_least:
        return []
    return [row for row in asked("runs", env=env) if row["state"] == "running"]


@pytest.fixture
def slow(tmp_path: Path) -> dict[str, str]:
    """A project whose units take a long while."""
    commands = {f"unit{n}": ["sh", "-c", nap(tmp_path)] for n in range(6)}
    return surroundings(tmp_path, small_catalog(tmp_path, commands))


def nap(root: Path) -> str:
    """A command that takes minutes, and by which the units of this test can be told from those of others."""
    return f"sleep 321.{zlib.crc32(str(root).encode()):010}"


def still_sleeping(env: dict[str, str]) -> bool:
    shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True).stdout
    return nap(Path(env["COMMONFLEET_HOME"]).parent) in shown


@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM", "commonfleet cancel"])
def test_a_cancelled_run_stops_within_15_seconds_and_leaves_every_unit_terminal(slow: dict[str, str], way: str) -> None:
    driver = start(slow, "run", "--profile", "small")
    (run,) = wait_for(lambda: running(slow))
    asked_at = time.monotonic()

    if way.startswith("SIG"):
        driver.send_signal(getattr(signal, way))
    else:
        assert commonfleet("cancel", run["id"], env=slow).returncode == 0
    _, said = driver.communicate(timeout=60)

    assert time.monotonic() - asked_at < 15
    assert driver.returncode == 1, said
    shown = asked("show", run["id"], env=slow)
    assert shown["state"] == "cancelled"
    assert shown["units"]["not_run"] == shown["units"]["planned"] == 6
    assert not still_sleeping(slow)


def test_a_cancel_that_finds_the_lanes_between_units_is_still_a_cancel(tmp_path: Path) -> None:
    commands = {f"unit{n:03}": ["sh", "-c", "sleep 0.2"] for n in range(120)}
    env = surroundings(tmp_path, small_catalog(tmp_path, commands))
    driver = start(env, "run", "--profile", "small")
    (run,) = wait_for(lambda: running(env))

    commonfleet("cancel", run["id"], env=env)
    driver.communicate(timeout=60)

    shown = asked("show", run["id"], env=env)
    assert shown["state"] == "cancelled"
    assert list(shown["reasons"]["not_run"]) == ["cancelled"]


def test_a_run_without_a_driver_is_cancelled_by_whoever_asks_and_its_runners_end(slow: dict[str, str]) -> None:
    driver = start(slow, "run", "--profile", "small")
    (run,) = wait_for(lambda: running(slow))
    driver.kill()
    driver.communicate()

    said = commonfleet("cancel", run["id"], env=slow)

    assert said.returncode == 0, said.stderr
    assert asked("show", run["id"], env=slow)["state"] == "cancelled"
    assert not still_sleeping(slow)


def test_a_cancel_at_once_after_a_resume_stops_what_was_running_before(slow: dict[str, str]) -> None:
    driver = start(slow, "run", "--profile", "small")
    (run,) = wait_for(lambda: running(slow))
    driver.kill()
    driver.communicate()
    resumed = start(slow, "resume", run["id"])
    wait_for(lambda: asked("query", "select epoch from runs", env=slow)[0]["epoch"] == 2)

    resumed.send_signal(signal.SIGINT)
    resumed.communicate(timeout=60)

    assert asked("show", run["id"], env=slow)["state"] == "cancelled"
    assert not still_sleeping(slow)


def test_a_unit_that_deletes_its_lease_s_folder_harms_nobody(tmp_path: Path) -> None:
    commands = {f"good{n}": ["sh", "-c", "sleep 0.1"] for n in range(4)}
    commands["vandal"] = ["sh", "-c", 'rm -rf "$PWD/../.." "$PWD/.."; exit 0']
    env = surroundings(tmp_path, small_catalog(tmp_path, commands, sandbox="none"))

    commonfleet("run", "--profile", "small", env=env)

    shown = asked("show", "latest", env=env)
    assert shown["state"] == "complete"
    assert shown["units"]["planned"] == 5 == sum(shown["units"][fate] for fate in ("ran", "lost"))
    assert shown["units"]["ran"] >= 4


def test_a_second_driver_is_refused_naming_the_first(slow: dict[str, str]) -> None:
    driver = start(slow, "run", "--profile", "small")
    (run,) = wait_for(lambda: running(slow))

    refused = commonfleet("resume", run["id"], env=slow)

    assert refused.returncode == 2
    assert f":{driver.pid}:" in refused.stderr
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=60)


def test_a_driver_that_is_stopped_and_replaced_goes_away_quietly_when_it_continues(tmp_path: Path) -> None:
    commands = {f"unit{n}": ["sh", "-c", f"sleep 1; echo unit{n} >> {tmp_path}/ended"] for n in range(8)}
    env = surroundings(tmp_path, small_catalog(tmp_path, commands, sandbox="none"))
    first = start(env, "run", "--profile", "small")
    (run,) = wait_for(lambda: running(env))
    _stop_between_writes(first, env, run["id"])

    second = commonfleet("resume", run["id"], env=env)
    os.kill(first.pid, signal.SIGCONT)
    _, said = first.communicate(timeout=60)

    assert second.returncode == 0, second.stderr
    assert first.returncode == 2
    assert "taken over" in said
    assert sorted((tmp_path / "ended").read_text().split()) == sorted(commands)


def _stop_between_writes(driver: subprocess.Popen[str], env: dict[str, str], run: str) -> None:
    """SIGSTOP a driver while it does not hold the ledger's write lock, and let its heartbeat grow old."""
    ledger = ledger_of(open_home(Path(env["COMMONFLEET_HOME"])))
    os.kill(driver.pid, signal.SIGSTOP)
    while _holds_the_turn(ledger):
        os.kill(driver.pid, signal.SIGCONT)
        time.sleep(0.05)
        os.kill(driver.pid, signal.SIGSTOP)
    with ledger.write() as connection:
        connection.execute(update(runs).where(runs.c.id == run).values(heartbeat=now() - 60))
    ledger.close()


def _holds_the_turn(ledger: Ledger) -> bool:
    with Path(f"{ledger.engine.url.database}-turn").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_two_runs_at_once_share_the_machine_and_both_end(tmp_path: Path) -> None:
    commands = {f"unit{n}": ["sh", "-c", "sleep 0.5"] for n in range(6)}
    env = surroundings(tmp_path, small_catalog(tmp_path, commands))
    assert commonfleet("run", "--profile", "small", env=env).returncode == 0

    both = [start(env, "run", "--profile", "small") for _ in range(2)]
    for driver in both:
        _, said = driver.communicate(timeout=120)
        assert driver.returncode == 0, said

    overlap = """
        select count(*) as n from leases a join leases b
        on a.machine = b.machine and a.slot = b.slot and a.lease < b.lease
        where a.granted < b.ended and b.granted < a.ended
    """
    assert asked("query", overlap, env=env) == [{"n": 0}]
    assert [row["units"]["ran"] for row in asked("runs", env=env)] == [6, 6, 6]


def test_a_unit_that_kills_its_runner_ends_lost_and_the_others_run(tmp_path: Path) -> None:
    commands = {f"good{n}": ["sh", "-c", "sleep 0.1"] for n in range(4)}
    commands["poison"] = ["sh", "-c", "kill -9 $PPID"]
    env = surroundings(tmp_path, small_catalog(tmp_path, commands, sandbox="none"))

    done = commonfleet("run", "--profile", "small", env=env)

    shown = asked("show", "latest", env=env)
    assert shown["units"] == {**shown["units"], "planned": 5, "ran": 4, "lost": 1}
    assert done.returncode == 1
    rows = asked("query", "select name, reason from units where state = 'lost'", env=env)
    assert rows[0]["name"] == "poison"
    assert "poison" in rows[0]["reason"]


def test_upkeep_resumes_a_run_whose_driver_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {f"unit{n}": ["sh", "-c", f"sleep 0.5; echo unit{n} >> {tmp_path}/ended"] for n in range(6)}
    env = surroundings(tmp_path, small_catalog(tmp_path, commands, sandbox="none"))
    driver = start(env, "run", "--profile", "small")
    wait_for(lambda: running(env))
    driver.kill()
    driver.communicate()
    monkeypatch.setenv("COMMONFLEET_CATALOG", env["COMMONFLEET_CATALOG"])

    finished = asyncio.run(resume_stalled(open_home(Path(env["COMMONFLEET_HOME"]))))

    assert [conclusion.exit_code for conclusion in finished] == [0]
    assert sorted((tmp_path / "ended").read_text().split()) == sorted(commands)


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is made with a small tmpfs, which needs root")
def test_a_full_disk_ends_with_a_sentence_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(home)], check=True)
    try:
        commands = {f"unit{n}": ["sh", "-c", f"sleep 0.4; echo unit{n} >> {tmp_path}/ended"] for n in range(12)}
        env = surroundings(tmp_path, small_catalog(tmp_path, commands, sandbox="none"))
        driver = start(env, "run", "--profile", "small")
        wait_for(lambda: running(env))
        _keep_full(home / "ballast", driver)
        _, said = driver.communicate(timeout=10)
        assert driver.returncode == 2, said
        assert "Traceback" not in said
        assert "resume" in said

        (home / "ballast").unlink()
        done = commonfleet("resume", "latest", env=env)

        assert done.returncode == 0, done.stdout + done.stderr
        assert asked("show", "latest", env=env)["units"]["ran"] == 12
        assert sorted((tmp_path / "ended").read_text().split()) == sorted(commands)
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


def _keep_full(ballast: Path, driver: subprocess.Popen[str]) -> None:
    """Until the driver has ended: what it frees meanwhile is taken as well."""
    end = time.monotonic() + 120
    with ballast.open("wb", buffering=0) as file:  # what a buffer kept would be written, and fail, once more at the end
        while driver.poll() is None and time.monotonic() < end:
            try:
                file.write(b"\0" * 4096)
            except OSError:
                time.sleep(0.01)  # full, as wanted
