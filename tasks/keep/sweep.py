"""Remove the files of segments that no record names any more, or never did: garbage, never rows.

That is what a crash left half-made, and what was replaced long enough ago for every reader to have let go of it. A
reader keeps the list of files that it began with, so a replaced file stays for a grace.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from sqlalchemy import select

from blocks.copies import trim
from blocks.ledger import Ledger, now
from blocks.ledger.keep_schema import replacements
from blocks.ledger.schema import segments
from tasks.collect.segments import take_turn

ORPHAN_SECONDS = 3600.0
GRACE_SECONDS = 3600.0
"""How long a reader may go on with the files that counted when it began."""


def sweep_orphans(
    ledger: Ledger, *, older_than_seconds: float = ORPHAN_SECONDS, grace_seconds: float = GRACE_SECONDS
) -> list[Path]:
    """Remove files that no record names and nobody wrote to lately, and those replaced before the grace.

    Returns them, by their paths below the results folder, each once.
    """
    # The bucket is listed before the records are read: what is written from now on is not in the list.
    listed = _in_bucket(ledger, older_than_seconds)
    removed = set()
    with ledger.write() as connection:
        # A cutter checks under the same lock that its files are still there before it makes them count.
        take_turn(connection)
        gone = select(replacements.c.segment).where(replacements.c.replaced <= now() - grace_seconds)
        known = set(connection.scalars(select(segments.c.path).where(segments.c.digest.not_in(gone))))
        replaced = set(connection.scalars(select(segments.c.path).where(segments.c.digest.in_(gone))))
        for path in sorted([*ledger.results.rglob("*.parquet"), *ledger.results.rglob(".tmp-*")]):
            if _is_old(ledger, path, known, replaced, older_than_seconds):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                removed.add(path)
    for name in listed:
        relative = name.removeprefix("results/")
        # A slow writer gives up long before its file is as old as those in the list.
        if relative not in known and ledger.store.bucket is not None:
            ledger.store.bucket.delete(name)
            removed.add(ledger.results / relative)
    if ledger.store.bucket is not None:
        trim(ledger.results)
    return sorted(removed)


def _is_old(ledger: Ledger, path: Path, known: set[str], replaced: set[str], older_than_seconds: float) -> bool:
    relative = str(path.relative_to(ledger.results))
    if relative in known:
        return False
    try:
        return relative in replaced or path.stat().st_mtime <= time.time() - older_than_seconds
    except FileNotFoundError:
        return False  # in a folder that went just now


def _in_bucket(ledger: Ledger, older_than_seconds: float) -> list[str]:
    if ledger.store.bucket is None:
        return []
    oldest = time.time() - older_than_seconds
    return [found.name for found in ledger.store.bucket.names("results/") if found.modified <= oldest]
