"""Admitting: every authentic part of a bundle is written down once per (lease, part), however late it comes.

Admitting and settling are two acts. A part's attempts are always kept; whether they count is decided here, once,
by one compare-and-set per unit. The loser's attempts stand beside with the reason, as evidence for judgement.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, exists, insert, select
from sqlalchemy.exc import IntegrityError

from blocks.canonical import canonical_json, digest_bytes
from blocks.errors import ProtocolError
from blocks.lease import AttemptRecord, Part, UnitRecord
from blocks.ledger import Ledger, now, record
from blocks.ledger.results import attempt_id
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


_LEASE = (
    select(leases.c.run, leases.c.machine, leases.c.slot, now().label("clock"))
    .where(leases.c.id == bindparam("lease"))
    .with_for_update()
)
# After the lease's row is locked, and not joined with it: PostgreSQL waits for a lock and then goes on with the other
# tables as they were before it.
_ADMITTED = select(bundles.c.digest).where(bundles.c.lease == bindparam("lease"), bundles.c.part == bindparam("part"))
_TOLD = exists().where(
    attempts.c.lease == lease_units.c.lease,
    attempts.c.unit == lease_units.c.unit,
    attempts.c.part != bindparam("part"),
)
_GRANTED = (
    select(
        lease_units.c.unit, lease_units.c.epoch, units.c.environment, _TOLD.label("told"),
        case((units.c.tests > 0, plan_units.c.body)).label("body"),
    )
    .join(leases, leases.c.id == lease_units.c.lease)
    .join(units, and_(units.c.run == leases.c.run, units.c.unit == lease_units.c.unit))
    .join(runs, runs.c.id == leases.c.run)
    .outerjoin(plan_units, and_(plan_units.c.plan == runs.c.plan, plan_units.c.unit == lease_units.c.unit))
    .where(lease_units.c.lease == bindparam("lease"))
)  # fmt: skip
_ATTEMPTS = insert(attempts)
_BUNDLE = insert(bundles)


def admit(ledger: Ledger, envelope: dict[str, Any], public: bytes, *, seat: Seat | None) -> Admission:
    """Admit one signed part. `public` is the key of the agent that holds the lease.

    Everything is checked before anything is kept. The raw envelope is durable in the store before the transaction
    begins, so a crash in between leaves an unused file and never a row without its evidence. Raises TrustError,
    ProtocolError, and StaleDriver for a lost seat.
    """
    part = part_from(verify(envelope, BUNDLE_TYPE, public))
    with ledger.read() as connection:
        granted = _granted(connection, part)
    try:
        # mtime=0: the same envelope always has the same bytes, and so the same digest.
        raw = gzip.compress(canonical_json(envelope), compresslevel=1, mtime=0)
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"The envelope has no canonical form: {error}.") from error
    digest = ledger.store.put_bytes(raw)
    with ledger.write() as connection:
        if seat is not None:
            fence(connection, seat)
        return _write(connection, part, granted, digest, len(raw), key_id(public))


def admit_checked(connection: Connection, part: Part, digest: str, size: int, signer: str) -> Admission:
    """Write a part down whose signature and form have been checked, and whose envelope is stored under `digest`."""
    return _write(connection, part, _granted(connection, part), digest, size, signer)


def _granted(connection: Connection, part: Part) -> Mapping[str, Any]:
    """What the lease was granted, by unit. Raises ProtocolError where the part does not fit that, or the plan."""
    lease, number = part["lease"], part["part"]
    granted = {held.unit: held for held in connection.execute(_GRANTED, {"lease": lease, "part": number})}
    if not granted:
        raise ProtocolError(f"There is no lease {lease}.")
    told = [line["unit"] for line in part["records"]]
    strangers = [unit for unit in told if unit not in granted]
    if strangers:
        raise ProtocolError(f"Part {number} of {lease} tells of units that it was never granted: {strangers[:3]}.")
    again = [unit for unit in told if granted[unit].told]
    if again:
        raise ProtocolError(f"Part {number} of {lease} tells of units that another part told of: {again[:3]}.")
    planned = {unit: json.loads(granted[unit].body)["tests"] for unit in told if granted[unit].body}
    check_planned(part, {unit: frozenset(map(plan_name, tests)) for unit, tests in planned.items() if tests})
    return granted


def _write(
    connection: Connection, part: Part, granted: Mapping[str, Any], digest: str, size: int, signer: str
) -> Admission:
    lease, number = part["lease"], part["part"]
    row = connection.execute(_LEASE, {"lease": lease}).one()
    kept = connection.scalar(_ADMITTED, {"lease": lease, "part": number})
    if kept is not None:
        if kept != digest:
            said = {"lease": lease, "part": number, "kept": kept, "sent": digest}
            record(connection, "bundle.conflict", run=row.run, **said)
        return Admission(lease, number, fresh=False)
    fates = {line["unit"]: terminal_of(line) for line in part["records"]}
    settled = settle_part(connection, row.run, lease, fates, row.clock)
    late = {unit: _why_not(connection, row.run, lease, granted[unit], fates[unit]) for unit in set(fates) - settled}
    uncounted = sorted(unit for unit, reason in late.items() if reason)
    rows = [
        _attempt_row(row, lease, number, line["unit"], attempt, late.get(line["unit"], ""))
        for line in part["records"]
        for attempt in line["attempts"]
    ]
    try:
        if rows:
            connection.execute(_ATTEMPTS, rows)
    except IntegrityError as error:  # since `_granted` looked
        raise ProtocolError(f"Part {number} of {lease} tells of units that another part told of.") from error
    count = sum(len(a["results"]) + len(a["metrics"]) for line in part["records"] for a in line["attempts"])
    connection.execute(
        _BUNDLE,
        [
            {"lease": lease, "part": number, "run": row.run, "digest": digest, "bytes": size, "rows": count,
             "environment": next((granted[unit].environment for unit in fates), ""),
             "signer": signer, "admitted": row.clock}
        ],
    )  # fmt: skip
    fresh = sorted(set(fates) - set(uncounted))
    # What was admitted, row for row, survives any later re-cutting of the files.
    root = digest_bytes(canonical_json([a["results"] for line in part["records"] for a in line["attempts"]]))
    told = {"lease": lease, "part": number, "digest": digest, "rows": count, "root": root}
    record(connection, "bundle.admitted", run=row.run, at=row.clock, **told, settled=fresh, uncounted=uncounted)
    return Admission(lease, number, True, tuple(fresh), tuple(uncounted))


def _why_not(connection: Connection, run: str, lease: str, held: Any, fate: Fate) -> str:
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


def _attempt_row(
    lease: Any, lease_id: str, part: int, unit: str, attempt: AttemptRecord, reason: str
) -> dict[str, Any]:
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
        "id": attempt_id(lease_id, unit, attempt["ordinal"]),
        "run": lease.run,
        "unit": unit,
        "lease": lease_id,
        "part": part,
        "ordinal": attempt["ordinal"],
        "mode": attempt["mode"],
        "test": attempt["test"],
        "outcome": attempt["outcome"],
        "started": attempt["started"],
        "seconds": attempt["seconds"],
        "machine": lease.machine,
        "slot": lease.slot,
        "isolation": attempt["isolation"][:ISOLATION_CHARACTERS],
        "counted": not reason,
        "reason": reason,
        "detail": canonical_json(detail).decode(),
    }
