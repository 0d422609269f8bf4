"""Leases: granting units to a slot, renewing, giving back, and what expiry does.

A grant is one short transaction. Batches shrink towards the end of the queue (guided self-scheduling), a slot holds
one live lease whichever run it belongs to, and units that need the machine alone wait until it has fallen idle.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, or_, select, update

from blocks.canonical import digest_bytes
from blocks.errors import ProtocolError
from blocks.lease import Grant, Wait
from blocks.ledger import now, record
from blocks.ledger.schema import lease_units, leases, machines, plan_units, runs, units
from tasks.collect.settle import settle

LEASE_SECONDS = 120.0
"""How long a lease lives without a renewal; also how long a runner starts new units on its own."""

WINDOW = 1000
"""How many queued units one grant looks at, so that its cost does not grow with the plan."""

MOST_UNITS = 200
WANT_SECONDS = 15.0
ALONE_AFTER_DEATHS = 2
"""A unit in hand when this many leases died is tried alone once; if that lease dies too, it is lost(poison)."""


@dataclass(frozen=True)
class Asking:
    """A slot that asks for work: which run it serves, on which machine, and what that machine has at hand."""

    run: str
    machine: str
    environments: tuple[str, ...]
    target_seconds: float = 30.0


def grant(connection: Connection, asking: Asking) -> Grant | Wait:
    """Grant the next batch, or say how long to wait. The caller has fenced its driver in this transaction."""
    # Locking the run's row lets two machines of one run ask at once without reaching for the same units.
    state = connection.scalar(select(runs.c.state).where(runs.c.id == asking.run).with_for_update())
    if state != "running":
        return Wait(seconds=1.0, dry=True)
    expire(connection, machine=asking.machine)
    machine = connection.execute(
        select(machines, now().label("clock")).where(machines.c.id == asking.machine).with_for_update()
    ).one()
    live = connection.execute(
        select(leases.c.slot, leases.c.exclusive).where(leases.c.machine == asking.machine, leases.c.state == "live")
    ).all()
    taken = {row.slot for row in live}
    free = next((slot for slot in range(machine.slots) if slot not in taken), None)
    if free is None or any(row.exclusive for row in live):
        return Wait(seconds=0.5, dry=False)
    queue = _queue(connection, asking)
    if not queue:
        return Wait(seconds=0.5, dry=not _anything_left(connection, asking))
    shared = [row for row in queue if not row.exclusive]
    if not shared:
        return _grant_alone(connection, asking, machine, queue[0], idle=not live, slot=free)
    wanted_by_other = machine.wanted_by not in (None, asking.run) and (machine.wanted_until or 0) > machine.clock
    if wanted_by_other:
        return Wait(seconds=0.5, dry=False)
    # One environment and one suite to a lease: its runner has one build, one interpreter and one set of variables.
    head = shared[0]
    alike = [row for row in shared if (row.environment, row.suite) == (head.environment, head.suite)]
    return _write(connection, asking, batch(alike, asking.target_seconds, machine.slots), free, exclusive=False)


def batch(queue: Sequence[Any], target_seconds: float, slots: int) -> list[Any]:
    """The head of the queue that one slot gets: `target_seconds` worth, less when little is left.

    With R seconds left and S slots, a batch is at most R / 2S: the last batches are single units, and no slot
    starts a long batch while the others run dry. A suspect unit goes alone, so that it can take nobody with it.
    """
    if queue[0].deaths >= ALONE_AFTER_DEATHS:
        return [queue[0]]
    left = sum(row.estimate_seconds for row in queue)
    limit = min(target_seconds, left / (2 * slots))
    chosen: list[Any] = []
    seconds = 0.0
    for row in queue[:MOST_UNITS]:
        if row.deaths >= ALONE_AFTER_DEATHS or (chosen and seconds + row.estimate_seconds > limit):
            break
        chosen.append(row)
        seconds += row.estimate_seconds
    return chosen


def renew(connection: Connection, lease: str) -> float:
    """Extend a live lease; returns the seconds it now has. Raises ProtocolError when it lives no more."""
    changed = connection.execute(
        update(leases)
        .where(leases.c.id == lease, leases.c.state == "live", leases.c.deadline >= now())
        .values(deadline=now() + LEASE_SECONDS)
    )
    if changed.rowcount != 1:
        raise ProtocolError(f"Lease {lease} is not live any more.", kept="What was delivered stands.")
    return LEASE_SECONDS


def give_back(connection: Connection, lease: str, *, died: bool = False, in_hand: str | None = None) -> int:
    """End a lease; its unsettled units return to the queue. Returns how many.

    `died` says that the runner ended without finishing: the unit in hand (where unknown, the first unsettled one)
    is then under suspicion. Ending a lease that has ended already changes nothing.
    """
    held = _unsettled(connection, lease)
    state = "given_back" if held or died else "done"
    changed = connection.execute(
        update(leases).where(leases.c.id == lease, leases.c.state == "live").values(state=state, ended=now())
    )
    if changed.rowcount != 1:
        return 0
    suspect = _suspect(held, in_hand) if died else None
    _return_units(connection, lease, held, suspect)
    run = connection.scalar(select(leases.c.run).where(leases.c.id == lease))
    record(connection, f"lease.{state}", run=run, lease=lease, returned=len(held), suspect=suspect or "")
    return len(held)


def expire(connection: Connection, *, machine: str | None = None, run: str | None = None) -> list[str]:
    """End the leases whose deadline has passed, by the database's clock. Their units return to the queue."""
    overdue = select(leases.c.id, leases.c.run).where(leases.c.state == "live", leases.c.deadline < now())
    if machine is not None:
        overdue = overdue.where(leases.c.machine == machine)
    if run is not None:
        overdue = overdue.where(leases.c.run == run)
    ended = []
    for lease, of_run in connection.execute(overdue).all():
        changed = connection.execute(
            update(leases).where(leases.c.id == lease, leases.c.state == "live").values(state="expired", ended=now())
        )
        if changed.rowcount != 1:
            continue
        held = _unsettled(connection, lease)
        suspect = _suspect(held, None)
        _return_units(connection, lease, held, suspect)
        record(connection, "lease.expired", run=of_run, lease=lease, returned=len(held), suspect=suspect or "")
        ended.append(lease)
    return ended


def _queue(connection: Connection, asking: Asking) -> Sequence[Any]:
    wanted = (units.c.unit, units.c.epoch, units.c.environment, units.c.suite, units.c.estimate_seconds)
    return connection.execute(
        select(*wanted, units.c.exclusive, units.c.deaths)
        .where(
            units.c.run == asking.run,
            units.c.state == "pending",
            units.c.environment.in_(asking.environments),
        )
        .order_by(units.c.position)
        .limit(WINDOW)
    ).all()


def _anything_left(connection: Connection, asking: Asking) -> bool:
    """Whether this machine may yet get something: a unit in other hands can come back."""
    return (
        connection.scalar(
            select(units.c.unit)
            .where(
                units.c.run == asking.run,
                units.c.state.in_(("pending", "leased")),
                units.c.environment.in_(asking.environments),
            )
            .limit(1)
        )
        is not None
    )


def _grant_alone(
    connection: Connection, asking: Asking, machine: Row[Any], unit: Row[Any], *, idle: bool, slot: int
) -> Grant | Wait:
    """A unit that needs the machine alone: claim the machine, and take it once it has fallen idle."""
    claimed = machine.wanted_by not in (None, asking.run) and (machine.wanted_until or 0) > machine.clock
    if claimed:
        return Wait(seconds=0.5, dry=False)
    if not idle:
        connection.execute(
            update(machines)
            .where(machines.c.id == asking.machine)
            .values(wanted_by=asking.run, wanted_until=now() + WANT_SECONDS)
        )
        return Wait(seconds=0.2, dry=False)
    connection.execute(
        update(machines).where(machines.c.id == asking.machine).values(wanted_by=None, wanted_until=None)
    )
    return _write(connection, asking, [unit], slot, exclusive=True)


def _write(
    connection: Connection, asking: Asking, chosen: Sequence[Any], slot: int, *, exclusive: bool
) -> Grant | Wait:
    lease = "l-" + uuid.uuid4().hex[:16]
    token = secrets.token_urlsafe(24)
    connection.execute(
        insert(leases).values(
            id=lease,
            run=asking.run,
            machine=asking.machine,
            slot=slot,
            token_digest=digest_bytes(token.encode()),
            granted=now(),
            deadline=now() + LEASE_SECONDS,
            exclusive=exclusive,
            state="live",
        )
    )
    identities = [row.unit for row in chosen]
    changed = connection.execute(
        update(units)
        .where(units.c.run == asking.run, units.c.unit.in_(identities), units.c.state == "pending")
        .values(state="leased", lease=lease, epoch=units.c.epoch + 1)
    )
    assert changed.rowcount == len(identities)  # read and written under one lock
    connection.execute(
        insert(lease_units), [{"lease": lease, "unit": row.unit, "epoch": row.epoch + 1} for row in chosen]
    )
    bodies = _bodies(connection, asking.run, identities)
    record(
        connection, "lease.granted", run=asking.run, lease=lease, machine=asking.machine, slot=slot, units=identities
    )
    return Grant(
        lease=lease,
        token=token,
        deadline_seconds=LEASE_SECONDS,
        slot=slot,
        environment=chosen[0].environment,
        suite=chosen[0].suite,
        units=[bodies[identity] for identity in identities],
    )


def _bodies(connection: Connection, run: str, identities: Iterable[str]) -> dict[str, dict[str, Any]]:
    rows = connection.execute(
        select(plan_units.c.unit, plan_units.c.body)
        .join(runs, runs.c.plan == plan_units.c.plan)
        .where(runs.c.id == run, plan_units.c.unit.in_(list(identities)))
    )
    return {unit: json.loads(body) for unit, body in rows}


def _unsettled(connection: Connection, lease: str) -> Sequence[Any]:
    """The units that this lease still holds, in dispatch order."""
    return connection.execute(
        select(units.c.run, units.c.unit, units.c.epoch, units.c.deaths)
        .join(leases, and_(leases.c.id == lease, leases.c.run == units.c.run))
        .where(units.c.lease == lease, units.c.state == "leased")
        .order_by(units.c.position)
    ).all()


def _suspect(held: Sequence[Any], in_hand: str | None) -> str | None:
    """Which unit was in hand when the lease died. A runner works in order, so it is the first unsettled one."""
    if not held:
        return None
    return in_hand if in_hand in {row.unit for row in held} else str(held[0].unit)


def _return_units(connection: Connection, lease: str, held: Sequence[Any], suspect: str | None) -> None:
    for row in held:
        deaths = row.deaths + (row.unit == suspect)
        connection.execute(
            update(units)
            .where(units.c.run == row.run, units.c.unit == row.unit, units.c.lease == lease, units.c.state == "leased")
            .values(state="pending", lease=None, deaths=deaths)
        )
        if deaths > ALONE_AFTER_DEATHS:
            settle(
                connection, row.run, row.unit, row.epoch, "lost", "poison: it was in hand when three leases died", lease
            )


def queue_state(connection: Connection, run: str) -> dict[str, int]:
    """How many units of a run are pending, leased and terminal."""
    rows = connection.execute(select(units.c.state, func.count()).where(units.c.run == run).group_by(units.c.state))
    return {"pending": 0, "leased": 0, "terminal": 0} | {row[0]: row[1] for row in rows}


def end_unfinished(connection: Connection, run: str, reason: str) -> int:
    """Give every unit that has no terminal state `not_run(reason)`; revoke the run's leases. Returns how many."""
    open_units = connection.execute(
        select(units.c.unit, units.c.epoch).where(
            units.c.run == run, or_(units.c.state == "pending", units.c.state == "leased")
        )
    ).all()
    for unit, epoch in open_units:
        settle(connection, run, unit, epoch, "not_run", reason, None)
    connection.execute(
        update(leases).where(leases.c.run == run, leases.c.state == "live").values(state="revoked", ended=now())
    )
    if open_units:
        record(connection, "units.not_run", run=run, reason=reason, units=len(open_units))
    return len(open_units)
