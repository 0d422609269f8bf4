"""The files of segments: which of them count, and where they are.

A segment's file is written below `Ledger.results`. With a store in a bucket it is put there too, under the same path
below `results/`, and what stands in the folder is then a copy that may go and is brought again, checked by its digest.
"""

from __future__ import annotations

import contextlib
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, exists, select

from blocks.canonical import digest_file
from blocks.copies import touched, trim
from blocks.disk import durable, writing_below
from blocks.errors import LedgerError, TrustError
from blocks.ledger.database import Ledger
from blocks.ledger.keep_schema import replacements, segment_runs
from blocks.ledger.schema import segments
from blocks.store import bring

SLOWEST_SECONDS = 1200.0
"""How long after it was written a file may still be made to count. (What nobody named for an hour is swept.)"""


@dataclass(frozen=True)
class Segment:
    """A segment that counts: a row of `segments`. `run` is empty where it has rows of several."""

    digest: str
    run: str
    environment: str
    kind: str
    path: str
    rows: int
    bytes: int
    created: float


@dataclass(frozen=True)
class SegmentFile:
    """A file that no record names yet."""

    kind: str
    path: Path
    digest: str
    rows: int
    bytes: int
    written: float = field(default_factory=time.monotonic)


REPLACED = exists().where(replacements.c.segment == segments.c.digest)


def counting(
    connection: Connection, runs: Sequence[str] | None = None, kinds: Sequence[str] | None = None
) -> list[Segment]:
    """The segments that count, in the order they were made; with `runs` only those that have rows of these runs."""
    columns = [segments.c[name] for name in Segment.__dataclass_fields__]
    query = select(*columns).where(~REPLACED).order_by(segments.c.created, segments.c.digest)
    if kinds is not None:
        query = query.where(segments.c.kind.in_(kinds))
    if runs is not None:
        shared = select(segment_runs.c.segment).where(segment_runs.c.run.in_(runs))
        query = query.where(segments.c.run.in_(runs) | segments.c.digest.in_(shared))
    return [Segment(*row) for row in connection.execute(query)]


def at_hand(ledger: Ledger, wanted: Sequence[Segment]) -> list[Path]:
    """The files of these segments on this machine, brought from the bucket where they are not here.

    Raises TrustError where the bucket has lost or changed one. A file that is here is not hashed again.
    """
    paths = []
    for segment in wanted:
        path = ledger.results / segment.path
        if ledger.store.bucket is not None and not touched(path):
            _bring(ledger, segment, path)
        paths.append(path)
    return paths


def digest_now(ledger: Ledger, path: str) -> str | None:
    """What the segment at `path` hashes to where it is kept (a bucket, if there is one). None: not there."""
    if ledger.store.bucket is not None:
        return ledger.store.bucket.digest(f"results/{path}")
    file = ledger.results / path
    return digest_file(file) if file.is_file() else None


def check_file(ledger: Ledger, segment: Segment) -> None:
    """Raises TrustError where the segment's file is not there or not what the records say it is."""
    (path,) = at_hand(ledger, [segment])
    if not path.exists() or digest_file(path) != segment.digest:
        missing = "is missing" if not path.exists() else "does not have its digest any more"
        raise TrustError(
            f"The segment {segment.path} {missing}.",
            do="Restore it from a backup; or, while its raw bundles are kept, cut it again from them.",
        )


def placed(temporary: Path, folder: Path, kind: str, rows: int) -> SegmentFile:
    """Give a file that was just written its name, which is its digest, durably."""
    digest = digest_file(temporary)
    durable(temporary)
    size = temporary.stat().st_size
    final = folder / f"{digest.removeprefix('sha256:')}.parquet"
    temporary.rename(final)
    durable(folder)
    return SegmentFile(kind, final, digest, rows, size)


@contextlib.contextmanager
def in_the_making(results: Path, folder: Path) -> Iterator[Path]:
    """A name for a file to write in `folder` below `results`, which a sweep knows as such.

    At the end of the block the file is gone, unless it was renamed. Raises LedgerError where the disk refuses.
    """
    temporary = folder / f".tmp-{uuid.uuid4().hex}"
    try:
        with writing_below(results):
            folder.mkdir(parents=True, exist_ok=True)
            yield temporary
    finally:
        with contextlib.suppress(OSError):  # the trouble itself is on its way
            temporary.unlink(missing_ok=True)


def publish(ledger: Ledger, file: SegmentFile) -> None:
    """Have the file where every machine finds it. Nothing to do where the folder is that place."""
    if ledger.store.bucket is not None:
        ledger.store.bucket.put(_name(ledger, file.path), file.path)


def withdraw(ledger: Ledger, file: SegmentFile) -> None:
    """Remove a file that will not count. It stays where that is not certain: a commit's answer may have been lost."""
    try:
        with ledger.read() as connection:
            if connection.scalar(select(segments.c.digest).where(segments.c.digest == file.digest)):
                return
    except LedgerError:
        return  # a sweep will know
    file.path.unlink(missing_ok=True)
    if ledger.store.bucket is not None:
        ledger.store.bucket.delete(_name(ledger, file.path))


def check_present(file: SegmentFile) -> None:
    """Raises LedgerError for a file that may have been swept since it was written. Asked before it is made to count."""
    if not file.path.exists():
        raise LedgerError(f"The segment {file.path} vanished before it counted.", kept="Its bundles stay uncut.")
    if time.monotonic() - file.written > SLOWEST_SECONDS:
        raise LedgerError(
            f"The segment {file.path} was written too long ago to count now.", kept="Nothing was changed."
        )


def partition(**names: str) -> Path:
    """A folder such as `kind=results/run=r-1`. What is not a letter, digit, `.`, `_` or `-` is written as %XX."""
    return Path(*(f"{key}={_safe(value)}" for key, value in names.items()))


def _bring(ledger: Ledger, segment: Segment, path: Path) -> None:
    bucket = ledger.store.bucket
    assert bucket is not None
    with in_the_making(ledger.results, path.parent) as temporary:
        if not bring(bucket, _name(ledger, path), segment.digest, temporary):
            raise TrustError(
                f"The segment {segment.path} is not in {bucket.url} any more.", do="Restore it from a backup."
            )
        temporary.rename(path)
    trim(ledger.results, brought=segment.bytes)


def _name(ledger: Ledger, path: Path) -> str:
    return f"results/{path.relative_to(ledger.results)}"


def _safe(name: str) -> str:
    quoted = urllib.parse.quote(name, safe="")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")
