"""Letting go of what is old, by class: raw bundles first, then rows, and never what was summed up of them by day.

Each is said before it is done. Raw bundles go only while the segments of their runs are sound, so that their rows are
not lost with them; the event `bundles.dropped` holds the digest over their digests. Rows go when a file with their days
counts in their place, in one transaction, as in compaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, exists, insert, select

from blocks.canonical import digest_json
from blocks.errors import TrustError
from blocks.ledger import Ledger, clock, now, record
from blocks.ledger.daily import AGGREGATE
from blocks.ledger.files import Segment, at_hand, check_file, check_present, counting, partition, publish, withdraw
from blocks.ledger.keep_schema import dropped_bundles
from blocks.ledger.schema import bundles
from tasks.collect.segments import Overtaken, take_turn
from tasks.keep.compact import alone, replace, week_of, written

DAY = 86_400.0


@dataclass(frozen=True)
class Retention:
    """How long each class of data is kept. Figures of benchmarks and the sums by day are kept for ever."""

    raw_days: float = 90.0
    """Signed bundles, with the whole output of their units."""

    rows_days: float = 400.0
    """Rows of results, one for each test of each attempt; after that there are their days."""

    at_once: int = 2_000
    """Bundles that one event tells of."""


def drop_raw(ledger: Ledger, retention: Retention | None = None) -> int:
    """Drop raw bundles whose time is over; returns how many. One whose rows stand in no sound segment stays.

    Raises TrustError at the end where a segment that should hold their rows is damaged.
    """
    chosen = retention or Retention()
    _finish(ledger)
    dropped = 0
    troubles: dict[str, TrustError] = {}
    while old := _old(ledger, chosen, set(troubles)):
        bad = _damaged(ledger, {row.run for row in old} - set(troubles))
        troubles |= bad
        sound = [row for row in old if row.run not in bad]
        if sound:
            _say(ledger, sound)
            for digest in sorted(row.digest for row in sound):
                ledger.store.discard(digest)
            dropped += len(sound)
    if troubles:
        raise TrustError(
            " ".join(sorted({error.what for error in troubles.values()})),
            kept="The raw bundles of the runs concerned were kept.",
            do="Restore the file from a backup, or cut it again from the raw bundles.",
        )
    return dropped


def sum_up(ledger: Ledger, retention: Retention | None = None) -> list[str]:
    """Let rows whose time is over be replaced by their days; returns the digests of the files made."""
    chosen = retention or Retention()
    made: list[str] = []
    damaged: list[TrustError] = []
    with alone(ledger.results) as only:
        for group in _aged(ledger, chosen) if only else ():
            try:
                for segment in group:
                    check_file(ledger, segment)
                made.append(_summed(ledger, group))
            except TrustError as error:
                damaged.append(error)  # its group stays as it is
            except Overtaken:
                break
    if damaged:
        raise damaged[0]
    return made


# -- raw bundles ---------------------------------------------------------------------------------------------------


def _old(ledger: Ledger, retention: Retention, left_alone: set[str]) -> Sequence[Row[Any]]:
    """The oldest bundles that may go: cut, admitted long ago, not gone yet."""
    gone = exists().where(dropped_bundles.c.digest == bundles.c.digest)
    query = (
        select(bundles.c.digest, bundles.c.run, bundles.c.rows, bundles.c.bytes, bundles.c.admitted)
        .where(bundles.c.segment.is_not(None), bundles.c.admitted < now() - retention.raw_days * DAY, ~gone)
        .order_by(bundles.c.admitted, bundles.c.digest)
        .limit(retention.at_once)
    )
    if left_alone:
        query = query.where(bundles.c.run.not_in(left_alone))
    with ledger.read() as connection:
        return connection.execute(query).all()


def _damaged(ledger: Ledger, runs: set[str]) -> dict[str, TrustError]:
    """run -> what is wrong with a segment that has rows of it."""
    found: dict[str, TrustError] = {}
    for run in sorted(runs):
        with ledger.read() as connection:
            holding = counting(connection, [run])
        try:
            for segment in holding:
                check_file(ledger, segment)
        except TrustError as error:
            found[run] = error
    return found


def _say(ledger: Ledger, gone: Sequence[Row[Any]]) -> None:
    digests = sorted(row.digest for row in gone)
    over_all = digest_json(digests)
    with ledger.write() as connection:
        at = clock(connection)
        rows = [{"digest": digest, "drop": over_all, "dropped": at} for digest in digests]
        connection.execute(insert(dropped_bundles), rows)
        record(
            connection,
            "bundles.dropped",
            digests=over_all,
            bundles=len(gone),
            rows=sum(row.rows for row in gone),
            bytes=sum(row.bytes for row in gone),
            admitted=[min(row.admitted for row in gone), max(row.admitted for row in gone)],
        )


def _finish(ledger: Ledger) -> None:
    """Remove what the last drop said is gone, if a crash came between. The last digest goes last."""
    with ledger.read() as connection:
        latest = select(dropped_bundles.c.drop).order_by(dropped_bundles.c.dropped.desc()).limit(1).scalar_subquery()
        digests = sorted(connection.scalars(select(dropped_bundles.c.digest).where(dropped_bundles.c.drop == latest)))
    if digests and ledger.store.has(digests[-1]):
        for digest in digests:
            ledger.store.discard(digest)


# -- rows ----------------------------------------------------------------------------------------------------------


def _aged(ledger: Ledger, retention: Retention) -> list[list[Segment]]:
    """The segments of results that are old enough, by week and environment."""
    with ledger.read() as connection:
        oldest = clock(connection) - retention.rows_days * DAY
        rows = counting(connection, kinds=["results"])
    groups: dict[tuple[str, str], list[Segment]] = defaultdict(list)
    for segment in rows:
        groups[week_of(segment.created), segment.environment].append(segment)
    return [group for _, group in sorted(groups.items()) if max(segment.created for segment in group) < oldest]


def _summed(ledger: Ledger, group: Sequence[Segment]) -> str:
    first = group[0]
    folder = ledger.results / partition(kind="daily", week=week_of(first.created), environment=first.environment)
    source = "read_parquet($files, hive_partitioning = false)"
    query = f"{AGGREGATE.format(rows=source)} ORDER BY test_id, day"
    file = written(ledger.results, folder, "daily", query, at_hand(ledger, group))
    try:
        publish(ledger, file)
        with ledger.write() as connection:
            take_turn(connection)
            check_present(file)
            replace(connection, ledger, group, file)
            record(
                connection,
                "rows.summed_up",
                environment=first.environment,
                week=week_of(first.created),
                digest=file.digest,
                path=str(file.path.relative_to(ledger.results)),
                days=file.rows,
                replaced=[{"digest": segment.digest, "rows": segment.rows} for segment in group],
            )
    except BaseException:
        withdraw(ledger, file)
        raise
    return file.digest
