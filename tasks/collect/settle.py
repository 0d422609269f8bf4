"""Settling: the one compare-and-set that gives a unit its terminal state.

A settlement row is a fact. The first of a unit (ordinal 1) is its terminal state; evidence that arrives after
`lost` or `not_run` adds a row that supersedes, and never edits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sqlalchemy import Connection, and_, bindparam, exists, insert, select, update

from blocks.ledger import now
from blocks.ledger.schema import lease_units, settlements, units

Terminal = Literal["ran", "skipped", "not_run", "lost"]
Fate = tuple[Terminal, str]
"""A terminal state and its reason."""

_SETTLED = (
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
_SETTLED_BY_LEASE = (
    update(units)
    .where(
        units.c.run == bindparam("of_run"),
        units.c.unit.in_(bindparam("identities", expanding=True)),
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
    .returning(units.c.unit, units.c.epoch)
)
_ROW = insert(settlements)
_LATEST = (
    select(settlements.c.ordinal, settlements.c.terminal)
    .where(settlements.c.run == bindparam("run"), settlements.c.unit == bindparam("unit"))
    .order_by(settlements.c.ordinal.desc())
    .limit(1)
)


def settle(
    connection: Connection, run: str, unit: str, epoch: int, terminal: Terminal, reason: str, lease: str | None
) -> bool:
    """Give the unit its terminal state, if it has none and its epoch is still `epoch`. Returns whether it did.

    The epoch grows with each grant, so a lease that has expired may still settle until somebody else is granted the
    unit: finished work is not thrown away because its news came late.
    """
    values = {"of_run": run, "of_unit": unit, "of_epoch": epoch, "by_lease": lease}
    if connection.execute(_SETTLED, values).rowcount != 1:
        return False
    at = connection.scalar(select(now()))
    row = {"run": run, "unit": unit, "ordinal": 1, "terminal": terminal, "reason": reason}
    connection.execute(_ROW, [{**row, "lease": lease, "epoch": epoch, "settled": at}])
    return True


def settle_part(connection: Connection, run: str, lease: str, fates: Mapping[str, Fate], at: float) -> set[str]:
    """`settle` for all units of a part in two statements. Returns the units that it settled."""
    values = {"of_run": run, "by_lease": lease, "identities": list(fates)}
    done = connection.execute(_SETTLED_BY_LEASE, values).all()
    rows = [
        {"run": run, "unit": unit, "ordinal": 1, "terminal": fates[unit][0], "reason": fates[unit][1],
         "lease": lease, "epoch": epoch, "settled": at}
        for unit, epoch in done
    ]  # fmt: skip
    if rows:
        connection.execute(_ROW, rows)
    return {unit for unit, _ in done}


def supersede(connection: Connection, run: str, unit: str, epoch: int, terminal: Terminal, lease: str) -> bool:
    """Results have arrived for a unit that was given up: add the row that says so. Returns whether it was given up."""
    latest = connection.execute(_LATEST, {"run": run, "unit": unit}).one_or_none()
    if latest is None or latest.terminal not in ("lost", "not_run"):
        return False
    at = connection.scalar(select(now()))
    row = {"run": run, "unit": unit, "ordinal": latest.ordinal + 1, "terminal": terminal}
    reason = f"arrived after {latest.terminal}"
    connection.execute(_ROW, [{**row, "reason": reason, "lease": lease, "epoch": epoch, "settled": at}])
    return True
