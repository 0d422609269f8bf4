"""Submissions as records: written down before the call that they are about, and moved only along the table of states
(`blocks.machine`).

A machine is a fact about a host, and several runs may share it; a submission is one run's hold on it. Each change is
one transaction: whose turn it is to write is checked in it, the state is compared and set, and its event goes with it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from blocks.canonical import canonical_json
from blocks.errors import StaleDriver
from blocks.ledger import Ledger, now, record
from blocks.ledger.schema import UNRELEASED, machines, runs, submissions
from blocks.machine import FIRST, State, move
from blocks.pools.base import Offer, Submission, offer_from_json, offer_to_json
from tasks.collect.driver import OPEN, Seat, fence
from tasks.provision.held import Held

T = TypeVar("T")
_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
HOLD_SECONDS = 48 * 3600.0
"""How long after it was asked for a machine ends at the latest. Written down; it bounds no lease yet."""
ON_THE_WAY: dict[State, tuple[State, ...]] = {
    "accepted": ("ready", "leased"), "booting": ("ready", "leased"), "ready": ("leased",),
}  # fmt: skip


@dataclass(frozen=True)
class Hold:
    """A submission as the ledger has it: its state, and its machine once there is one."""

    submission: Submission
    state: State
    machine: str | None


@dataclass(frozen=True)
class Submissions:
    """The submissions of one run, and the right to change them: `turn` refuses, inside the transaction, whoever has
    lost it (or never had it)."""

    ledger: Ledger
    run: str
    turn: Callable[[Connection], object]

    async def open(self, pool: str) -> Hold | None:
        """What this run holds of the pool, in whatever state the last driver left it."""

        def act(connection: Connection) -> Hold | None:
            ours = _open().where(submissions.c.run == self.run, submissions.c.pool == pool)
            row = connection.execute(ours.order_by(submissions.c.ordinal.desc())).first()  # older ones were given up
            return _hold(row) if row else None

        return await self._transact(act)

    async def write_down(self, offer: Offer) -> Hold:
        """Write a new try at this offer down, before anything is done about it. A run wishes for one machine of each
        pool, so pool and run make the acquisition. Raises StaleDriver."""
        acquisition = f"{self.run}/{offer.pool}"

        def act(connection: Connection) -> Hold:
            count = select(func.count()).where(submissions.c.acquisition == acquisition)
            identity = "s-" + uuid.uuid4().hex[:16]
            row = {
                "id": identity, "acquisition": acquisition, "ordinal": int(connection.scalar(count) or 0) + 1,
                "run": self.run, "pool": offer.pool, "name": f"commonfleet-{identity}", "token": uuid.uuid4().hex,
                "offer": canonical_json(offer_to_json(offer)).decode(), "state": FIRST,
            }  # fmt: skip
            times = {"created": now(), "updated": now(), "expires": now() + HOLD_SECONDS}
            connection.execute(insert(submissions).values(**row, **times))
            record(
                connection, f"submission.{FIRST}", run=self.run, submission=identity, pool=offer.pool,
                acquisition=acquisition, ordinal=row["ordinal"], type=offer.type, zone=offer.zone, market=offer.market,
            )  # fmt: skip
            return _hold(connection.execute(_open().where(submissions.c.id == identity)).one())

        return await self._transact(act)

    async def move(self, hold: Hold, wanted: State, machine: str | None = None) -> Hold:
        """Move it from the state in which we know it. Raises HostError for a way that is not in the table, and
        StaleDriver when somebody else has moved it."""
        return await self._transact(lambda connection: _moved(connection, hold, wanted, machine))

    async def ready(self, hold: Hold, held: Held, vendor: str) -> Hold:
        """The machine answers, and the run may lease its slots: what it said is written down with that."""

        def act(connection: Connection) -> Hold:
            _register(connection, self.run, held, vendor)
            at = hold
            for wanted in ON_THE_WAY.get(hold.state, ()):
                at = _moved(connection, at, wanted, None)
            return at

        return await self._transact(act)

    async def reopened(self, hold: Hold, why: str) -> None:
        """The pipe to the machine was lost and is there again."""
        said: dict[str, Any] = {"submission": hold.submission.id, "machine": hold.machine, "why": why}
        await self._transact(lambda connection: record(connection, "pipe.reopened", run=self.run, **said))

    async def _transact(self, act: Callable[[Connection], T]) -> T:
        def transact() -> T:
            with self.ledger.write() as connection:
                self.turn(connection)
                return act(connection)

        return await asyncio.to_thread(transact)


def of_driver(ledger: Ledger, seat: Seat) -> Submissions:
    """The submissions of a run in the hands of its driver."""
    return Submissions(ledger, seat.run, lambda connection: fence(connection, seat))


def left_over(ledger: Ledger, pool: str) -> list[tuple[Submissions, Hold]]:
    """What runs that are closed still hold of this pool. They have no driver, so whoever comes may give it back."""
    with ledger.read() as connection:
        query = _open().join(runs, runs.c.id == submissions.c.run)
        rows = connection.execute(query.where(submissions.c.pool == pool, runs.c.state.not_in(OPEN))).all()
    return [(Submissions(ledger, row.run, _closed(row.run)), _hold(row)) for row in rows]


def _closed(run: str) -> Callable[[Connection], None]:
    def turn(connection: Connection) -> None:
        state = connection.scalar(select(runs.c.state).where(runs.c.id == run).with_for_update())
        if state in OPEN:
            raise StaleDriver(f"Run {run} is open: its driver gives its machines back.")

    return turn


def _open() -> Any:
    return select(submissions).where(UNRELEASED)


def _hold(row: Any) -> Hold:
    offer = offer_from_json(row.offer)
    return Hold(Submission(row.id, row.name, row.token, row.run, offer, row.expires), row.state, row.machine)


def _moved(connection: Connection, hold: Hold, wanted: State, machine: str | None) -> Hold:
    identity = hold.submission.id
    state = move(f"of submission {identity}", hold.state, wanted)
    values = {"state": state, "updated": now(), "machine": machine or hold.machine}
    here = submissions.c.id == identity, submissions.c.state == hold.state
    if connection.execute(update(submissions).where(*here).values(**values)).rowcount != 1:
        raise StaleDriver(
            f"Submission {identity} is not {hold.state} any more: somebody else has moved it.",
            kept="Its record was not changed.",
        )
    after = replace(hold, state=state, machine=machine or hold.machine)
    if state == "released" and after.machine is not None:
        _released(connection, after.machine)
    said: dict[str, Any] = {"submission": identity, "pool": hold.submission.offer.pool, "machine": after.machine or ""}
    record(connection, f"submission.{state}", run=hold.submission.run, before=hold.state, **said)
    return after


def _register(connection: Connection, run: str, held: Held, vendor: str) -> None:
    facts = {key: held.hello[key] for key in ("fingerprint", "runtime", "sandbox", "accelerators")}
    values = {"state": "ready", "slots": held.slots, "fingerprint": canonical_json(facts).decode(), "updated": now()}
    row = {"id": held.machine, "pool": held.pool, "vendor": vendor, "created": now(), **values}
    # Inserted first: of two runs that meet a new machine at once, neither finds it there to update.
    known = _INSERTS[connection.dialect.name](machines).values(**row).on_conflict_do_nothing()
    if connection.execute(known).rowcount == 0:
        connection.execute(update(machines).where(machines.c.id == held.machine).values(**values))
    where: dict[str, Any] = {"machine": held.machine, "pool": held.pool, "vendor": vendor}
    record(connection, "machine.ready", run=run, **where, slots=held.slots)


def _released(connection: Connection, machine: str) -> None:
    """The host is free once nobody holds it. It is locked first: another run may be taking it at this moment."""
    connection.execute(select(machines.c.id).where(machines.c.id == machine).with_for_update())
    others = select(func.count()).where(submissions.c.machine == machine, UNRELEASED)
    if connection.scalar(others) == 0:
        values = {"state": "released", "updated": now()}
        connection.execute(update(machines).where(machines.c.id == machine).values(**values))
