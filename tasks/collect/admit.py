"""Admitting: every authentic part of a bundle is written down once per (lease, part), however late it comes.

Admitting and settling are two acts. A part's attempts are always kept; whether they count is decided here, once,
by one compare-and-set per unit. The loser's attempts stand beside with the reason, as evidence for judgement.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import Connection, and_, bindparam, insert, select

from blocks.canonical import canonical_json, digest_bytes
from blocks.errors import ProtocolError
from blocks.lease import OUTCOMES, PROTOCOL, AttemptRecord, Outcome, Part, UnitRecord
from blocks.ledger import Ledger, now, record
from blocks.ledger.results import attempt_id
from blocks.ledger.schema import attempts, bundles, lease_units, leases, units
from blocks.signing import BUNDLE_TYPE, key_id, verify_json
from tasks.collect.driver import Seat, fence
from tasks.collect.settle import Fate, settle_part, supersede

TAIL_CHARACTERS = 8000
"""How much of a bad attempt's output stands in its record. All of it stands in the raw bundle."""


@dataclass(frozen=True)
class Admission:
    """What came of a part. `fresh` is False for one that was admitted before."""

    lease: str
    part: int
    fresh: bool
    settled: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()


_LEASE = (
    select(leases.c.run, leases.c.machine, leases.c.slot, bundles.c.digest, now().label("clock"))
    .outerjoin(bundles, and_(bundles.c.lease == leases.c.id, bundles.c.part == bindparam("part")))
    .where(leases.c.id == bindparam("lease"))
    .with_for_update(of=leases)
)
_GRANTED = (
    select(lease_units.c.unit, lease_units.c.epoch, units.c.environment)
    .join(leases, leases.c.id == lease_units.c.lease)
    .join(units, and_(units.c.run == leases.c.run, units.c.unit == lease_units.c.unit))
    .where(lease_units.c.lease == bindparam("lease"))
)
_ATTEMPTS = insert(attempts)
_BUNDLE = insert(bundles)


def admit(ledger: Ledger, envelope: dict[str, Any], public: bytes, *, seat: Seat | None) -> Admission:
    """Admit one signed part. `public` is the key of the agent that holds the lease.

    The raw envelope is durable in the store before the transaction begins, so a crash in between leaves an unused
    file and never a row without its evidence. Raises TrustError, ProtocolError, and StaleDriver for a lost seat.
    """
    part = _checked(verify_json(envelope, BUNDLE_TYPE, public))
    # mtime=0: the same envelope always has the same bytes, and so the same digest.
    raw = gzip.compress(canonical_json(envelope), compresslevel=1, mtime=0)
    digest = ledger.store.put_bytes(raw)
    with ledger.write() as connection:
        if seat is not None:
            fence(connection, seat)
        return admit_checked(connection, part, digest, len(raw), key_id(public))


def admit_checked(connection: Connection, part: Part, digest: str, size: int, signer: str) -> Admission:
    """Write a part down whose signature and form have been checked, and whose envelope is stored under `digest`."""
    lease, number = part["lease"], part["part"]
    row = connection.execute(_LEASE, {"lease": lease, "part": number}).one_or_none()
    if row is None:
        raise ProtocolError(f"There is no lease {lease}.")
    if row.digest is not None:
        if row.digest != digest:
            said = {"lease": lease, "part": number, "kept": row.digest, "sent": digest}
            record(connection, "bundle.conflict", run=row.run, **said)
        return Admission(lease, number, fresh=False)
    granted = {held.unit: held for held in connection.execute(_GRANTED, {"lease": lease})}
    strangers = [line["unit"] for line in part["records"] if line["unit"] not in granted]
    if strangers:
        raise ProtocolError(f"Part {number} of {lease} tells of units that it was never granted: {strangers[:3]}.")
    fates = {line["unit"]: terminal_of(line) for line in part["records"]}
    settled = settle_part(connection, row.run, lease, fates, row.clock)
    late = {unit: _why_not(connection, row.run, lease, granted[unit], fates[unit]) for unit in set(fates) - settled}
    uncounted = sorted(unit for unit, reason in late.items() if reason)
    rows = [
        _attempt_row(row, lease, number, line["unit"], attempt, late.get(line["unit"], ""))
        for line in part["records"]
        for attempt in line["attempts"]
    ]
    if rows:
        connection.execute(_ATTEMPTS, rows)
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
        "isolation": attempt["isolation"],
        "counted": not reason,
        "reason": reason,
        "detail": canonical_json(detail).decode(),
    }


def _checked(value: Any) -> Part:
    """A part, or ProtocolError: what a machine says is believed only as far as it can be checked."""
    try:
        if value["protocol"] != PROTOCOL:
            raise ProtocolError(f"The part speaks protocol {value['protocol']!r}; this desk speaks {PROTOCOL}.")
        number, lines = value["part"], value["records"]
        if not (
            isinstance(value["lease"], str) and isinstance(number, int) and number >= 1 and isinstance(lines, list)
        ):
            raise ProtocolError("A part needs a lease, a number from 1 and a list of records.")
        names = [line["unit"] for line in lines]
        if len(set(names)) != len(names):
            raise ProtocolError("A part tells of one unit twice.")
        for line in lines:
            _check_attempts(line["attempts"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"The part is malformed: {error!r}.") from error
    part: Part = value
    return part


def _check_attempts(listed: Sequence[dict[str, Any]]) -> None:
    if [attempt["ordinal"] for attempt in listed] != list(range(1, len(listed) + 1)):
        raise ProtocolError("The attempts of a unit are numbered 1, 2, 3 in order.")
    for attempt in listed:
        outcomes = [attempt["outcome"], *(result["outcome"] for result in attempt["results"])]
        unknown = [outcome for outcome in outcomes if outcome not in get_args(Outcome)]
        if unknown:
            raise ProtocolError(f"{unknown[0]!r} is no outcome; known are {', '.join(OUTCOMES)}.")
        for key in ("output", "isolation", "note"):
            if not isinstance(attempt[key], str):
                raise ProtocolError(f"An attempt's {key} must be text.")
        if not isinstance(attempt["seconds"], int | float) or attempt["seconds"] < 0:
            raise ProtocolError("An attempt's seconds must be a number from 0.")
