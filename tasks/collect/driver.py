"""A run has one driver at a time: taking the seat, keeping it warm, and being refused when it is lost.

`runs` holds driver, epoch and heartbeat. Every write of a driver goes through `fence`, which compares epochs inside
the same transaction: a process that was stopped, replaced and continued can do no harm, it learns that it is stale.
"""

from __future__ import annotations

import datetime
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, update

from blocks.canonical import canonical_json
from blocks.errors import LedgerError, NothingToTake, StaleDriver
from blocks.ledger import Ledger, now, record
from blocks.ledger.prepared import Query
from blocks.ledger.schema import runs
from blocks.process import Process, alive, identify

BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
"""A heartbeat older than this is a dead driver, wherever it ran. On the same host its process tells at once."""

OPEN = ("planning", "running", "cancelling")


class _Driven(NamedTuple):
    epoch: int
    driver: str | None
    state: str


_SEAT = Query(
    select(runs.c.epoch, runs.c.driver, runs.c.state).where(runs.c.id == bindparam("run")).with_for_update(), _Driven
)


@dataclass(frozen=True)
class Seat:
    """The right to drive one run, as long as the epoch holds."""

    run: str
    driver: str
    epoch: int


def this_driver() -> str:
    """Who we are: host, pid and the process's start time, so that a reused pid is not us."""
    us = identify(os.getpid())
    assert us is not None
    return f"{socket.gethostname()}:{us.pid}:{us.start_time}"


def is_dead(driver: str) -> bool:
    """Whether a driver of this host is certainly gone. Nothing is known about other hosts."""
    host, pid, start = driver.rsplit(":", 2)
    return host == socket.gethostname() and not alive(Process(int(pid), int(start)))


def open_run(ledger: Ledger, flow: str, request: Mapping[str, Any]) -> Seat:
    """Write a new run down and take its seat. Nothing has happened yet when this returns, but it is accounted for."""
    driver = this_driver()
    with ledger.write() as connection:
        created = connection.scalar(select(now()))
        run = _run_id(float(created or 0))
        connection.execute(
            insert(runs).values(
                id=run,
                flow=flow,
                created=created,
                state="planning",
                request=canonical_json(dict(request)).decode(),
                driver=driver,
                epoch=1,
                heartbeat=created,
            )
        )
        record(connection, "run.opened", run=run, flow=flow, request=dict(request), driver=driver)
    return Seat(run, driver, 1)


def take_run(ledger: Ledger, run: str) -> Seat:
    """Take over an open run whose driver is gone.

    Raises LedgerError when the run is unknown; of its kind NothingToTake when the run is closed, or driven by somebody
    who is alive (named in the message).
    """
    driver = this_driver()
    with ledger.write() as connection:
        row = connection.execute(select(runs, now().label("clock")).where(runs.c.id == run)).one_or_none()
        if row is None:
            raise LedgerError(f"There is no run {run}.", do="`commonfleet runs` lists them.")
        if row.state not in OPEN:
            raise NothingToTake(
                f"Run {run} is {row.state}: there is nothing to resume.", do=f"See `commonfleet show {run}`."
            )
        silent = row.clock - (row.heartbeat or 0)
        if row.driver and not is_dead(row.driver) and silent < STALE_SECONDS:
            raise NothingToTake(
                f"Run {run} is driven by {row.driver} (heard from {max(0, silent):.0f} s ago).",
                kept="It was left alone.",
                do=f"Wait for it, or stop it; {STALE_SECONDS:.0f} s after its last sign the run can be resumed.",
            )
        epoch = row.epoch + 1
        changed = connection.execute(
            update(runs)
            .where(runs.c.id == run, runs.c.epoch == row.epoch)
            .values(driver=driver, epoch=epoch, heartbeat=now())
        )
        if changed.rowcount != 1:  # PostgreSQL lets two look at once; one of them takes it
            raise NothingToTake(f"Run {run} has just been taken by somebody else.", kept="It was left alone.")
        record(connection, "run.taken", run=run, driver=driver, epoch=epoch, before=row.driver or "")
    return Seat(run, driver, epoch)


def stalled_runs(ledger: Ledger) -> list[str]:
    """Open runs whose driver died without saying so, oldest first. A driver that gave up cleanly is not among them."""
    with ledger.read() as connection:
        rows = connection.execute(
            select(runs.c.id, runs.c.driver, runs.c.heartbeat, now().label("clock"))
            .where(runs.c.state.in_(OPEN), runs.c.driver.is_not(None))
            .order_by(runs.c.created)
        ).all()
    return [row.id for row in rows if is_dead(row.driver) or row.clock - (row.heartbeat or 0) >= STALE_SECONDS]


def left_runs(ledger: Ledger) -> list[str]:
    """Open runs that their driver gave up, because the system failed: they wait for a person. Oldest first."""
    with ledger.read() as connection:
        left = select(runs.c.id).where(runs.c.state.in_(OPEN), runs.c.driver.is_(None)).order_by(runs.c.created)
        return list(connection.scalars(left))


def fence(connection: Connection, seat: Seat) -> str:
    """Refuse a stale driver, inside its own transaction; returns the run's state. Raises StaleDriver."""
    row = _SEAT.one(connection, run=seat.run)
    if row.epoch != seat.epoch:
        raise StaleDriver(
            f"Run {seat.run} has been taken over by {row.driver} (epoch {row.epoch}; ours was {seat.epoch}).",
            kept="The other driver goes on with it; what this one wrote before stands.",
            do=f"Nothing: `commonfleet show {seat.run}` follows it.",
        )
    return row.state


def beat(ledger: Ledger, seat: Seat) -> str:
    """Say that we are alive; returns the run's state (another process may ask it to cancel). Raises StaleDriver."""
    with ledger.write() as connection:
        state = fence(connection, seat)
        connection.execute(update(runs).where(runs.c.id == seat.run).values(heartbeat=now()))
    return state


def set_state(ledger: Ledger, seat: Seat, state: str, *, when: str) -> bool:
    """Move the run from the open state `when` to another. Returns whether it was in that: a cancel may come first."""
    with ledger.write() as connection:
        if fence(connection, seat) != when:
            return False
        connection.execute(update(runs).where(runs.c.id == seat.run).values(state=state))
        record(connection, f"run.{state}", run=seat.run)
    return True


def ask_to_cancel(ledger: Ledger, run: str) -> bool:
    """Ask the driver of an open run to stop; it sees that at its next beat. Returns whether there is one to see it."""
    with ledger.write() as connection:
        row = connection.execute(select(runs.c.state, runs.c.driver).where(runs.c.id == run).with_for_update()).one()
        if row.state not in OPEN:
            raise NothingToTake(f"Run {run} is not under way: it is {row.state}.", do=f"See `commonfleet show {run}`.")
        if row.state != "cancelling":
            connection.execute(update(runs).where(runs.c.id == run).values(state="cancelling"))
            record(connection, "run.cancelling", run=run)
    return row.driver is not None and not is_dead(row.driver)


def close_run(ledger: Ledger, seat: Seat, state: str, conclusion: Mapping[str, Any]) -> None:
    """The run is over. Later bundles still add superseding rows; this row does not change any more."""
    with ledger.write() as connection:
        fence(connection, seat)
        connection.execute(
            update(runs)
            .where(runs.c.id == seat.run)
            .values(state=state, driver=None, finished=now(), conclusion=canonical_json(dict(conclusion)).decode())
        )
        record(connection, "run.closed", run=seat.run, state=state, conclusion=dict(conclusion))


def leave_run(ledger: Ledger, seat: Seat, why: str) -> None:
    """Give the seat up without closing the run: the system failed, and a person decides when to resume."""
    with ledger.write() as connection:
        fence(connection, seat)
        connection.execute(update(runs).where(runs.c.id == seat.run).values(driver=None))
        record(connection, "run.left", run=seat.run, why=why)


def _run_id(created: float) -> str:
    """Sorts by time, readable, and unique without asking anybody."""
    moment = datetime.datetime.fromtimestamp(created, datetime.UTC)
    return f"r-{moment:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
