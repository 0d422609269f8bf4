"""Whether a ledger is sound: its files against its records, and what waits for somebody. Changes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from blocks.ledger import Ledger, now
from blocks.ledger.schema import leases, segments
from tasks.collect.driver import left_runs, stalled_runs
from tasks.keep.named import Named, named_segments, trouble_with

ORPHAN_SECONDS = 3600.0  # a younger file may belong to a cutter that has not committed yet
OVERDUE_SECONDS = 600.0


@dataclass(frozen=True)
class Overdue:
    """Live leases of a run whose deadline passed long ago."""

    run: str
    count: int
    seconds: float


@dataclass(frozen=True)
class Soundness:
    """What was found. Paths are relative to the state folder."""

    segments: int
    orphans: tuple[Path, ...]
    orphan_bytes: int
    missing: tuple[str, ...]
    altered: tuple[str, ...]
    overdue: tuple[Overdue, ...]
    undriven: tuple[str, ...]


def look(ledger: Ledger) -> Soundness:
    """Read every segment and compare; some seconds for each gigabyte."""
    named = _segments(ledger)
    missing, altered = _compared(ledger, named)
    if missing or altered:  # a compaction may have replaced them while we read
        still = {segment.path for segment in _segments(ledger)}
        missing, altered = ([path for path in paths if path in still] for paths in (missing, altered))
    orphans = _orphans(ledger)
    return Soundness(
        segments=len(named),
        orphans=tuple(orphans),
        orphan_bytes=sum(path.stat().st_size for path in orphans if path.exists()),
        missing=tuple(missing),
        altered=tuple(altered),
        overdue=_overdue(ledger),
        undriven=(*stalled_runs(ledger), *left_runs(ledger)),
    )


def _segments(ledger: Ledger) -> list[Named]:
    with ledger.read() as connection:
        return named_segments(connection)


def _compared(ledger: Ledger, named: list[Named]) -> tuple[list[str], list[str]]:
    troubles = [(segment.path, trouble_with(ledger, segment)) for segment in named]
    missing = [path for path, trouble in troubles if trouble == "missing"]
    return missing, [path for path, trouble in troubles if trouble == "altered"]


def _orphans(ledger: Ledger) -> list[Path]:
    files = [*ledger.results.rglob("*.parquet"), *ledger.results.rglob(".tmp-*")]
    oldest = time.time() - ORPHAN_SECONDS
    with ledger.read() as connection:  # after the files: those come first
        known = {ledger.results / path for path in connection.scalars(select(segments.c.path))}  # replaced ones, too
    return sorted(path for path in files if path not in known and path.exists() and path.stat().st_mtime <= oldest)


def _overdue(ledger: Ledger) -> tuple[Overdue, ...]:
    found: dict[str, list[float]] = {}
    with ledger.read() as connection:
        late = (now() - leases.c.deadline).label("late")
        query = select(leases.c.run, late).where(leases.c.state == "live", late > OVERDUE_SECONDS)
        for run, seconds in connection.execute(query.order_by(leases.c.run)):
            found.setdefault(run, []).append(seconds)
    return tuple(Overdue(run, len(all_late), max(all_late)) for run, all_late in found.items())
