"""Admitting: every authentic part of a bundle is written down once per (lease, part), however late it comes.

Admitting and settling are two acts. A part's attempts are always kept; whether they count is decided here, once,
by one compare-and-set per unit. The loser's attempts stand beside with the reason, as evidence for judgement.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from blocks.ledger.results import attempt_id
from sqlalchemy import Connection, Row, insert, select

from blocks.canonical import canonical_json, digest_bytes
from blocks.errors import ProtocolError
from blocks.lease import OUTCOMES, PROTOCOL, AttemptRecord, Outcome, Part, UnitRecord
from blocks.ledger import Ledger, now, record
from blocks.ledger.schema import attempts, bundles, lease_units, leases, units
from blocks.signing import BUNDLE_TYPE, key_id, verify_json
from tasks.collect.driver import Seat, fence
from tasks.collect.settle import Terminal, settle, supersede

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
        return _write(connection, part, digest, len(raw), key_id(public))


def _write(connection: Connection, part: Part, digest: str, size: int, signer: str) -> Admission:
    lease = connection.execute(select(leases).where(leases.c.id == part["lease"]).with_for_update()).one_or_none()
    if lease is None:
        raise ProtocolError(f"There is no lease {part['lease']}.")
    before = connection.scalar(
        select(bundles.c.digest).where(bundles.c.lease == lease.id, bundles.c.part == part["part"])
    )
    if before is not None:
        if before != digest:
            record(
                connection,
                "bundle.conflict",
                run=lease.run,
                lease=lease.id,
                part=part["part"],
                kept=before,
                sent=digest,
            )
        return Admission(lease.id, part["part"], fresh=False)
    granted = _granted(connection, lease.id)
    strangers = [line["unit"] for line in part["records"] if line["unit"] not in granted]
    if strangers:
        raise ProtocolError(
            f"Part {part['part']} of lease {lease.id} tells of units it was never granted: {strangers[:3]}."
        )
    rows: list[dict[str, Any]] = []
    settled: list[str] = []
    uncounted: list[str] = []
    for line in part["records"]:
        reason = _settle_unit(connection, lease, line, granted[line["unit"]].epoch)
        (uncounted if reason else settled).append(line["unit"])
        rows.extend(_attempt_row(lease, part["part"], line, attempt, reason) for attempt in line["attempts"])
    if rows:
        connection.execute(insert(attempts), rows)
    count = sum(len(a["results"]) + len(a["metrics"]) for line in part["records"] for a in line["attempts"])
    connection.execute(
        insert(bundles).values(
            lease=lease.id,
            part=part["part"],
            run=lease.run,
            environment=next((granted[line["unit"]].environment for line in part["records"]), ""),
            digest=digest,
            bytes=size,
            rows=count,
            signer=signer,
            admitted=now(),
        )
    )
    record(
        connection,
        "bundle.admitted",
        run=lease.run,
        lease=lease.id,
        part=part["part"],
        digest=digest,
        rows=count,
        # What was admitted, row for row, survives any later re-cutting of the files.
        root=digest_bytes(canonical_json([a["results"] for line in part["records"] for a in line["attempts"]])),
        settled=settled,
        uncounted=uncounted,
    )
    return Admission(lease.id, part["part"], True, tuple(settled), tuple(uncounted))


def _settle_unit(connection: Connection, lease: Row[Any], line: UnitRecord, epoch: int) -> str:
    """Try to settle; returns why the attempts do not count (empty when they do)."""
    terminal, reason = terminal_of(line)
    if settle(connection, lease.run, line["unit"], epoch, terminal, reason, lease.id):
        return ""
    if supersede(connection, lease.run, line["unit"], epoch, terminal, lease.id):
        record(connection, "unit.superseded", run=lease.run, unit=line["unit"], lease=lease.id)
        return ""
    state = connection.execute(
        select(units.c.state, units.c.lease).where(units.c.run == lease.run, units.c.unit == line["unit"])
    ).one()
    return "superseded" if state.state == "terminal" else "late"


def terminal_of(line: UnitRecord) -> tuple[Terminal, str]:
    """The terminal state that a unit's record amounts to."""
    results = [result["outcome"] for attempt in line["attempts"] for result in attempt["results"]]
    if results and all(outcome == "skipped" for outcome in results):
        return "skipped", "every test skipped itself"
    return "ran", ""


def _granted(connection: Connection, lease: str) -> dict[str, Any]:
    rows = connection.execute(
        select(lease_units.c.unit, lease_units.c.epoch, units.c.environment)
        .join(leases, leases.c.id == lease_units.c.lease)
        .join(units, (units.c.run == leases.c.run) & (units.c.unit == lease_units.c.unit))
        .where(lease_units.c.lease == lease)
    )
    return {row.unit: row for row in rows}


def _attempt_row(lease: Row[Any], part: int, line: UnitRecord, attempt: AttemptRecord, reason: str) -> dict[str, Any]:
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
        "id": attempt_id(lease.id, line["unit"], attempt["ordinal"]),
        "run": lease.run,
        "unit": line["unit"],
        "lease": lease.id,
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
