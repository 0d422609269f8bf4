"""Granting units to a slot that asks.

A grant is one short transaction, whose statements are prepared once: every desk of an installation waits for it.
Batches shrink towards the end of the queue (guided self-scheduling), a slot holds one live lease whichever run it
belongs to, and units that need the machine alone wait until it has fallen idle.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, union_all, update

from blocks.canonical import digest_bytes
from blocks.errors import LedgerError
from blocks.lease import Grant, Wait
from blocks.ledger import Ledger, now, record
from blocks.ledger.prepared import Change, Query, among, listed
from blocks.ledger.schema import LIVE, WAITING, lease_units, leases, machines, plan_units, runs, units
from tasks.collect.leases import LEASE_SECONDS, expire

FIRST_LOOK, WINDOW = 32, 1000
"""How many queued units one grant looks at: a few where they are worth enough work, never more than the window, so
that its cost does not grow with the plan."""

MOST_UNITS = 200
LEAST_SECONDS = 2.0
"""A lease costs some 0.2 s of its slot (a process, two deliveries): batches do not shrink below ten times that."""

WANT_SECONDS = 15.0
ALONE = "a unit has the machine to itself"
ALONE_AFTER_DEATHS = 2
"""A unit in hand when this many leases died is tried alone once; if that lease dies too, it is lost(poison)."""


class Crossed(LedgerError):
    """PostgreSQL alone: a late part, whose admission holds no run's seat, was quicker. Ask again."""


@dataclass(frozen=True)
class Asking:
    """A slot that asks for work: which run it serves, on which machine, and what that machine has at hand."""

    run: str
    machine: str
    agent: str
    """The id of the key that will sign what comes of it: no other key's bundles are admitted for the lease."""

    environments: tuple[str, ...]
    target_seconds: float = 30.0
    slots: int = 1 << 16
    """How many slots the asking agent knows of; another run may have told of more meanwhile."""


class _Host(NamedTuple):
    slots: int
    wanted_by: str | None
    wanted_until: float | None
    clock: float


class _Live(NamedTuple):
    slot: int
    exclusive: bool
    deadline: float


class Queued(NamedTuple):
    """A unit that waits, as the desk sees it."""

    unit: str
    epoch: int
    environment: str
    suite: str
    estimate_seconds: float
    exclusive: bool
    deaths: int


@dataclass(frozen=True)
class Held:
    """A lease that has been written. What the plan says of its units is read once the write lock is free again."""

    lease: str
    token: str
    slot: int
    environment: str
    suite: str
    units: Sequence[str]


class _Left(NamedTuple):
    id: str


class _Body(NamedTuple):
    unit: str
    body: str


_MACHINE = Query(
    select(machines.c.slots, machines.c.wanted_by, machines.c.wanted_until, now())
    .where(machines.c.id == bindparam("machine"))
    .with_for_update(),
    _Host,
)
_LIVE = Query(
    select(leases.c.slot, leases.c.exclusive, leases.c.deadline).where(leases.c.machine == bindparam("machine"), LIVE),
    _Live,
)
_QUEUE = Query(
    select(
        units.c.unit, units.c.epoch, units.c.environment, units.c.suite,
        units.c.estimate_seconds, units.c.exclusive, units.c.deaths,
    )
    .where(
        units.c.run == bindparam("run"), WAITING, among(units.c.environment, "environments")
    )
    .order_by(units.c.position)
    .limit(bindparam("most")),
    Queued,
)  # fmt: skip
_NEW_LEASE = Change(
    insert(leases).values(state="live"),
    ("id", "run", "machine", "slot", "agent", "token_digest", "granted", "deadline", "exclusive", "state"),
)
# One row at a time, by its whole key: given a list of units, SQLite reads every pending one of the run instead.
_LEASED = Change(
    update(units)
    .where(
        units.c.run == bindparam("of_run"),
        units.c.unit == bindparam("of_unit"),
        units.c.epoch == bindparam("of_epoch"),
        units.c.state == "pending",
    )
    .values(state="leased", lease=bindparam("to_lease"), epoch=bindparam("to_epoch"))
)
_HELD = Change(insert(lease_units), ("lease", "unit", "epoch"))
# A unit in other hands is held by a live lease: looking at those few spares looking at every unit of the run.
_LEFT = Query(
    union_all(
        select(units.c.unit).where(
            units.c.run == bindparam("run"), WAITING, among(units.c.environment, "environments")
        ),
        select(leases.c.id).where(LIVE, leases.c.run == bindparam("run")),
    ).limit(1),
    _Left,
)
_BODIES = Query(
    select(plan_units.c.unit, plan_units.c.body)
    .join(runs, runs.c.plan == plan_units.c.plan)
    .where(runs.c.id == bindparam("run"), among(plan_units.c.unit, "identities")),
    _Body,
)


def grant(connection: Connection, asking: Asking) -> Held | Wait:
    """Grant the next batch, or say how long to wait. The caller has fenced its driver, whose run is `running`."""
    machine, live = _look(connection, asking.machine)
    if any(row.deadline < machine.clock for row in live):
        expire(connection, machine=asking.machine)
        machine, live = _look(connection, asking.machine)
    taken = {row.slot for row in live}
    free = next((slot for slot in range(min(machine.slots, asking.slots)) if slot not in taken), None)
    if free is None or any(row.exclusive for row in live):
        return Wait(seconds=0.5, dry=False, why="all slots of the machine are taken" if free is None else ALONE)
    queue = _queue(connection, asking, enough_seconds=2 * machine.slots * asking.target_seconds)
    if not queue:
        # What is left may be held by a machine that has gone: nobody else asks on its behalf.
        if expire(connection, run=asking.run):
            return Wait(seconds=0.0, dry=False, why="units came back from a lease that expired")
        return Wait(seconds=0.5, dry=not _anything_left(connection, asking), why="other slots have the last units")
    if machine.wanted_by not in (None, asking.run) and (machine.wanted_until or 0) > machine.clock:
        return Wait(seconds=0.5, dry=False, why="another run waits to have the machine to itself")
    shared = [row for row in queue if not row.exclusive]
    if not shared:
        return _grant_alone(connection, asking, queue[0], idle=not live, slot=free, clock=machine.clock)
    # One environment and one suite to a lease: its runner has one build, one interpreter and one set of variables.
    head = shared[0]
    alike = [row for row in shared if (row.environment, row.suite) == (head.environment, head.suite)]
    left = sum(row.estimate_seconds for row in shared)
    chosen = batch(alike, min(asking.target_seconds, max(LEAST_SECONDS, left / (2 * machine.slots))))
    return _write(connection, asking, chosen, free, exclusive=False, clock=machine.clock)


def hold_machine(connection: Connection, machine: str) -> None:
    """Lock the machine: before any lease, as `grant` does, or two runs that share it wait for each other for ever."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time
        _MACHINE.one(connection, machine=machine)


def batch(queue: Sequence[Queued], limit_seconds: float) -> list[Queued]:
    """The head of the queue that one slot gets: at least one unit, and no more than `limit_seconds` worth.

    With R seconds left and S slots the limit is at most R / 2S: the last batches are single units, and no slot
    starts a long batch while the others run dry. A suspect unit goes alone, so that it can take nobody with it.
    """
    if queue[0].deaths >= ALONE_AFTER_DEATHS:
        return [queue[0]]
    chosen: list[Queued] = []
    seconds = 0.0
    for row in queue[:MOST_UNITS]:
        if row.deaths >= ALONE_AFTER_DEATHS or (chosen and seconds + row.estimate_seconds > limit_seconds):
            break
        chosen.append(row)
        seconds += row.estimate_seconds
    return chosen


def told(ledger: Ledger, run: str, answer: Held | Wait) -> Grant | Wait:
    """The answer as the slot gets it: with what the plan, which never changes, says of each unit."""
    if not isinstance(answer, Held):
        return answer
    with ledger.read() as connection:
        rows = _BODIES.all(connection, run=run, identities=listed(answer.units))
    bodies = {row.unit: json.loads(row.body) for row in rows}
    return Grant(
        lease=answer.lease,
        token=answer.token,
        deadline_seconds=LEASE_SECONDS,
        slot=answer.slot,
        environment=answer.environment,
        suite=answer.suite,
        units=[bodies[unit] for unit in answer.units],
    )


def _look(connection: Connection, machine: str) -> tuple[_Host, list[_Live]]:
    return _MACHINE.one(connection, machine=machine), _LIVE.all(connection, machine=machine)


def _queue(connection: Connection, asking: Asking, enough_seconds: float) -> list[Queued]:
    environments = listed(asking.environments)
    head = _QUEUE.all(connection, run=asking.run, environments=environments, most=FIRST_LOOK)
    worth = sum(row.estimate_seconds for row in head if not row.exclusive)
    if len(head) < FIRST_LOOK or worth >= enough_seconds:
        return head
    return _QUEUE.all(connection, run=asking.run, environments=environments, most=WINDOW)


def _anything_left(connection: Connection, asking: Asking) -> bool:
    """Whether this machine may yet get something: a unit in other hands can come back."""
    environments = listed(asking.environments)
    return _LEFT.first(connection, run=asking.run, environments=environments) is not None


def _grant_alone(
    connection: Connection, asking: Asking, unit: Queued, *, idle: bool, slot: int, clock: float
) -> Held | Wait:
    """A unit that needs the machine alone: claim the machine, and take it once it has fallen idle."""
    claim = update(machines).where(machines.c.id == asking.machine)
    if not idle:
        connection.execute(claim.values(wanted_by=asking.run, wanted_until=clock + WANT_SECONDS))
        return Wait(seconds=0.2, dry=False, why="the next unit wants the machine to itself")
    connection.execute(claim.values(wanted_by=None, wanted_until=None))
    return _write(connection, asking, [unit], slot, exclusive=True, clock=clock)


def _write(
    connection: Connection, asking: Asking, chosen: Sequence[Queued], slot: int, *, exclusive: bool, clock: float
) -> Held:
    # Begins with the time: what is written about one lease after the other stands together in every index.
    lease = f"l-{int(clock * 1000):011x}{secrets.token_hex(4)}"
    token = secrets.token_urlsafe(24)
    identities = [row.unit for row in chosen]
    _NEW_LEASE.run(
        connection, id=lease, run=asking.run, machine=asking.machine, slot=slot, agent=asking.agent,
        exclusive=exclusive, token_digest=digest_bytes(token.encode()), granted=clock, deadline=clock + LEASE_SECONDS,
    )  # fmt: skip
    changed = _LEASED.run_many(
        connection,
        [{"of_run": asking.run, "of_unit": row.unit, "of_epoch": row.epoch, "to_lease": lease,
          "to_epoch": row.epoch + 1} for row in chosen],
    )  # fmt: skip
    if changed != len(chosen):
        raise Crossed("A unit was settled at the moment that it was granted.", kept="Nothing was changed.")
    _HELD.run_many(connection, [{"lease": lease, "unit": row.unit, "epoch": row.epoch + 1} for row in chosen])
    where = {"machine": asking.machine, "slot": slot}
    record(connection, "lease.granted", run=asking.run, at=clock, lease=lease, units=identities, **where)
    return Held(lease, token, slot, chosen[0].environment, chosen[0].suite, identities)
