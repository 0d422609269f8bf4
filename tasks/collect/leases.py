"""The life of a lease after its grant: renewed, given back, expired, or revoked with its run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, and_, bindparam, insert, literal, select, update

from blocks.errors import ProtocolError
from blocks.ledger import now, record
from blocks.ledger.prepared import Change, Query
from blocks.ledger.schema import LIVE, lease_units, leases, runs, settlements, units
from tasks.collect.driver import STALE_SECONDS
from tasks.collect.settle import settle

LEASE_SECONDS = 120.0
"""How long a lease lives without a renewal; also how long a runner starts new units on its own."""

DEATHS = 3
"""A unit that was in hand when this many leases died, the last time alone, is lost(poison)."""


class _Ended(NamedTuple):
    run: str
    ended: float


class _Unsettled(NamedTuple):
    run: str
    unit: str
    epoch: int
    deaths: int


_RENEWED = Change(
    update(leases)
    .where(leases.c.id == bindparam("lease"), leases.c.state == "live", leases.c.deadline >= now())
    .values(deadline=now() + LEASE_SECONDS)
)
_ENDED = Query(
    update(leases)
    .where(leases.c.id == bindparam("lease"), leases.c.state == "live")
    .values(state=bindparam("as_state"), ended=now())
    .returning(leases.c.run, leases.c.ended),
    _Ended,
)
_UNSETTLED = Query(
    select(units.c.run, units.c.unit, units.c.epoch, units.c.deaths)
    .where(
        units.c.run == select(leases.c.run).where(leases.c.id == bindparam("lease")).scalar_subquery(),
        units.c.unit.in_(select(lease_units.c.unit).where(lease_units.c.lease == bindparam("lease"))),
        units.c.lease == bindparam("lease"),
        units.c.state == "leased",
    )
    .order_by(units.c.position),
    _Unsettled,
)


def renew(connection: Connection, lease: str) -> float:
    """Extend a live lease; returns the seconds it now has. Raises ProtocolError when it lives no more."""
    if _RENEWED.run(connection, lease=lease) != 1:
        raise ProtocolError(f"Lease {lease} is not live any more.", kept="What was delivered stands.")
    return LEASE_SECONDS


def give_back(connection: Connection, lease: str, *, died: bool = False, in_hand: str | None = None) -> int:
    """End a lease; its unsettled units return to the queue. Returns how many.

    `died` says that the runner ended without finishing: the unit in hand (where unknown, the first unsettled one)
    is then under suspicion. Ending a lease that has ended already changes nothing.
    """
    held = _UNSETTLED.all(connection, lease=lease)
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
        .where(LIVE, leases.c.deadline < now())
    )
    if machine is not None:
        overdue = overdue.where(leases.c.machine == machine)
    if run is not None:
        overdue = overdue.where(leases.c.run == run)
    ended = connection.execute(overdue).all()
    for row in ended:
        held = _UNSETTLED.all(connection, lease=row.id)
        _end(connection, row.id, "expired", held, _suspect(held, None, bool(row.heard)))
    return [row.id for row in ended]


def end_unfinished(connection: Connection, run: str, reason: str) -> int:
    """Give every unit that has no terminal state `not_run(reason)`; revoke the run's leases. Returns how many."""
    # The leases first, as where one expires: two that take the same rows in two orders wait for each other.
    connection.execute(update(leases).where(leases.c.run == run, LIVE).values(state="revoked", ended=now()))
    still_open = and_(units.c.run == run, units.c.state != "terminal")
    given_up = select(
        units.c.run, units.c.unit, literal(1), literal("not_run"), literal(reason), units.c.epoch, now()
    ).where(still_open)
    names = ["run", "unit", "ordinal", "terminal", "reason", "epoch", "settled"]
    connection.execute(insert(settlements).from_select(names, given_up))
    ended = connection.execute(update(units).where(still_open).values(state="terminal", lease=None)).rowcount
    if ended:
        record(connection, "units.not_run", run=run, reason=reason, units=ended)
    return ended


def _suspect(held: Sequence[_Unsettled], in_hand: str | None, died: bool) -> str | None:
    """Which unit was in hand when the lease died. A runner works in order, so it is the first unsettled one."""
    if not held or not died:
        return None
    return in_hand if in_hand in {row.unit for row in held} else held[0].unit


def _end(connection: Connection, lease: str, state: str, held: Sequence[_Unsettled], suspect: str | None) -> int:
    ended = _ENDED.first(connection, lease=lease, as_state=state)
    if ended is None:
        return 0
    for row in held:
        _return(connection, lease, row, row.deaths + (row.unit == suspect))
    fate = {"returned": len(held), "suspect": suspect or ""}
    record(connection, f"lease.{state}", run=ended.run, at=ended.ended, lease=lease, **fate)
    return len(held)


def _return(connection: Connection, lease: str, row: _Unsettled, deaths: int) -> None:
    connection.execute(
        update(units)
        .where(units.c.run == row.run, units.c.unit == row.unit, units.c.lease == lease, units.c.state == "leased")
        .values(state="pending", lease=None, deaths=deaths)
    )
    if deaths >= DEATHS:
        why = f"poison: in hand when {deaths} leases died, the last time alone"
        settle(connection, row.run, row.unit, row.epoch, "lost", why, lease)
