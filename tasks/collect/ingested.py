"""Ingested files in the ledger: a run of its own kind, a unit with one attempt for each file, rows in segments.

The files are durable first (the raw file and the signed manifest in the store, the segment in the results) and one
transaction makes all of it count. So a crash at any point leaves garbage and never rows, and of two processes with the
same file one gives way: a unit is there once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from blocks.canonical import canonical_json, digest_json
from blocks.errors import LedgerError
from blocks.ledger import Ledger, clock, record
from blocks.ledger.files import SegmentFile, check_present, in_the_making, partition, placed, publish
from blocks.ledger.roots import root_of
from blocks.ledger.schema import INGESTED, attempts, bundles, runs, segments, settlements, units
from blocks.signing import Key, sign
from tasks.collect.readers.base import Reading
from tasks.collect.readers.stamp import PART, Stamp, lease_of, unit_of
from tasks.collect.segments import EMPTY, take_turn

MANIFEST_TYPE = "application/vnd.commonfleet.ingest+json"
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:@/=-]{0,59}")
_DRIVEN = re.compile(r"r-\d{8}-\d{6}-[0-9a-f]{6}")
_ISOLATION = "unknown: read from a file"


class Overtaken(Exception):
    """Another process has ingested some of the files meanwhile: `units` of them."""

    def __init__(self, units: set[str]) -> None:
        super().__init__(f"{len(units)} files")
        self.units = units


@dataclass(frozen=True)
class Arrival:
    """A file that was read, with the digest under which it is kept."""

    reading: Reading
    stored: str
    bytes: int  # as it is kept

    @property
    def unit(self) -> str:
        return unit_of(self.reading.digest)


@dataclass(frozen=True)
class Manifest:
    """What we know of some files, signed, as it stands in the store."""

    digest: str
    bytes: int


def check_names(run: str, environment: str, suite: str | None) -> None:
    """Raises LedgerError for names that cannot be kept, or that mean something else."""
    if not _RUN.fullmatch(run) or run == "latest":
        raise LedgerError(
            f"{run[:80]!r} is no name for a run.",
            do="Give --run a name of letters, digits, '.', '_' and '-', at most 60 of them (and not `latest`).",
        )
    if not _ENVIRONMENT.fullmatch(environment):
        raise LedgerError(
            f"{environment[:80]!r} is no name for an environment.",
            do="Use letters, digits and '._+:@/=-', at most 60 of them.",
        )
    if suite is not None and not (0 < len(suite) <= 200 and suite.isprintable()):
        raise LedgerError(f"{suite[:80]!r} is no name for a suite.", do="Use 1 to 200 printable characters.")


def check_target(ledger: Ledger, run: str) -> None:
    """Raises LedgerError where files cannot be ingested into this run."""
    with ledger.read() as connection:
        flow = connection.scalar(select(runs.c.flow).where(runs.c.id == run))
    if flow is not None:
        _check_flow(run, flow)
    elif _DRIVEN.fullmatch(run):
        raise LedgerError(
            f"There is no run {run}, and a name of this form is given to runs that commonfleet drives.",
            kept="Nothing was ingested.",
            do="Name the run otherwise; `commonfleet runs` lists those that there are.",
        )


def known_units(ledger: Ledger, run: str, wanted: Iterable[str]) -> dict[str, str]:
    """Which of these units the run has already, with the name that their file had."""
    query = select(units.c.unit, units.c.name).where(units.c.run == run, units.c.unit.in_(sorted(wanted)))
    with ledger.read() as connection:
        return {row.unit: row.name for row in connection.execute(query)}


def holds(ledger: Ledger, run: str) -> str | None:
    """What the run has by now, in a sentence; None where there is no such run."""
    with ledger.read() as connection:
        said = connection.scalar(select(runs.c.conclusion).where(runs.c.id == run))
    return str(json.loads(said)["sentence"]) if said else None


def keep(ledger: Ledger, key: Key, stamp: Stamp, arrivals: Sequence[Arrival]) -> Manifest:
    """Have what we know of these files in the store, signed and apart from what they say."""
    files = [
        {
            "file": one.reading.digest, "bytes": one.reading.bytes, "kept": one.stored, "name": one.reading.name,
            "kind": one.reading.kind, "outcome": one.reading.outcome, "rows": one.reading.cases + one.reading.metrics,
            "known": one.reading.known, "root": one.reading.root, "unit": one.unit, "why": one.reading.why,
            "issues": [asdict(issue) for issue in one.reading.issues],
        }
        for one in arrivals
    ]  # fmt: skip
    manifest = {"run": stamp.run, "environment": stamp.environment, "started": stamp.started, "files": files}
    envelope = canonical_json(sign(key, MANIFEST_TYPE, canonical_json(manifest)))
    return Manifest(ledger.store.put_bytes(envelope), len(envelope))


def place(ledger: Ledger, stamp: Stamp, kind: str, data: bytes | bytearray, rows: int) -> SegmentFile:
    """Write a segment durably, under the name of its digest. It counts for nothing yet. Raises LedgerError."""
    folder = ledger.results / partition(kind=kind, run=stamp.run, environment=stamp.environment)
    with in_the_making(ledger.results, folder) as temporary:
        temporary.write_bytes(data)
        file = placed(temporary, folder, kind, rows)
    publish(ledger, file)
    return file


def write_down(
    ledger: Ledger,
    key: Key,
    stamp: Stamp,
    arrivals: Sequence[Arrival],
    manifest: Manifest,
    files: Sequence[SegmentFile],
) -> None:
    """All of it counts from here on, or nothing does. Raises Overtaken, and LedgerError for a run that is no target."""
    with ledger.write() as connection:
        take_turn(connection)
        at = clock(connection)
        before = _hold(connection, stamp.run, at)
        there = select(units.c.unit).where(units.c.run == stamp.run, units.c.unit.in_([one.unit for one in arrivals]))
        if taken := set(connection.scalars(there)):
            raise Overtaken(taken)
        _insert_units(connection, stamp, arrivals, manifest.digest, at)
        segment = {one.kind: one.digest for one in files}
        _insert_bundles(connection, key, stamp, arrivals, manifest, segment, at)
        for file in files:
            _insert_segment(connection, ledger, stamp, file, arrivals, at)
        _conclude(connection, stamp.run, before, arrivals, at)


# -- the run -------------------------------------------------------------------------------------------------------


def _check_flow(run: str, flow: str) -> None:
    if flow != INGESTED:
        raise LedgerError(
            f"Run {run} was driven by commonfleet ({flow}): files from elsewhere do not belong among its results.",
            kept="Nothing was ingested.",
            do="Give --run another name: a new one makes a run of its own.",
        )


def _hold(connection: Connection, run: str, at: float) -> Mapping[str, Any]:
    """Lock the run, made where there is none; what it concluded so far."""
    query = select(runs.c.flow, runs.c.conclusion).where(runs.c.id == run).with_for_update()
    row = connection.execute(query).first()
    if row is None:
        try:
            with connection.begin_nested():
                _open(connection, run, at)
        except IntegrityError:
            pass  # on PostgreSQL another process may make it at the same moment: it has committed by now
        row = connection.execute(query).one()
    _check_flow(run, row.flow)
    return dict(json.loads(row.conclusion))


def _open(connection: Connection, run: str, at: float) -> None:
    connection.execute(
        insert(runs).values(
            id=run, flow=INGESTED, created=at, state="complete", request=canonical_json({"run": run}).decode(),
            epoch=0, finished=at, conclusion=_conclusion(0, 0, 0),
        )
    )  # fmt: skip
    record(connection, "run.opened", run=run, at=at, flow=INGESTED, request={"run": run}, driver=None)


def _conclude(
    connection: Connection, run: str, before: Mapping[str, Any], arrivals: Sequence[Arrival], at: float
) -> None:
    text = _conclusion(
        before["files"] + len(arrivals),
        before["results"] + sum(one.reading.cases for one in arrivals),
        before["metrics"] + sum(one.reading.metrics for one in arrivals),
    )
    connection.execute(update(runs).where(runs.c.id == run).values(finished=at, conclusion=text))


def _conclusion(files: int, results: int, metrics: int) -> str:
    """Nobody judged: there is no exit code."""
    figures = f" and {metrics:,} figures" if metrics else ""
    sentence = f"{files:,} {'file' if files == 1 else 'files'} ingested: {results:,} results{figures}."
    said = {"exit_code": None, "sentence": sentence, "files": files, "results": results, "metrics": metrics}
    return canonical_json(said).decode()


# -- rows ----------------------------------------------------------------------------------------------------------


def _insert_units(connection: Connection, stamp: Stamp, arrivals: Sequence[Arrival], manifest: str, at: float) -> None:
    told: list[dict[str, Any]] = []
    settled: list[dict[str, Any]] = []
    tried: list[dict[str, Any]] = []
    for one in arrivals:
        reading, lease = one.reading, lease_of(stamp.run, one.reading.digest)
        key = {"run": stamp.run, "unit": one.unit}
        told.append({
            **key, "position": 0, "suite": reading.suite or reading.kind, "environment": stamp.environment,
            "name": reading.name, "exclusive": False, "cpus": 1, "devices": 0, "tests": reading.expected,
            "estimate_seconds": reading.duration, "state": "terminal", "epoch": 0, "lease": lease, "deaths": 0,
        })  # fmt: skip
        settled.append(
            {**key, "ordinal": 1, "terminal": "ran", "reason": "", "lease": lease, "epoch": 0, "settled": at}
        )
        note = f"{reading.outcome}: {reading.why}" if reading.why else ""
        detail = {"file": reading.digest, "kept": one.stored, "manifest": manifest, "kind": reading.kind, "note": note}
        tried.append({
            **key, "id": stamp.attempt(reading.digest), "lease": lease, "part": PART, "ordinal": 1, "mode": "company",
            "test": None, "outcome": reading.worst, "started": (stamp.started or 0) / 1e6,
            "seconds": reading.duration, "machine": stamp.machine, "slot": 0, "isolation": _ISOLATION,
            "counted": stamp.counted, "reason": stamp.reason, "detail": canonical_json(detail).decode(),
        })  # fmt: skip
    connection.execute(insert(units), told)
    connection.execute(insert(settlements), settled)
    connection.execute(insert(attempts), tried)


def _insert_bundles(
    connection: Connection,
    key: Key,
    stamp: Stamp,
    arrivals: Sequence[Arrival],
    manifest: Manifest,
    segment: Mapping[str, str],
    at: float,
) -> None:
    shared = {"run": stamp.run, "environment": stamp.environment, "signer": key.id, "admitted": at, "segment": EMPTY}
    about = {"lease": "m-" + manifest.digest.removeprefix("sha256:")[:32], "part": 0, "digest": manifest.digest}
    rows: list[dict[str, Any]] = [{**shared, **about, "bytes": manifest.bytes, "rows": 0}]
    _tell(connection, key, stamp, at, **about, rows=0, root=root_of(()), settled=[])
    for one in arrivals:
        reading = one.reading
        what = {"lease": lease_of(stamp.run, reading.digest), "part": PART, "digest": one.stored}
        count = reading.cases + reading.metrics
        holder = segment["results"] if reading.cases else segment["metrics"] if reading.metrics else EMPTY
        rows.append({**shared, **what, "bytes": one.bytes, "rows": count, "segment": holder})
        told = {"root": reading.root, "settled": [one.unit], "file": reading.digest, "manifest": manifest.digest}
        _tell(connection, key, stamp, at, **what, rows=count, **told)
    connection.execute(insert(bundles), rows)


def _tell(connection: Connection, key: Key, stamp: Stamp, at: float, **said: Any) -> None:
    told = {"environment": stamp.environment, "signer": key.id, **said, "uncounted": []}
    record(connection, "bundle.admitted", run=stamp.run, at=at, **told)


def _insert_segment(
    connection: Connection, ledger: Ledger, stamp: Stamp, file: SegmentFile, arrivals: Sequence[Arrival], at: float
) -> None:
    check_present(file)
    relative = str(file.path.relative_to(ledger.results))
    where = {"run": stamp.run, "environment": stamp.environment, "digest": file.digest, "path": relative}
    connection.execute(insert(segments).values(**where, kind=file.kind, rows=file.rows, bytes=file.bytes, created=at))
    digests = sorted(one.stored for one in arrivals)
    record(
        connection, "segment.cut", at=at, **where, content=file.kind, rows=file.rows, bundles=len(digests),
        bundles_digest=digest_json(digests),
    )  # fmt: skip
