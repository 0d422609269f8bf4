"""`commonfleet export-log DIR`: the log as static files, which any web server or bucket can hold.

    checkpoint                 the newest state, signed               (https://c2sp.org/tlog-tiles)
    witnessed                  the newest state with co-signatures
    tile/0/x001/234[.p/5]      hashes, 256 to a file
    tile/entries/x001/234      the events themselves, 256 to a file
    content/<sha256>           events that are too long for an entry

Only what is new is written. Files appear whole and never change; the checkpoint comes last, so that whoever reads it
finds all that it speaks of. An event that is not what its leaf says is never published: the export ends instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from blocks.disk import write_whole
from blocks.errors import LedgerError, TrustError
from blocks.ledger import Ledger, log
from blocks.ledger.entries import content_path, entry_of, pack, pointed_at
from blocks.ledger.log_schema import log_leaves
from blocks.ledger.merkle import HASH_BYTES, leaf_hash
from blocks.ledger.notes import parse_checkpoint, parse_note
from blocks.ledger.prepared import Query
from blocks.ledger.schema import events
from blocks.ledger.tiles import WIDTH, entries_path, hashes_of, new_tiles, tile_path
from tasks.publish.log.cosign import newest_cosigned, with_cosignatures
from tasks.publish.log.folder import CHECKPOINT, LARGEST_NOTE, WITNESSED, read_at_most


@dataclass(frozen=True)
class Exported:
    """What an export wrote: the log's size in the folder before and now, and the number of new tile files."""

    before: int
    size: int
    tiles: int


class _Body(NamedTuple):
    seq: int
    body: str


_BODIES = Query(
    select(events.c.seq, events.c.body)
    .join(log_leaves, log_leaves.c.seq == events.c.seq)
    .where(log_leaves.c.leaf >= bindparam("first"), log_leaves.c.leaf < bindparam("end"))
    .order_by(log_leaves.c.leaf),
    _Body,
)


def export_log(ledger: Ledger, folder: Path) -> Exported:
    """Bring the folder up to the newest checkpoint. Raises LedgerError where there is none yet.

    Raises TrustError where the folder holds another log, or a longer one, and where an event does not fit its leaf.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder), ledger.read() as connection:
        newest = log.latest_checkpoint(connection)
        if newest is None:
            raise LedgerError("No event has a leaf yet.", do="Sequence the events first.")
        _make_durable(ledger)
        before = _exported(connection, folder, newest)
        written = list(new_tiles(before, newest.size))
        tile = log.tiles_in(connection)
        for level, number, width in written:
            hashes = tile(level, number)[: width * HASH_BYTES]
            if level == 0:
                _write_entries(connection, folder, number, width, hashes)
            write_whole(folder / tile_path(level, number, width), hashes)
        witnessed = newest_cosigned(connection)
        if witnessed is not None:
            write_whole(folder / WITNESSED, with_cosignatures(connection, witnessed).encode())
        write_whole(folder / CHECKPOINT, with_cosignatures(connection, newest).encode())
    for level, number, width in written:
        if width == WIDTH:
            for path in (tile_path(level, number), *([entries_path(number)] if level == 0 else [])):
                shutil.rmtree(folder / f"{path}.p", ignore_errors=True)
    return Exported(before, newest.size, len(written))


def _exported(connection: Connection, folder: Path, newest: log.Signed) -> int:
    """The size of the log that the folder holds already, after a look that it is this one."""
    data = read_at_most(folder / CHECKPOINT, LARGEST_NOTE)
    if data is None:
        return 0
    there = parse_checkpoint(parse_note(data).text)
    known = log.checkpoint_at(connection, there.size)
    if there.size > newest.size or known is None or parse_checkpoint(parse_note(known.note.encode()).text) != there:
        raise TrustError(
            f"{folder} holds a log of {there.size:,} entries; this ledger's, of {newest.size:,}, does not continue it.",
            kept="Nothing there was changed.",
            do="Export to another folder; if the ledger was restored from a backup, restore a later one.",
        )
    return there.size


def _write_entries(connection: Connection, folder: Path, number: int, width: int, hashes: bytes) -> None:
    first = number * WIDTH
    rows = _BODIES.all(connection, first=first, end=first + width)
    entries = [entry_of(row.body.encode()) for row in rows]
    if [leaf_hash(entry) for entry in entries] != hashes_of(hashes):
        raise TrustError(
            f"An event among the leaves {first} to {first + width - 1} is not what was logged.",
            kept="What was published before is untouched.",
            do="`commonfleet verify` names it.",
        )
    for row, entry in zip(rows, entries, strict=True):
        event = pointed_at(entry)
        if event is not None and not (folder / content_path(event)).exists():
            write_whole(folder / content_path(event), row.body.encode())
    write_whole(folder / entries_path(number, width), pack(entries))


def _make_durable(ledger: Ledger) -> None:
    """See to it that a power cut cannot take back what is about to be published.

    SQLite in WAL mode with synchronous=NORMAL commits without fsync. A log that lost its end after it was published
    would go on differently: a fork, by accident, for which no verifier could forgive us.
    """
    if ledger.engine.dialect.name != "sqlite":
        return  # PostgreSQL answers a commit when it is on disk
    with contextlib.suppress(FileNotFoundError), open(f"{ledger.engine.url.database}-wal", "rb") as wal:
        os.fsync(wal.fileno())  # also what other processes wrote


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One export into a folder at a time: of two, the slower could put an older checkpoint over the newer."""
    with (folder / ".exporting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
