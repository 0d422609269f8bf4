"""Cut Parquet segments from admitted bundles, per (run, environment), by size and age.

The file comes first and the record second: a file without a row in `segments` is garbage that nobody reads, and a
bundle is marked with its segment in the same transaction that makes the segment count. So a crash at any point
loses no row and shows none twice, and of two cutters that took the same bundles one gives way.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, func, insert, select, text, tuple_, update

from blocks.canonical import digest_file, digest_json
from blocks.errors import LedgerError, TrustError
from blocks.ledger import Ledger, now, record
from blocks.ledger.bundles import Bundle, origins, readable, uncut
from blocks.ledger.rows import Rows, plain_text
from blocks.ledger.schema import bundles, segments

MIN_ROWS = 50_000
MAX_AGE_SECONDS = 60.0
ROW_GROUP = 20_000
EMPTY = "empty"
"""What stands in a bundle's `segment` when it had no row to put anywhere."""

_MOST_ROWS = 250_000  # of one file, so that memory stays flat however much waits
_MOST_BYTES = 96 << 20
_MOST_BUNDLES = 5_000
_ROUNDS = 5  # a cutter that lost a race looks again this often
_TURN = 7310580  # PostgreSQL's advisory lock of cutters and sweepers


@dataclass(frozen=True)
class SegmentFile:
    """A segment on disk that no record names yet."""

    kind: str
    path: Path
    digest: str
    rows: int
    bytes: int


class _Overtaken(Exception):  # noqa: N818 - no error: another cutter was faster
    """Another cutter took one of these bundles."""


def cut_segments(
    ledger: Ledger,
    *,
    run: str | None = None,
    min_rows: int = MIN_ROWS,
    max_age_seconds: float = MAX_AGE_SECONDS,
    everything: bool = False,
) -> int:
    """Cut what is due: groups of at least `min_rows` rows or with a bundle older than `max_age_seconds`.

    `everything` cuts all that waits (of `run`, where given). Returns the number of segments made. A bundle that
    cannot be trusted stays uncut: the rest goes on, then TrustError names each of them.
    """
    made = 0
    troubles: dict[str, TrustError] = {}
    for _ in range(_ROUNDS):
        overtaken = False
        for group in _due(ledger, run, 0 if everything else min_rows, max_age_seconds):
            for taken, rows in _batches(ledger, group, troubles):
                try:
                    made += _cut(ledger, group, taken, rows)
                except _Overtaken:
                    overtaken = True
                    break
        if not overtaken:
            break
    if troubles:
        raise TrustError(
            " ".join(error.what for error in troubles.values()),
            kept=f"{made} segments were cut from the bundles that are sound.",
            do="Restore the store from a backup; the rows of these bundles are missing from every query until then.",
        )
    return made


def sweep_orphans(ledger: Ledger, *, older_than_seconds: float = 3600.0) -> list[Path]:
    """Remove files below the results folder that no record names and nobody wrote to lately; returns them."""
    removed = []
    oldest = time.time() - older_than_seconds
    with ledger.write() as connection:
        # A cutter checks under the same lock that its files are still there before it makes them count.
        _take_turn(connection)
        known = set(connection.scalars(select(segments.c.path)))
        for path in sorted([*ledger.results.rglob("*.parquet"), *ledger.results.rglob(".tmp-*")]):
            if str(path.relative_to(ledger.results)) not in known and path.stat().st_mtime <= oldest:
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


# -- choosing ------------------------------------------------------------------------------------------------------


def _due(ledger: Ledger, run: str | None, min_rows: int, max_age_seconds: float) -> list[tuple[str, str]]:
    """(run, environment) pairs with enough, or old enough, rows."""
    query = (
        select(bundles.c.run, bundles.c.environment)
        .where(bundles.c.segment.is_(None))
        .group_by(bundles.c.run, bundles.c.environment)
        .having((func.sum(bundles.c.rows) >= min_rows) | (now() - func.min(bundles.c.admitted) >= max_age_seconds))
        .order_by(bundles.c.run, bundles.c.environment)
    )
    if run is not None:
        query = query.where(bundles.c.run == run)
    with ledger.read() as connection:
        return [(row.run, row.environment) for row in connection.execute(query)]


def _batches(
    ledger: Ledger, group: tuple[str, str], troubles: dict[str, TrustError]
) -> Iterator[tuple[list[Bundle], Rows]]:
    """The waiting bundles of a group with their rows, as much at a time as one file should hold."""
    with ledger.read() as connection:
        waiting = [bundle for bundle in uncut(connection, *group) if bundle.digest not in troubles]
    taken: list[Bundle] = []
    rows = Rows()
    for bundle in waiting:
        if not _take(ledger, bundle, rows, troubles):
            continue
        taken.append(bundle)
        if rows.results + rows.metrics >= _MOST_ROWS or rows.size >= _MOST_BYTES or len(taken) >= _MOST_BUNDLES:
            yield taken, rows
            taken, rows = [], Rows()
    if taken:
        yield taken, rows
