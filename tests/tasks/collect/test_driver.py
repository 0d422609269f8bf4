"""A run has one driver: taking over, refusing, and the driver that was stopped, replaced and continued."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from sqlalchemy import update

from blocks.errors import LedgerError, StaleDriver
from blocks.ledger import Ledger, now, turns
from blocks.ledger.schema import runs
from blocks.process import identify
from blocks.signing import Key
from tasks.collect.driver import beat, close_run, is_dead, leave_run, open_run, stalled_runs, take_run
from tests.tasks.collect.conftest import finished, open_night, unit


def foreign(ledger: Ledger, run: str, *, silent_seconds: float) -> None:
    """Let the run be driven from another host that was last heard from some time ago."""
    with ledger.write() as connection:
        connection.execute(
            update(runs).where(runs.c.id == run).values(driver="elsewhere:1:2", heartbeat=now() - silent_seconds)
        )


def test_a_second_driver_is_refused_and_told_who_the_first_is(ledger: Ledger) -> None:
    seat = open_run(ledger, "nightly", {})

    with pytest.raises(LedgerError, match=f":{os.getpid()}:") as refused:
        take_run(ledger, seat.run)

    assert "left alone" in refused.value.kept


def test_a_silent_driver_is_replaced_and_a_speaking_one_is_not(ledger: Ledger) -> None:
    seat = open_run(ledger, "nightly", {})
    foreign(ledger, seat.run, silent_seconds=3)
    with pytest.raises(LedgerError, match="elsewhere"):
        take_run(ledger, seat.run)

    foreign(ledger, seat.run, silent_seconds=31)

    assert take_run(ledger, seat.run).epoch == seat.epoch + 1


def test_a_driver_of_this_host_whose_process_is_gone_is_replaced_at_once(ledger: Ledger) -> None:
    seat = open_run(ledger, "nightly", {})
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    host = seat.driver.split(":")[0]
    with ledger.write() as connection:
        process = identify(child.pid)
        assert process is not None
        driver = f"{host}:{process.pid}:{process.start_time}"
        connection.execute(update(runs).where(runs.c.id == seat.run).values(driver=driver))
    assert stalled_runs(ledger) == []

    child.kill()
    child.wait()

    assert is_dead(driver)
    assert stalled_runs(ledger) == [seat.run]
    assert take_run(ledger, seat.run).epoch == 2


def test_a_stale_driver_is_refused_at_every_write(ledger: Ledger, key: Key) -> None:
    night = open_night(ledger, key, [unit(1), unit(2)])
    lease = night.granted()
    foreign(ledger, night.seat.run, silent_seconds=60)
    take_run(ledger, night.seat.run)

    for write in (
        lambda: beat(ledger, night.seat),
        lambda: night.ask(),
        lambda: night.deliver(lease["lease"], 1, [finished(lease["units"][0]["id"])]),
        lambda: close_run(ledger, night.seat, "complete", {}),
        lambda: leave_run(ledger, night.seat, "no reason"),
    ):
        with pytest.raises(StaleDriver, match="taken over"):
            write()
    assert night.attempts() == []


def test_a_run_that_was_left_cleanly_is_not_resumed_by_upkeep_but_can_be_by_a_person(ledger: Ledger) -> None:
    seat = open_run(ledger, "nightly", {})
    leave_run(ledger, seat, "the disk was full")

    assert stalled_runs(ledger) == []
    assert take_run(ledger, seat.run).epoch == 2


def test_a_closed_run_cannot_be_taken(ledger: Ledger) -> None:
    seat = open_run(ledger, "nightly", {})
    close_run(ledger, seat, "complete", {"exit_code": 0})

    with pytest.raises(LedgerError, match="nothing to resume"):
        take_run(ledger, seat.run)


def drive_until_refused(path: str, run: str, ready: object, told: object) -> None:
    """A driver in a process of its own: beats until somebody else has the seat."""
    from pathlib import Path

    from blocks.ledger import open_ledger
    from blocks.store import Store
    from tasks.collect.driver import Seat, this_driver

    ledger = open_ledger(f"sqlite:///{path}/ledger.db", Path(path) / "results", Store(Path(path) / "store"))
    with ledger.write() as connection:
        connection.execute(update(runs).where(runs.c.id == run).values(driver=this_driver(), epoch=7, heartbeat=now()))
    seat = Seat(run, this_driver(), 7)
    ready.set()  # type: ignore[attr-defined]
    try:
        while True:
            beat(ledger, seat)
            time.sleep(0.01)
    except StaleDriver:
        told.set()  # type: ignore[attr-defined]


def test_a_driver_that_is_stopped_replaced_and_continued_writes_nothing_more(
    ledger: Ledger, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "BUSY_SECONDS", 0.2)
    seat = open_run(ledger, "nightly", {})
    spawn = multiprocessing.get_context("spawn")
    ready, told = spawn.Event(), spawn.Event()
    driver = spawn.Process(target=drive_until_refused, args=(str(tmp_path), seat.run, ready, told))
    driver.start()
    assert ready.wait(30)
    # SIGSTOP between two writes, as a frozen VM would be; a stopped process may not hold the write lock, so retry
    # until the ledger answers at once.
    assert driver.pid is not None
    while True:
        os.kill(driver.pid, signal.SIGSTOP)
        try:
            with ledger.write() as connection:
                connection.execute(update(runs).where(runs.c.id == seat.run).values(heartbeat=now() - 60))
            break
        except LedgerError:
            os.kill(driver.pid, signal.SIGCONT)
            time.sleep(0.02)
    new = take_run(ledger, seat.run)

    os.kill(driver.pid, signal.SIGCONT)

    assert told.wait(10)
    driver.join(10)
    assert beat(ledger, new) == "planning"
