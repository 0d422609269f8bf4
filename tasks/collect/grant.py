"""Granting units to a slot that asks.

A grant is one short transaction, whose statements are prepared once: every desk of an installation waits for it.
Batches shrink towards the end of the queue (guided self-scheduling), a slot holds one live lease whichever run it
belongs to, and units that need the machine alone wait until it has fallen idle.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from blocks.canonical import digest_bytes
from blocks.lease import Grant, Wait
from blocks.ledger import now, record
from blocks.ledger.schema import lease_units, leases, machines, plan_units, runs, units
from tasks.collect.leases import LEASE_SECONDS, expire

FIRST_LOOK, WINDOW = 32, 1000
"""How many queued units one grant looks at: a few where they are worth enough work, never more than the window, so
that its cost does not grow with the plan."""

MOST_UNITS = 200
LEAST_SECONDS = 2.0
"""A lease costs some 0.2 s of its slot (a process, two deliveries): batches do not shrink below ten times that."""

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
    slots: int = 1 << 16
    """How many slots the asking agent knows of; another run may have told of more meanwhile."""


_MACHINE = (
    select(machines.c.slots, machines.c.wanted_by, machines.c.wanted_until, now().label("clock"))
    .where(machines.c.id == bindparam("machine"))
    .with_for_update()
)
_LIVE = select(leases.c.slot, leases.c.exclusive, leases.c.deadline).where(
    leases.c.machine == bindparam("machine"), leases.c.state == "live"
)
_QUEUE = (
    select(
        units.c.unit, units.c.epoch, units.c.environment, units.c.suite,
        units.c.estimate_seconds, units.c.exclusive, units.c.deaths,
    )
    .where(
        units.c.run == bindparam("run"),
        units.c.state == "pending",
        units.c.environment.in_(bindparam("environments", expanding=True)),
    )
    .order_by(units.c.position)
    .limit(bindparam("most"))
)  # fmt: skip
_NEW_LEASE = insert(leases).values(
    id=bindparam("id"), run=bindparam("run"), machine=bindparam("machine"), slot=bindparam("slot"),
    token_digest=bindparam("token_digest"), granted=bindparam("granted"), deadline=bindparam("deadline"),
    exclusive=bindparam("exclusive"), state="live",
)  # fmt: skip
_LEASED = (
    update(units)
    .where(
        units.c.run == bindparam("of_run"),
        units.c.unit.in_(bindparam("identities", expanding=True)),
        units.c.state == "pending",
    )
    .values(state="leased", lease=bindparam("to_lease"), epoch=units.c.epoch + 1)
)
_HELD = insert(lease_units)
_BODIES = (
    select(plan_units.c.unit, plan_units.c.body)
    .join(runs, runs.c.plan == plan_units.c.plan)
    .where(runs.c.id == bindparam("run"), plan_units.c.unit.in_(bindparam("identities", expanding=True)))
)


def grant(connection: Connection, asking: Asking) -> Grant | Wait:
    """Grant the next batch, or say how long to wait. The caller has fenced its driver, whose run is `running`."""
    machine, live = _look(connection, asking.machine)
    if any(row.deadline < machine.clock for row in live):
        expire(connection, machine=asking.machine)
        machine, live = _look(connection, asking.machine)
    taken = {row.slot for row in live}
    free = next((slot for slot in range(min(machine.slots, asking.slots)) if slot not in taken), None)
    if free is None or any(row.exclusive for row in live):
        return Wait(seconds=0.5, dry=False)
    queue = _queue(connection, asking, enough_seconds=2 * machine.slots * asking.target_seconds)
    if not queue:
        # What is left may be held by a machine that has gone: nobody else asks on its behalf.
        if expire(connection, run=asking.run):
            return Wait(seconds=0.0, dry=False)
        return Wait(seconds=0.5, dry=not _anything_left(connection, asking))
    if machine.wanted_by not in (None, asking.run) and machine.wanted_until > machine.clock:
        return Wait(seconds=0.5, dry=False)  # another run waits for the machine to fall idle
    shared = [row for row in queue if not row.exclusive]
    if not shared:
        return _grant_alone(connection, asking, queue[0], idle=not live, slot=free, clock=machine.clock)
    # One environment and one suite to a lease: its runner has one build, one interpreter and one set of variables.
    head = shared[0]
    alike = [row for row in shared if (row.environment, row.suite) == (head.environment, head.suite)]
    left = sum(row.estimate_seconds for row in shared)
    chosen = batch(alike, min(asking.target_seconds, max(LEAST_SECONDS, left / (2 * machine.slots))))
    return _write(connection, asking, chosen, free, exclusive=False, clock=machine.clock)


def batch(queue: Sequence[Any], limit_seconds: float) -> list[Any]:
    """The head of the queue that one slot gets: at least one unit, and no more than `limit_seconds` worth.

    With R seconds left and S slots the limit is at most R / 2S: the last batches are single units, and no slot
    starts a long batch while the others run dry. A suspect unit goes alone, so that it can take nobody with it.
    """
    if queue[0].deaths >= ALONE_AFTER_DEATHS:
        return [queue[0]]
    chosen: list[Any] = []
    seconds = 0.0
    for row in queue[:MOST_UNITS]:
        if row.deaths >= ALONE_AFTER_DEATHS or (chosen and seconds + row.estimate_seconds > limit_seconds):
            break
        chosen.append(row)
        seconds += row.estimate_seconds
    return chosen


def bodies_of(connection: Connection, run: str, identities: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the plan says of these units: unit -> Unit.to_json()."""
    rows = connection.execute(_BODIES, {"run": run, "identities": list(identities)})
    return {unit: json.loads(body) for unit, body in rows}


def _look(connection: Connection, machine: str) -> tuple[Any, Sequence[Any]]:
    held = connection.execute(_MACHINE, {"machine": machine}).one()
    return held, connection.execute(_LIVE, {"machine": machine}).all()


def _queue(connection: Connection, asking: Asking, enough_seconds: float) -> Sequence[Any]:
    wanted = {"run": asking.run, "environments": asking.environments}
    head = connection.execute(_QUEUE, {**wanted, "most": FIRST_LOOK}).all()
    worth = sum(row.estimate_seconds for row in head if not row.exclusive)
    if len(head) < FIRST_LOOK or worth >= enough_seconds:
        return head
    return connection.execute(_QUEUE, {**wanted, "most": WINDOW}).all()


def _anything_left(connection: Connection, asking: Asking) -> bool:
    """Whether this machine may yet get something: a unit in other hands can come back."""
    left = select(units.c.unit).where(
        units.c.run == asking.run,
        units.c.state.in_(("pending", "leased")),
        units.c.environment.in_(asking.environments),
    )
    return connection.scalar(left.limit(1)) is not None


def _grant_alone(
    connection: Connection, asking: Asking, unit: Any, *, idle: bool, slot: int, clock: float
) -> Grant | Wait:
    """A unit that needs the machine alone: claim the machine, and take it once it has fallen idle."""
    claim = update(machines).where(machines.c.id == asking.machine)
    if not idle:
        connection.execute(claim.values(wanted_by=asking.run, wanted_until=clock + WANT_SECONDS))
        return Wait(seconds=0.2, dry=False)
    connection.execute(claim.values(wanted_by=None, wanted_until=None))
    return _write(connection, asking, [unit], slot, exclusive=True, clock=clock)


def _write(
    connection: Connection, asking: Asking, chosen: Sequence[Any], slot: int, *, exclusive: bool, clock: float
) -> Grant:
    lease = "l-" + uuid.uuid4().hex[:16]
    token = secrets.token_urlsafe(24)
    identities = [row.unit for row in chosen]
    row = {
        "id": lease, "run": asking.run, "machine": asking.machine, "slot": slot, "exclusive": exclusive,
        "token_digest": digest_bytes(token.encode()), "granted": clock, "deadline": clock + LEASE_SECONDS,
    }  # fmt: skip
    connection.execute(_NEW_LEASE, row)
    changed = connection.execute(_LEASED, {"of_run": asking.run, "identities": identities, "to_lease": lease})
    assert changed.rowcount == len(identities)  # read and written under one lock
    connection.execute(_HELD, [{"lease": lease, "unit": row.unit, "epoch": row.epoch + 1} for row in chosen])
    where = {"machine": asking.machine, "slot": slot}
    record(connection, "lease.granted", run=asking.run, at=clock, lease=lease, units=identities, **where)
    bodies = bodies_of(connection, asking.run, identities)
    return Grant(
        lease=lease,
        token=token,
        deadline_seconds=LEASE_SECONDS,
        slot=slot,
        environment=chosen[0].environment,
        suite=chosen[0].suite,
        units=[bodies[identity] for identity in identities],
    )
