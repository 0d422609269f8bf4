"""The life of a lease after its grant: renewed, given back, expired, or revoked with its run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, insert, literal, select, update

from blocks.errors import ProtocolError
from blocks.ledger import now, record
from blocks.ledger.schema import leases, runs, settlements, units
from tasks.collect.driver import STALE_SECONDS
from tasks.collect.settle import settle

LEASE_SECONDS = 120.0
"""How long a lease lives without a renewal; also how long a runner starts new units on its own."""

DEATHS = 3
"""A unit that was in hand when this many leases died, the last time alone, is lost(poison)."""

_RENEWED = (
    update(leases)
    .where(leases.c.id == bindparam("lease"), leases.c.state == "live", leases.c.deadline >= now())
    .values(deadline=now() + LEASE_SECONDS)
)
_ENDED = (
    update(leases)
    .where(leases.c.id == bindparam("lease"), leases.c.state == "live")
    .values(state=bindparam("as_state"), ended=now())
    .returning(leases.c.run, leases.c.ended)
)
_UNSETTLED = (
    select(units.c.run, units.c.unit, units.c.epoch, units.c.deaths)
    .where(
        units.c.run == select(leases.c.run).where(leases.c.id == bindparam("lease")).scalar_subquery(),
        units.c.lease == bindparam("lease"),
        units.c.state == "leased",
    )
    .order_by(units.c.position)
)


def renew(connection: Connection, lease: str) -> float:
    """Extend a live lease; returns the seconds it now has. Raises ProtocolError when it lives no more."""
    if connection.execute(_RENEWED, {"lease": lease}).rowcount != 1:
        raise ProtocolError(f"Lease {lease} is not live any more.", kept="What was delivered stands.")
    return LEASE_SECONDS


def give_back(connection: Connection, lease: str, *, died: bool = False, in_hand: str | None = None) -> int:
    """End a lease; its unsettled units return to the queue. Returns how many.

    `died` says that the runner ended without finishing: the unit in hand (where unknown, the first unsettled one)
    is then under suspicion. Ending a lease that has ended already changes nothing.
    """
    held = _unsettled(connection, lease)
    return _end(connection, lease, "given_back" if held or died else "done", held, _suspect(held, in_hand, died))


def expire(connection: Connection, *, machine: str | None = None, run: str | None = None) -> list[str]:
    """End the leases whose deadline has passed, by the database's clock. Their units return to the queue.

    The unit in hand comes under suspicion only where the run's driver was there to hear of it: an outage of ours is
    no unit's fault.
    """
    heard = runs.c.driver.is_not(None) & (runs.c.heartbeat >= now() - STALE_SECONDS)
    overdue = (
        select(leases.c.id, heard.label("heard"))
        .join(runs, runs.c.id == leases.c.run)
        .where(leases.c.state == "live", leases.c.deadline < now())
    )
    if machine is not None:
        overdue = overdue.where(leases.c.machine == machine)
    if run is not None:
        overdue = overdue.where(leases.c.run == run)
    ended = connection.execute(overdue).all()
    for row in ended:
        held = _unsettled(connection, row.id)
        _end(connection, row.id, "expired", held, _suspect(held, None, bool(row.heard)))
    return [row.id for row in ended]


def end_unfinished(connection: Connection, run: str, reason: str) -> int:
    """Give every unit that has no terminal state `not_run(reason)`; revoke the run's leases. Returns how many."""
    still_open = and_(units.c.run == run, units.c.state != "terminal")
    given_up = select(
        units.c.run, units.c.unit, literal(1), literal("not_run"), literal(reason), units.c.epoch, now()
    ).where(still_open)
    names = ["run", "unit", "ordinal", "terminal", "reason", "epoch", "settled"]
    connection.execute(insert(settlements).from_select(names, given_up))
    ended = connection.execute(update(units).where(still_open).values(state="terminal", lease=None)).rowcount
    connection.execute(
        update(leases).where(leases.c.run == run, leases.c.state == "live").values(state="revoked", ended=now())
    )
    if ended:
        record(connection, "units.not_run", run=run, reason=reason, units=ended)
    return ended


def queue_state(connection: Connection, run: str) -> dict[str, int]:
    """How many units of a run are pending, leased and terminal."""
    rows = connection.execute(select(units.c.state, func.count()).where(units.c.run == run).group_by(units.c.state))
    return {"pending": 0, "leased": 0, "terminal": 0} | {row[0]: row[1] for row in rows}


def _unsettled(connection: Connection, lease: str) -> Sequence[Any]:
    """The units that this lease still holds, in dispatch order."""
    return connection.execute(_UNSETTLED, {"lease": lease}).all()


def _suspect(held: Sequence[Any], in_hand: str | None, died: bool) -> str | None:
    """Which unit was in hand when the lease died. A runner works in order, so it is the first unsettled one."""
    if not held or not died:
        return None
    return in_hand if in_hand in {row.unit for row in held} else str(held[0].unit)


def _end(connection: Connection, lease: str, state: str, held: Sequence[Any], suspect: str | None) -> int:
    ended = connection.execute(_ENDED, {"lease": lease, "as_state": state}).one_or_none()
    if ended is None:
        return 0
    for row in held:
        _return(connection, lease, row, row.deaths + (row.unit == suspect))
    fate = {"returned": len(held), "suspect": suspect or ""}
    record(connection, f"lease.{state}", run=ended.run, at=ended.ended, lease=lease, **fate)
    return len(held)


def _return(connection: Connection, lease: str, row: Any, deaths: int) -> None:
    connection.execute(
        update(units)
        .where(units.c.run == row.run, units.c.unit == row.unit, units.c.lease == lease, units.c.state == "leased")
        .values(state="pending", lease=None, deaths=deaths)
    )
    if deaths >= DEATHS:
        why = f"poison: in hand when {deaths} leases died, the last time alone"
        settle(connection, row.run, row.unit, row.epoch, "lost", why, lease)
