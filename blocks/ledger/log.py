"""The Merkle log as it is stored: what waits for a leaf, appending, checkpoints and proofs.

Events are ordered by what has no leaf yet, never by "a higher number than the last": on PostgreSQL a transaction may
take number 7, another write and commit number 8, and 7 appear after 8 has its leaf. Which numbers can no longer appear
is settled by `Head.moved`, so that the search for events without a leaf stays short however long the log is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, case, func, insert, null, select, text, update
from sqlalchemy.exc import IntegrityError

from blocks.canonical import canonical_json, digest_bytes
from blocks.errors import LedgerError, StaleSequencer
from blocks.ledger.entries import LONGEST, entry_of, pointer
from blocks.ledger.log_schema import log_checkpoints, log_head, log_leaves, log_tiles
from blocks.ledger.merkle import consistency_proof, inclusion_proof, leaf_hash
from blocks.ledger.prepared import Change, Query
from blocks.ledger.schema import events
from blocks.ledger.tiles import Growth, ReadTile, nodes_in, widths


@dataclass(frozen=True)
class Head:
    """Where the log ends, and up to where no event can be without a leaf."""

    origin: str
    size: int = 0
    floor: int = 0
    mark: int = 0
    writers: tuple[str, ...] = ()

    def moved(self, size: int, last: int, all_seen: bool, before: Collection[str], after: Sequence[str]) -> Head:
        """The head after appending up to `size`, `last` being the highest number of an event that was appended.

        `before` and `after` are the transactions that were writing events before and after the look at what waits;
        `all_seen` says that this look left nothing out. Numbers are handed out one by one, so that one below `last`
        that was not seen belongs to one of `after`, was rolled back, or has appeared since. Once all of those have
        ended, a look that comes after that settles it: it finds what will ever be there.
        """
        settled = (all_seen or last >= self.mark) and not set(self.writers) & set(before)
        if not settled:
            return replace(self, size=size)
        return Head(self.origin, size, self.mark, max(self.mark, last), tuple(after))


class Waiting(NamedTuple):
    """An event without a leaf. `body` is None where it is too long to be an entry."""

    seq: int
    id: str
    body: str | None

    @property
    def leaf(self) -> bytes:
        return leaf_hash(pointer(self.id) if self.body is None else entry_of(octets(self.body)))


class Signed(NamedTuple):
    """A checkpoint that was signed; `at` is when, in seconds since the epoch."""

    size: int
    root: bytes
    note: str
    at: float


class _Head(NamedTuple):
    origin: str
    size: int
    floor: int
    mark: int
    writers: str


class _Tile(NamedTuple):
    hashes: bytes


class _Body(NamedTuple):
    body: str


class _Writer(NamedTuple):
    transaction: str


_HEAD = Query(select(*(log_head.c[name] for name in _Head._fields)), _Head)
_TILE = Query(
    select(log_tiles.c.hashes).where(
        log_tiles.c.level == bindparam("level"), log_tiles.c.number == bindparam("number")
    ),
    _Tile,
)
_BODY = case((func.length(events.c.body) <= LONGEST, events.c.body), else_=null())
_WAITING = Query(
    select(events.c.seq, events.c.id, _BODY)
    .select_from(events.outerjoin(log_leaves, log_leaves.c.seq == events.c.seq))
    .where(events.c.seq > bindparam("floor"), log_leaves.c.seq.is_(None))
    .order_by(events.c.seq)
    .limit(bindparam("most")),
    Waiting,
)
_WHOLE = Query(select(events.c.body).where(events.c.seq == bindparam("wanted")), _Body)
# An INSERT holds this lock from before it takes its number until its transaction ends.
_WRITERS = Query(
    text(
        "SELECT DISTINCT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' "
        "AND relation = 'events'::regclass AND granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ),
    _Writer,
)
_SIGNED = select(*(log_checkpoints.c[name] for name in Signed._fields))
_LATEST = Query(_SIGNED.order_by(log_checkpoints.c.size.desc()).limit(1), Signed)
_AT_SIZE = Query(_SIGNED.where(log_checkpoints.c.size == bindparam("wanted")), Signed)
_FIRST = Change(insert(log_head), ("one", *_Head._fields))
_MOVE = Change(
    update(log_head)
    .where(and_(log_head.c.one == 1, log_head.c.size == bindparam("known")))
    .values({name: bindparam(f"new_{name}") for name in ("size", "floor", "mark", "writers")})
)
_LEAF = Change(insert(log_leaves), ("leaf", "seq"))
_NEW_TILE = Change(insert(log_tiles), ("level", "number", "hashes"))
_WIDER_TILE = Change(
    update(log_tiles)
    .where(and_(log_tiles.c.level == bindparam("at_level"), log_tiles.c.number == bindparam("at_number")))
    .values(hashes=bindparam("new_hashes"))
)
_CHECKPOINT = Change(insert(log_checkpoints), Signed._fields)


def head_of(connection: Connection) -> Head | None:
    """Where the log ends; None before its first leaf."""
    row = _HEAD.first(connection)
    return None if row is None else Head(*row[:4], tuple(json.loads(row.writers)))


def waiting(connection: Connection, floor: int, most: int) -> list[Waiting]:
    """The first events without a leaf, at most `most`, in the order that they will have."""
    return _WAITING.all(connection, floor=floor, most=most)


def is_what_it_says(connection: Connection, event: Waiting) -> bool:
    """Whether the event's id is that of its content."""
    content = _WHOLE.one(connection, wanted=event.seq).body if event.body is None else event.body
    return event.id == digest_bytes(octets(content))


def writers(connection: Connection) -> list[str]:
    """The transactions that may hold the number of an event which nobody can see yet.

    On SQLite there are none: writers take turns, so that whoever sees a number sees all that are lower.
    """
    if connection.dialect.name == "sqlite":
        return []
    return sorted(row.transaction for row in _WRITERS.all(connection))


def append(connection: Connection, known: Head, moved: Head, seqs: Sequence[int], growth: Growth) -> None:
    """Store leaves and tiles behind the leaves that were `known`. Raises StaleSequencer where there are more by now."""
    values: dict[str, Any] = {"size": moved.size, "floor": moved.floor, "mark": moved.mark}
    values["writers"] = canonical_json(moved.writers).decode()
    try:
        if known.size == 0:
            _FIRST.run(connection, one=1, origin=moved.origin, **values)
        elif not _MOVE.run(connection, known=known.size, **{f"new_{name}": value for name, value in values.items()}):
            raise _stale(known)
    except IntegrityError as error:
        raise _stale(known) from error
    _LEAF.run_many(connection, [{"leaf": known.size + i, "seq": seq} for i, seq in enumerate(seqs)])
    old = {(level, known.size >> 8 * (level + 1)) for level, width in enumerate(widths(known.size)) if width}
    for (level, number), hashes in growth.tiles.items():
        if (level, number) in old:
            _WIDER_TILE.run(connection, at_level=level, at_number=number, new_hashes=hashes)
        else:
            _NEW_TILE.run(connection, level=level, number=number, hashes=hashes)


def store_checkpoint(connection: Connection, signed: Signed) -> None:
    """Write down what was signed."""
    _CHECKPOINT.run(connection, **signed._asdict())


def latest_checkpoint(connection: Connection) -> Signed | None:
    """The checkpoint of the largest size."""
    return _LATEST.first(connection)


def checkpoint_at(connection: Connection, size: int) -> Signed | None:
    """The checkpoint of exactly this size."""
    return _AT_SIZE.first(connection, wanted=size)


def tiles_in(connection: Connection) -> ReadTile:
    """Reads tiles. Raises LedgerError where one is missing."""

    def tile(level: int, number: int) -> bytes:
        found = stored_tile(connection, level, number)
        if found is None:
            raise LedgerError(
                f"Tile {number} of level {level} is missing from the log.", do="Run `commonfleet verify` to see more."
            )
        return found

    return tile


def stored_tile(connection: Connection, level: int, number: int) -> bytes | None:
    """The hashes of a tile, or None."""
    row = _TILE.first(connection, level=level, number=number)
    return None if row is None else octets(row.hashes)


def octets(value: object) -> bytes:
    """The bytes of a column, whatever somebody has put there: SQLite holds any type in any of them."""
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Inclusion:
    """What shows that a leaf is in the tree of a checkpoint: see `merkle.verify_inclusion`."""

    index: int
    size: int
    leaf: bytes
    proof: tuple[bytes, ...]


def prove_inclusion(connection: Connection, index: int, size: int) -> Inclusion:
    """Prove leaf `index` in the first `size` leaves. Raises ValueError outside of them."""
    tile = tiles_in(connection)
    node = nodes_in(tile)
    proof = tuple(inclusion_proof(index, size, node))
    return Inclusion(index, size, node(0, index), proof)


def prove_event(connection: Connection, event: str, size: int) -> Inclusion:
    """Prove an event, by its id, in the first `size` leaves. Raises LedgerError where it has no leaf there."""
    found = connection.scalar(
        select(log_leaves.c.leaf).join(events, events.c.seq == log_leaves.c.seq).where(events.c.id == event)
    )
    if found is None or found >= size:
        raise LedgerError(f"The event {event} has no leaf among the first {size}.", do="It may be in the next ones.")
    return prove_inclusion(connection, found, size)


def prove_consistency(connection: Connection, first: int, second: int) -> tuple[bytes, ...]:
    """Prove that the first `first` leaves are the beginning of the first `second`."""
    return tuple(consistency_proof(first, second, nodes_in(tiles_in(connection))))


def _stale(known: Head) -> StaleSequencer:
    return StaleSequencer(
        f"Another sequencer has appended behind the first {known.size:,} leaves.",
        kept="Nothing was appended twice.",
    )
