"""Settling: the one compare-and-set that gives a unit its terminal state.

A settlement row is a fact. The first of a unit (ordinal 1) is its terminal state; evidence that arrives after
`lost` or `not_run` adds a row that supersedes, and never edits.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection, insert, select, update

from blocks.ledger import now
from blocks.ledger.schema import settlements, units

Terminal = Literal["ran", "skipped", "not_run", "lost"]


def settle(
    connection: Connection, run: str, unit: str, epoch: int, terminal: Terminal, reason: str, lease: str | None
) -> bool:
    """Give the unit its terminal state, if it has none and its epoch is still `epoch`. Returns whether it did.

    The epoch grows with each grant, so a lease that has expired may still settle until somebody else is granted the
    unit: finished work is not thrown away because its news came late.
    """
    changed = connection.execute(
        update(units)
        .where(units.c.run == run, units.c.unit == unit, units.c.epoch == epoch, units.c.state != "terminal")
        .values(state="terminal", lease=lease)
    )
    if changed.rowcount != 1:
        return False
    _row(connection, run, unit, 1, terminal, reason, lease, epoch)
    return True


def supersede(connection: Connection, run: str, unit: str, epoch: int, terminal: Terminal, lease: str) -> bool:
    """Results have arrived for a unit that was given up: add the row that says so. Returns whether it was given up."""
    latest = connection.execute(
        select(settlements.c.ordinal, settlements.c.terminal)
        .where(settlements.c.run == run, settlements.c.unit == unit)
        .order_by(settlements.c.ordinal.desc())
        .limit(1)
    ).one_or_none()
    if latest is None or latest.terminal not in ("lost", "not_run"):
        return False
    _row(connection, run, unit, latest.ordinal + 1, terminal, f"arrived after {latest.terminal}", lease, epoch)
    return True


def _row(
    connection: Connection,
    run: str,
    unit: str,
    ordinal: int,
    terminal: Terminal,
    reason: str,
    lease: str | None,
    epoch: int,
) -> None:
    connection.execute(
        insert(settlements).values(
            run=run,
            unit=unit,
            ordinal=ordinal,
            terminal=terminal,
            reason=reason,
            lease=lease,
            epoch=epoch,
            settled=now(),
        )
    )
