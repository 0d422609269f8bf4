"""Settling: the one compare-and-set that gives a unit its terminal state.

A settlement row is a fact. The first of a unit (ordinal 1) is its terminal state; evidence that arrives after
`lost` or `not_run` adds a row that supersedes, and never edits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from sqlalchemy import Connection, and_, bindparam, exists, insert, select, update

from blocks.ledger import clock
from blocks.ledger.prepared import Change, Query, among, listed
from blocks.ledger.schema import lease_units, settlements, units

Terminal = Literal["ran", "skipped", "not_run", "lost"]
Fate = tuple[Terminal, str]
"""A terminal state and its reason."""


class _Done(NamedTuple):
    unit: str
    epoch: int


class _Latest(NamedTuple):
    ordinal: int
    terminal: str


_SETTLED = Change(
    update(units)
    .where(
        units.c.run == bindparam("of_run"),
        units.c.unit == bindparam("of_unit"),
        units.c.epoch == bindparam("of_epoch"),
        units.c.state != "terminal",
    )
    .values(state="terminal", lease=bindparam("by_lease"))
)
# All units of a part at once: those whose epoch is still the one that this lease was granted.
_SETTLED_BY_LEASE = Query(
    update(units)
    .where(
        units.c.run == bindparam("of_run"),
        among(units.c.unit, "identities"),
        units.c.state != "terminal",
        exists().where(
            and_(
                lease_units.c.lease == bindparam("by_lease"),
                lease_units.c.unit == units.c.unit,
                lease_units.c.epoch == units.c.epoch,
            )
        ),
    )
    .values(state="terminal", lease=bindparam("by_lease"))
    .returning(units.c.unit, units.c.epoch),
    _Done,
)
_ROW = Change(insert(settlements), ("run", "unit", "ordinal", "terminal", "reason", "lease", "epoch", "settled"))
_LATEST = Query(
    select(settlements.c.ordinal, settlements.c.terminal)
    .where(settlements.c.run == bindparam("run"), settlements.c.unit == bindparam("unit"))
    .order_by(settlements.c.ordinal.desc())
    .limit(1),
    _Latest,
)


def settle(
    connection: Connection, run: str, unit: str, epoch: int, terminal: Terminal, reason: str, lease: str | None
) -> bool:
    """Give the unit its terminal state, if it has none and its epoch is still `epoch`. Returns whether it did.

    The epoch grows with each grant, so a lease that has expired may still settle until somebody else is granted the
    unit: finished work is not thrown away because its news came late.
    """
    if _SETTLED.run(connection, of_run=run, of_unit=unit, of_epoch=epoch, by_lease=lease) != 1:
        return False
    row = {"run": run, "unit": unit, "ordinal": 1, "terminal": terminal, "reason": reason}
    _ROW.run(connection, **row, lease=lease, epoch=epoch, settled=clock(connection))
    return True


def settle_part(connection: Connection, run: str, lease: str, fates: Mapping[str, Fate], at: float) -> set[str]:
    """`settle` for all units of a part in two statements. Returns the units that it settled."""
    done = _SETTLED_BY_LEASE.all(connection, of_run=run, by_lease=lease, identities=listed(fates))
    rows = [
        {"run": run, "unit": unit, "ordinal": 1, "terminal": fates[unit][0], "reason": fates[unit][1],
         "lease": lease, "epoch": epoch, "settled": at}
        for unit, epoch in done
    ]  # fmt: skip
    _ROW.run_many(connection, rows)
    return {row.unit for row in done}


def supersede(connection: Connection, run: str, unit: str, epoch: int, terminal: Terminal, lease: str) -> bool:
    """Results have arrived for a unit that was given up: add the row that says so. Returns whether it was given up."""
    latest = _LATEST.first(connection, run=run, unit=unit)
    if latest is None or latest.terminal not in ("lost", "not_run"):
        return False
    row = {"run": run, "unit": unit, "ordinal": latest.ordinal + 1, "terminal": terminal}
    reason = f"arrived after {latest.terminal}"
    _ROW.run(connection, **row, reason=reason, lease=lease, epoch=epoch, settled=clock(connection))
    return True
