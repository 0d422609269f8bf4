"""Admitting: every authentic part of a bundle is written down once per (lease, part), however late it comes.

Admitting and settling are two acts. A part's attempts are always kept; whether they count is decided here, once,
by one compare-and-set per unit. The loser's attempts stand beside with the reason, as evidence for judgement.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, case, exists, insert, select
from sqlalchemy.exc import IntegrityError

from blocks.canonical import canonical_json
from blocks.errors import ProtocolError, TrustError
from blocks.lease import AttemptRecord, Part, UnitRecord
from blocks.ledger import Ledger, now, record
from blocks.ledger.prepared import Change, Query
from blocks.ledger.results import attempt_id
from blocks.ledger.roots import root_of_part
from blocks.ledger.schema import attempts, bundles, lease_units, leases, plan_units, runs, units
from blocks.signing import BUNDLE_TYPE, key_id, verify
from tasks.collect.checks import check_planned, part_from, plan_name
from tasks.collect.driver import Seat, fence
from tasks.collect.settle import Fate, settle_part, supersede

TAIL_CHARACTERS = 8000
"""How much of a bad attempt's output stands in its record. All of it stands in the raw bundle."""

ISOLATION_CHARACTERS = 200


@dataclass(frozen=True)
class Admission:
    """What came of a part. `fresh` is False for one that was admitted before."""

    lease: str
    part: int
    fresh: bool
    settled: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()


class _Admitted(NamedTuple):
    digest: str


class _Clock(NamedTuple):
    seconds: float


class _Granted(NamedTuple):
    run: str
    machine: str
    slot: int
    agent: str
    unit: str
    epoch: int
    environment: str
    suite: str
    told: bool
    body: str | None


_LEASE = Query(select(now()).select_from(leases).where(leases.c.id == bindparam("lease")).with_for_update(), _Clock)
# After the lease's row is locked, and not joined with it: PostgreSQL waits for a lock and then goes on with the other
# tables as they were before it.
_ADMITTED = Query(
    select(bundles.c.digest).where(bundles.c.lease == bindparam("lease"), bundles.c.part == bindparam("part")),
    _Admitted,
)
_TOLD = exists().where(
    attempts.c.lease == lease_units.c.lease,
    attempts.c.unit == lease_units.c.unit,
    attempts.c.part != bindparam("part"),
)
_GRANTED = Query(
    select(
        leases.c.run, leases.c.machine, leases.c.slot, leases.c.agent,
        lease_units.c.unit, lease_units.c.epoch, units.c.environment, units.c.suite,
        _TOLD.label("told"),
        case((units.c.tests > 0, plan_units.c.body)).label("body"),
    )
    .join(leases, leases.c.id == lease_units.c.lease)
    .join(units, and_(units.c.run == leases.c.run, units.c.unit == lease_units.c.unit))
    .join(runs, runs.c.id == leases.c.run)
    .outerjoin(plan_units, and_(plan_units.c.plan == runs.c.plan, plan_units.c.unit == lease_units.c.unit))
    .where(lease_units.c.lease == bindparam("lease")),
    _Granted,
)  # fmt: skip
_ATTEMPTS = Change(insert(attempts), attempts.c.keys())
_BUNDLE = Change(
    insert(bundles), ("lease", "part", "run", "environment", "digest", "bytes", "rows", "signer", "admitted")
)


@dataclass(frozen=True)
class Received:
    """A part that fits what its lease was granted, and all that can be said of it before it is settled."""

    part: Part
    granted: Mapping[str, _Granted]
    run: str
    signer: str
    fates: Mapping[str, Fate]
    attempts: Sequence[dict[str, Any]]
    rows: int
    root: str
    """Over the rows as segments hold them, so that any later cutting and compacting of the files can be checked."""

    digest: str = ""
    bytes: int = 0
    """Of the raw envelope in the store."""


def receive(ledger: Ledger, envelope: dict[str, Any], public: bytes) -> Received:
    """Check a signed part and keep it, before any transaction begins. `public` is the key of the agent that sent it.

    Everything is checked before anything is kept. The raw envelope is durable in the store when this returns, so a
    crash before its admission leaves an unused file and never a row without its evidence. Raises TrustError and
    ProtocolError.
    """
    received = check(ledger, part_from(verify(envelope, BUNDLE_TYPE, public)), key_id(public))
    try:
        # mtime=0: the same envelope always has the same bytes, and so the same digest.
        raw = gzip.compress(canonical_json(envelope), compresslevel=1, mtime=0)
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"The envelope has no canonical form: {error}.") from error
    return replace(received, digest=ledger.store.put_bytes(raw), bytes=len(raw))


def admit(ledger: Ledger, envelope: dict[str, Any], public: bytes, *, seat: Seat | None) -> Admission:
    """Receive one signed part and write it down. Raises TrustError, ProtocolError, and StaleDriver for a lost seat."""
    received = receive(ledger, envelope, public)
    with ledger.write() as connection:
        if seat is not None:
            fence(connection, seat)
        return write_down(connection, received)


def check(ledger: Ledger, part: Part, signer: str) -> Received:
    """The part beside what its lease was granted.

    Raises ProtocolError where it does not fit that, or the plan; TrustError where another key holds the lease.
    """
    lease, number = part["lease"], part["part"]
    with ledger.read() as connection:
        granted = {held.unit: held for held in _GRANTED.all(connection, lease=lease, part=number)}
    if not granted:
        raise ProtocolError(f"There is no lease {lease}.")
    held = next(iter(granted.values()))
    if held.agent != signer:
        raise TrustError(
            f"Part {number} of {lease} is signed by {signer}, and the lease was granted to {held.agent}.",
            kept="It was not admitted.",
        )
    told = [line["unit"] for line in part["records"]]
    strangers = [unit for unit in told if unit not in granted]
    if strangers:
        raise ProtocolError(f"Part {number} of {lease} tells of units that it was never granted: {strangers[:3]}.")
    again = [unit for unit in told if granted[unit].told]
    if again:
        raise ProtocolError(f"Part {number} of {lease} tells of units that another part told of: {again[:3]}.")
    planned = {unit: json.loads(body)["tests"] for unit in told if (body := granted[unit].body)}
    check_planned(part, {unit: frozenset(map(plan_name, tests)) for unit, tests in planned.items() if tests})
    tries = [(line["unit"], attempt) for line in part["records"] for attempt in line["attempts"]]
    return Received(
        part=part,
        granted=granted,
        run=held.run,
        signer=signer,
        fates={line["unit"]: terminal_of(line) for line in part["records"]},
        attempts=[_attempt_row(held, lease, number, unit, attempt) for unit, attempt in tries],
        rows=sum(len(attempt["results"]) + len(attempt["metrics"]) for _, attempt in tries),
        root=root_of_part(part, {unit: granted[unit].suite for unit in told}),
    )


def write_down(connection: Connection, received: Received) -> Admission:
    """The part's attempts, the fate of its units and its bundle, in the caller's transaction. Again: nothing new."""
    lease, number = received.part["lease"], received.part["part"]
    at = _LEASE.one(connection, lease=lease).seconds
    kept = _ADMITTED.first(connection, lease=lease, part=number)
    if kept is not None:
        if kept.digest != received.digest:
            said: dict[str, Any] = {"lease": lease, "part": number, "kept": kept.digest, "sent": received.digest}
            record(connection, "bundle.conflict", run=received.run, **said)
        return Admission(lease, number, fresh=False)
    fates = received.fates
    settled = settle_part(connection, received.run, lease, fates, at)
    late = {
        unit: _why_not(connection, received.run, lease, received.granted[unit], fates[unit])
        for unit in fates.keys() - settled
    }
    uncounted = sorted(unit for unit, reason in late.items() if reason)
    rows = [
        {**row, "counted": not late.get(row["unit"]), "reason": late.get(row["unit"], "")} for row in received.attempts
    ]
    try:
        _ATTEMPTS.run_many(connection, rows)
    except IntegrityError as error:  # since `check` looked
        raise ProtocolError(f"Part {number} of {lease} tells of units that another part told of.") from error
    environment = next((received.granted[unit].environment for unit in fates), "")
    _BUNDLE.run(
        connection, lease=lease, part=number, run=received.run, digest=received.digest, bytes=received.bytes,
        rows=received.rows, environment=environment, signer=received.signer, admitted=at,
    )  # fmt: skip
    fresh = sorted(fates.keys() - set(uncounted))
    told = {
        "lease": lease, "part": number, "environment": environment, "signer": received.signer,
        "digest": received.digest, "rows": received.rows, "root": received.root,
    }  # fmt: skip
    record(connection, "bundle.admitted", run=received.run, at=at, **told, settled=fresh, uncounted=uncounted)
    return Admission(lease, number, True, tuple(fresh), tuple(uncounted))


def _why_not(connection: Connection, run: str, lease: str, held: _Granted, fate: Fate) -> str:
    """Why attempts that settled nothing do not count; empty where they supersede a unit that was given up."""
    if supersede(connection, run, held.unit, held.epoch, fate[0], lease):
        record(connection, "unit.superseded", run=run, unit=held.unit, lease=lease)
        return ""
    state = connection.scalar(select(units.c.state).where(units.c.run == run, units.c.unit == held.unit))
    return "superseded" if state == "terminal" else "late"


def terminal_of(line: UnitRecord) -> Fate:
    """The terminal state that a unit's record amounts to."""
    results = [result["outcome"] for attempt in line["attempts"] for result in attempt["results"]]
    if results and all(outcome == "skipped" for outcome in results):
        return "skipped", "every test skipped itself"
    return "ran", ""


def _attempt_row(held: _Granted, lease: str, part: int, unit: str, attempt: AttemptRecord) -> dict[str, Any]:
    """An attempt as it is kept; whether it counts is not known yet."""
    bad = attempt["outcome"] not in ("passed", "skipped", "xfailed")
    detail = {
        "processes": attempt["processes"],
        "output_bytes": attempt["output_bytes"],
        "output_tail": attempt["output"][-TAIL_CHARACTERS:] if bad else "",
        "peak_memory_bytes": attempt["peak_memory_bytes"],
        "survivors": attempt["survivors"],
        "note": attempt["note"],
    }
    return {
        "id": attempt_id(lease, unit, attempt["ordinal"]),
        "run": held.run,
        "unit": unit,
        "lease": lease,
        "part": part,
        "ordinal": attempt["ordinal"],
        "mode": attempt["mode"],
        "test": attempt["test"],
        "outcome": attempt["outcome"],
        "started": float(attempt["started"]),  # JSON may bring an integer that no database holds
        "seconds": float(attempt["seconds"]),
        "machine": held.machine,
        "slot": held.slot,
        "isolation": attempt["isolation"][:ISOLATION_CHARACTERS],
        "detail": canonical_json(detail).decode(),
    }
