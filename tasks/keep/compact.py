"""Compact segments: many files of a week and an environment become one, sorted by test.

A test's history then lies in a few row groups, and a question over weeks opens a few files. Nothing waits for it: the
new file is written beside the old ones, and one transaction says that it counts in their place. The old ones go after
a grace (`sweep.py`), because readers that began before still read them. A crash leaves a file that nobody reads.

What goes in is checked against its digest first, so that a damaged file is told and never sorted into a sound one.
The rows come out as they went in, each with its bundle: a bundle's root can be computed from them
(`blocks/ledger/roots.py`).
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
from sqlalchemy import Connection, insert, select, update

from blocks.errors import LedgerError, TrustError
from blocks.ledger import Ledger, clock, record
from blocks.ledger.files import (
    REPLACED,
    Segment,
    SegmentFile,
    at_hand,
    check_file,
    check_present,
    counting,
    in_the_making,
    partition,
    placed,
    publish,
    withdraw,
)
from blocks.ledger.keep_schema import replacements, segment_runs
from blocks.ledger.schema import bundles, segments
from tasks.collect.segments import Overtaken, take_turn

MEMORY = "1GB"
"""What sorting may use; more is spilled to the disk."""

ROW_GROUP = 122_880
"""Rows. Six times those of a cut file: a reader of a large file spends its time on the table of its groups, and what is
sorted by test packs better in larger ones (half the bytes, measured with five million rows)."""

_ORDER = {"results": "test_id, started, attempt", "metrics": "model, metric, variant, started, attempt"}
_AT_ONCE = 500  # names in one statement


@dataclass(frozen=True)
class Limits:
    """When a group of small files is due, and how large a file may become."""

    files: int = 8
    rows: int = 1_000_000
    age_seconds: float = 86_400.0
    """Any of these is enough: so many files, or beside the largest so many rows, or one so old."""

    most_rows: int = 5_000_000
    """Of one file. One with half as many rows, or more, is left as it is."""

    most_files: int = 1_000
    """Compacted at once."""


def compact(ledger: Ledger, limits: Limits | None = None) -> list[str]:
    """Compact what is due; returns the digests of the files made. While another compactor is at work, none.

    A file that cannot be trusted is left out: the rest goes on, then TrustError names each of them.
    """
    made: list[str] = []
    troubles: dict[str, TrustError] = {}
    with alone(ledger.results) as only:
        while only and (group := _due(ledger, limits or Limits(), troubles)):
            sound = [segment for segment in group if _is_sound(ledger, segment, troubles)]
            if len(sound) < 2:
                troubles.update((s.digest, troubles.get(s.digest, _ONE_LEFT)) for s in group)
                continue
            try:
                made.append(_compacted(ledger, sound))
            except Overtaken:
                break
    told = [error for error in troubles.values() if error is not _ONE_LEFT]
    if told:
        raise TrustError(
            " ".join(error.what for error in told),
            kept=f"{len(made)} files were made of those that are sound; these were left as they are.",
            do=told[0].do,
        )
    return made


_ONE_LEFT = TrustError("Beside it nothing sound is left to put it together with.")


# -- choosing ------------------------------------------------------------------------------------------------------


def _due(ledger: Ledger, limits: Limits, troubles: dict[str, TrustError]) -> list[Segment]:
    """The next group to put together: of one kind, environment and week; empty where none is due."""
    with ledger.read() as connection:
        at = clock(connection)
        live = counting(connection, kinds=tuple(_ORDER))
    groups: dict[tuple[str, str, str], list[Segment]] = defaultdict(list)
    for segment in live:
        if segment.rows * 2 < limits.most_rows and segment.digest not in troubles:
            groups[segment.kind, week_of(segment.created), segment.environment].append(segment)
    for _, small in sorted(groups.items()):
        # The largest is mostly what was compacted before: it is written again when enough has come beside it.
        fresh = sorted(small, key=lambda segment: segment.rows)[:-1]
        old = bool(fresh) and at - min(segment.created for segment in fresh) >= limits.age_seconds
        if fresh and (len(small) >= limits.files or old or sum(s.rows for s in fresh) >= limits.rows):
            return _as_much_as_fits(small, limits)
    return []


def _as_much_as_fits(small: Sequence[Segment], limits: Limits) -> list[Segment]:
    taken: list[Segment] = []
    rows = 0
    for segment in small[: limits.most_files]:
        if taken[1:] and rows + segment.rows > limits.most_rows:
            break
        taken.append(segment)
        rows += segment.rows
    return taken


def week_of(seconds: float) -> str:
    """The ISO week of a time, UTC, such as `2026-W47`."""
    year, week, _ = datetime.datetime.fromtimestamp(seconds, datetime.UTC).isocalendar()
    return f"{year}-W{week:02}"


def _is_sound(ledger: Ledger, segment: Segment, troubles: dict[str, TrustError]) -> bool:
    try:
        check_file(ledger, segment)
    except TrustError as error:
        troubles[segment.digest] = error
        return False
    return True


@contextlib.contextmanager
def alone(results: Path) -> Iterator[bool]:
    """Whether no other process of this host compacts now. (On several hosts, the records keep them apart.)"""
    with (results / ".compacting").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


# -- compacting ----------------------------------------------------------------------------------------------------


def _compacted(ledger: Ledger, group: Sequence[Segment]) -> str:
    """Write one file of the group's rows and have it count in their place. Raises Overtaken."""
    first = group[0]
    folder = ledger.results / partition(kind=first.kind, week=week_of(first.created), environment=first.environment)
    file = _sorted(ledger.results, folder, first.kind, at_hand(ledger, group))
    try:
        if file.rows != sum(segment.rows for segment in group):
            raise LedgerError(f"{file.path} has {file.rows} rows and should have those of its {len(group)} sources.")
        publish(ledger, file)
        with ledger.write() as connection:
            take_turn(connection)
            check_present(file)
            runs = replace(connection, ledger, group, file)
            record(
                connection,
                "segment.compacted",
                environment=first.environment,
                content=first.kind,
                digest=file.digest,
                path=str(file.path.relative_to(ledger.results)),
                rows=file.rows,
                runs=len(runs),
                replaced=[{"digest": segment.digest, "rows": segment.rows} for segment in group],
            )
    except BaseException:
        withdraw(ledger, file)
        raise
    return file.digest


def replace(connection: Connection, ledger: Ledger, group: Sequence[Segment], file: SegmentFile) -> set[str]:
    """Have `file` count in the place of the group, in the caller's transaction; returns the runs that it has rows of.

    Raises Overtaken where one of the group does not count any more.
    """
    digests = [segment.digest for segment in group]
    at = clock(connection)
    counted: set[str] = set()
    runs = {segment.run for segment in group if segment.run}
    for start in range(0, len(digests), _AT_ONCE):
        some = digests[start : start + _AT_ONCE]
        counted |= set(connection.scalars(select(segments.c.digest).where(segments.c.digest.in_(some), ~REPLACED)))
        runs |= set(connection.scalars(select(segment_runs.c.run).where(segment_runs.c.segment.in_(some))))
        connection.execute(update(bundles).where(bundles.c.segment.in_(some)).values(segment=file.digest))
    if len(counted) != len(digests):
        raise Overtaken
    single = len(runs) == 1 and file.kind != "daily"
    connection.execute(
        insert(segments).values(
            digest=file.digest, run=next(iter(runs)) if single else "", environment=group[0].environment,
            kind=file.kind, path=str(file.path.relative_to(ledger.results)), rows=file.rows, bytes=file.bytes,
            created=group[0].created,
        )
    )  # fmt: skip
    if file.kind != "daily":  # which has nothing of a single run any more
        connection.execute(insert(segment_runs), [{"segment": file.digest, "run": run} for run in sorted(runs)])
    gone = [{"segment": digest, "by": file.digest, "replaced": at} for digest in digests]
    connection.execute(insert(replacements), gone)
    return runs


def _sorted(results: Path, folder: Path, kind: str, files: Sequence[Path]) -> SegmentFile:
    """One file with the rows of `files`, sorted."""
    names = ", ".join(f'"{name}"' for name in pq.read_schema(files[0]).names)
    source = f"SELECT {names} FROM read_parquet($files, hive_partitioning = false) ORDER BY {_ORDER[kind]}"
    return written(results, folder, kind, source, files)


def written(results: Path, folder: Path, kind: str, source: str, files: Sequence[Path]) -> SegmentFile:
    """Write the rows of the SELECT `source` over `$files` to a file in `folder` below `results`, with bounded memory.

    Raises LedgerError, and leaves nothing then.
    """
    # The mark keeps two compactors with the same sources from making the same file: the loser removes its own.
    form = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}, KV_METADATA {{cut: '{uuid.uuid4().hex}'}}"
    listed = "[" + ", ".join(_quoted(str(file)) for file in files) + "]"
    with in_the_making(results, folder) as temporary:
        spill = temporary.with_name(temporary.name + "-spill")
        try:
            with contextlib.closing(duckdb.connect(":memory:")) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                connection.execute(f"SET memory_limit = '{MEMORY}'")
                connection.execute(f"SET temp_directory = {_quoted(str(spill))}")
                select_ = source.replace("$files", listed)
                connection.execute(f"COPY ({select_}) TO {_quoted(str(temporary))} ({form})")
        except duckdb.Error as error:
            raise LedgerError(
                f"The segments could not be put together: {str(error).strip().splitlines()[0]}",
                kept="They stay as they were, and every query answers.",
                do="See `commonfleet doctor`; free some space if the disk is full.",
            ) from error
        finally:
            shutil.rmtree(spill, ignore_errors=True)
        return placed(temporary, folder, kind, pq.read_metadata(temporary).num_rows)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
