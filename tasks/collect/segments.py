"""Cut Parquet segments from admitted bundles, per (run, environment), by size and age.

The file comes first and the record second: a file without a row in `segments` is garbage that nobody reads, and a
bundle is marked with its segment in the same transaction that makes the segment count. So a crash at any point
loses no row and shows none twice, and of two cutters that took the same bundles one gives way.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, func, insert, select, text, tuple_, update

from blocks.canonical import digest_json
from blocks.errors import TrustError
from blocks.ledger import Ledger, now, record
from blocks.ledger.bundles import Bundle, origins, uncut
from blocks.ledger.files import SegmentFile, check_present, in_the_making, partition, placed, publish, withdraw
from blocks.ledger.rows import Origin, Rows, read_part
from blocks.ledger.schema import bundles, segments
from blocks.ledger.tables import metric_table, result_table

MIN_ROWS = 50_000
MAX_AGE_SECONDS = 60.0
ROW_GROUP = 20_000
EMPTY = "empty"
"""What stands in a bundle's `segment` when it had no row to put anywhere."""

_MOST_ROWS = 60_000  # of one file, so that memory stays flat however much waits
_MOST_BYTES = 96 << 20
_MOST_BUNDLES = 5_000
_LOOKED_UP = 200  # bundles whose origin is looked up in one go
_MARKED = 500  # bundles marked by one statement
_ROUNDS = 5  # a cutter that lost a race looks again this often
_TURN = 7310580  # PostgreSQL's advisory lock of cutters and sweepers


class Overtaken(Exception):
    """Another one did the same work first."""


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
                except Overtaken:
                    overtaken = True
                    break
                del taken, rows  # before the next batch is read, not after
        if not overtaken:
            break
    if troubles:
        raise TrustError(
            " ".join(error.what for error in troubles.values()),
            kept=f"{made} segments were cut from the bundles that are sound.",
            do="Restore the store from a backup; the rows of these bundles are missing from every query until then.",
        )
    return made


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
        waiting = [bundle for bundle in uncut(connection, [group[0]], group[1]) if bundle.digest not in troubles]
    taken: list[Bundle] = []
    rows = Rows()
    for bundle, origin in _with_origin(ledger, waiting):
        try:
            if bundle.rows:
                rows.add(read_part(ledger.store, bundle.digest), origin)
        except TrustError as error:
            troubles[bundle.digest] = error
            continue
        taken.append(bundle)
        if rows.results + rows.metrics >= _MOST_ROWS or rows.size >= _MOST_BYTES or len(taken) >= _MOST_BUNDLES:
            yield taken, rows
            taken, rows = [], Rows()
    if taken:
        yield taken, rows


def _with_origin(ledger: Ledger, waiting: Sequence[Bundle]) -> Iterator[tuple[Bundle, Origin]]:
    for start in range(0, len(waiting), _LOOKED_UP):
        some = waiting[start : start + _LOOKED_UP]
        with ledger.read() as connection:
            known = list(origins(connection, some))
        yield from zip(some, known, strict=True)


# -- cutting -------------------------------------------------------------------------------------------------------


def _cut(ledger: Ledger, group: tuple[str, str], taken: Sequence[Bundle], rows: Rows) -> int:
    """Write the files of one batch and make them count. Raises Overtaken when another cutter was faster."""
    files = [
        _write(ledger.results, group, kind, table)
        for kind, table in (("results", result_table(rows)), ("metrics", metric_table(rows)))
        if table.num_rows
    ]
    try:
        for file in files:
            publish(ledger, file)
        with ledger.write() as connection:
            take_turn(connection)
            _commit(connection, ledger.results, group, taken, files)
    except BaseException:
        for file in files:
            withdraw(ledger, file)
        raise
    return len(files)


def _commit(
    connection: Connection, results: Path, group: tuple[str, str], taken: Sequence[Bundle], files: Sequence[SegmentFile]
) -> None:
    marked = _mark(connection, taken, files[0].digest if files else EMPTY)
    if marked != len(taken):
        raise Overtaken
    run, environment = group
    for file in files:
        check_present(file)
        relative = str(file.path.relative_to(results))
        connection.execute(
            insert(segments).values(
                digest=file.digest, run=run, environment=environment, kind=file.kind, path=relative,
                rows=file.rows, bytes=file.bytes, created=now(),
            )
        )  # fmt: skip
        record(
            connection,
            "segment.cut",
            run=run,
            environment=environment,
            content=file.kind,
            digest=file.digest,
            path=relative,
            rows=file.rows,
            bundles=len(taken),
            bundles_digest=digest_json(sorted(bundle.digest for bundle in taken)),
        )


def _mark(connection: Connection, taken: Sequence[Bundle], segment: str) -> int:
    """Compare-and-set of each bundle's segment from nothing; returns how many were still free."""
    marked = 0
    key = tuple_(bundles.c.lease, bundles.c.part)
    for start in range(0, len(taken), _MARKED):
        some = [(bundle.lease, bundle.part) for bundle in taken[start : start + _MARKED]]
        free = update(bundles).where(key.in_(some), bundles.c.segment.is_(None)).values(segment=segment)
        marked += connection.execute(free).rowcount
    return marked


def _write(results: Path, group: tuple[str, str], kind: str, table: pa.Table) -> SegmentFile:
    """Write a table durably below `results`, under the name of its digest."""
    run, environment = group
    folder = results / partition(kind=kind, run=run, environment=environment)
    with in_the_making(results, folder) as temporary:
        # Without Arrow's own schema the coded columns are plain text to every reader.
        with pq.ParquetWriter(
            temporary, table.schema, compression="zstd", store_schema=False, write_page_index=True
        ) as writer:
            writer.write_table(table, row_group_size=ROW_GROUP)
            # Two cutters with the same bundles must not make the same file: the slower one removes its own.
            writer.add_key_value_metadata({"commonfleet.cut": uuid.uuid4().hex})
        return placed(temporary, folder, kind, table.num_rows)


def take_turn(connection: Connection) -> None:
    """One cutter or sweeper commits at a time. (On SQLite, `Ledger.write` already sees to that.)"""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})
