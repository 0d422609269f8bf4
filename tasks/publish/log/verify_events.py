"""`commonfleet verify`: each event of the ledger against its leaf, and every checkpoint against the tree.

The same walk as over a published log, with the rows of the ledger as its entries. It finds what was changed behind the
triggers' backs. Somebody who holds the log's key and rewrites all of it is found only against a checkpoint that was
kept elsewhere, or by a witness: see `seen.py`.
"""

from __future__ import annotations

import contextlib
import heapq
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, func, select

from blocks.canonical import digest_bytes, short
from blocks.errors import TrustError
from blocks.ledger import Ledger, log
from blocks.ledger.entries import entry_of
from blocks.ledger.log import octets
from blocks.ledger.log_schema import log_checkpoints, log_cosignatures, log_leaves
from blocks.ledger.merkle import HASH_BYTES, leaf_hash
from blocks.ledger.notes import Checkpoint, VerifierKey, check_note, parse_checkpoint, parse_note
from blocks.ledger.prepared import Query
from blocks.ledger.schema import events
from blocks.ledger.tiles import WIDTH
from tasks.publish.log.findings import LISTED, Audit, Findings, assured
from tasks.publish.log.seen import (
    Seen,
    checked_note,
    continued,
    kept,
    log_key,
    read_seen,
    told_different,
    told_shorter,
    witness_keys,
    witnessed,
)
from tasks.publish.log.walk import walk

PAGE = 500
"""Checkpoints, or events that wait, that are read at once."""


class _Row(NamedTuple):
    leaf: int | None  # None where it waits for one
    seq: int
    id: str | None
    kind: str
    run: str | None
    at: float
    body: str


class _State(NamedTuple):
    """What the tree is said to have been by a row of `log_checkpoints`."""

    size: int
    root: bytes
    where: str


_ROWS = Query(
    select(log_leaves.c.leaf, log_leaves.c.seq, *(events.c[name] for name in ("id", "kind", "run", "at", "body")))
    .select_from(log_leaves.outerjoin(events, events.c.seq == log_leaves.c.seq))
    .where(log_leaves.c.leaf >= bindparam("first"), log_leaves.c.leaf < bindparam("end"))
    .order_by(log_leaves.c.leaf),
    _Row,
)
_WAITING = Query(
    select(log_leaves.c.leaf, events.c.seq, *(events.c[name] for name in ("id", "kind", "run", "at", "body")))
    .select_from(events.outerjoin(log_leaves, log_leaves.c.seq == events.c.seq))
    .where(events.c.seq > bindparam("after"), log_leaves.c.seq.is_(None))
    .order_by(events.c.seq)
    .limit(PAGE),
    _Row,
)
_CHECKPOINTS = Query(
    select(*(log_checkpoints.c[name] for name in log.Signed._fields))
    .where(log_checkpoints.c.size > bindparam("after"))
    .order_by(log_checkpoints.c.size)
    .limit(PAGE),
    log.Signed,
)


def verify_events(
    ledger: Ledger,
    key: str,
    *,
    remembered: Path | None = None,
    witnesses: Sequence[str] = (),
    seen: Sequence[Path] = (),
    pinned: bool = False,
) -> Audit:
    """Check the ledger's events and its log against each other, with the log's key (`name+id+base64`).

    `remembered`, `witnesses` and `seen` are as for `verify_log`. `pinned` says that the key did not come from this
    ledger: then it must have a log. Raises TrustError where a key is none.
    """
    own, trusted, findings = log_key(key), witness_keys(witnesses), Findings()
    others = [state for path in seen if (state := read_seen(path, str(path), own, trusted, findings))]
    memory = None
    if remembered is not None and remembered.exists():
        memory = read_seen(remembered, str(remembered), own, trusted, findings)
    earlier = [state for state in (memory, *others) if state]
    with ledger.read() as connection, whatever_it_holds(connection):
        head = log.head_of(connection) or log.Head(own.name)
        newest = log.latest_checkpoint(connection)
        if pinned and newest is None:
            findings.add("missing", "log_checkpoints", f"there is no log here, and {own.name!r} has one")
        if head.origin != own.name:
            findings.add("other_log", "log_head", f"this is the log {head.origin!r}, not {own.name!r}")
        _check_end(head, newest, findings)
        for state in earlier:
            told_shorter(state, head.size, findings)
        _compare(connection, head, newest, _signed_states(connection, own, findings), earlier, findings)
        _check_leafless(connection, head, findings)
        waiting = _check_waiting(connection, head.floor, findings)
        cosigned = _cosigned(connection, own, trusted, findings)
    vouchers = continued(memory, others) + witnessed(trusted, [*earlier, *cosigned], findings)
    good = findings.count == 0
    not_kept = kept(remembered, octets(newest.note)) if good and remembered and newest else ""
    root = octets(newest.root) if newest else b""
    listed, assurance = tuple(findings.listed), assured(good, head.size, vouchers)
    return Audit(head.origin, head.size, root, listed, findings.count, assurance, waiting, not_kept)


class _LedgerSource:
    """Reads tiles and events from the ledger, for `walk`."""

    def __init__(self, connection: Connection, findings: Findings) -> None:
        self._connection, self._findings = connection, findings
        self._rows: dict[int | None, _Row] = {}

    def tile(self, level: int, number: int, width: int) -> bytes | None:
        data = log.stored_tile(self._connection, level, number)
        name, wanted = self.tile_name(level, number, width), width * HASH_BYTES
        if data is None:
            self._findings.add("missing", name, "the tile is missing")
        elif len(data) != wanted:
            self._findings.add("damaged", name, f"it has {len(data)} bytes where {wanted} belong")
        return data[:wanted] if data is not None and len(data) >= wanted else None

    def leaves(self, number: int, width: int) -> list[bytes | None]:
        first = number * WIDTH
        self._rows = {row.leaf: row for row in _ROWS.all(self._connection, first=first, end=first + width)}
        stored = log.stored_tile(self._connection, 0, number) or b""
        made: list[bytes | None] = []
        for index in range(first, first + width):
            row = self._rows.get(index)
            if row is None:
                self._findings.add("missing_leaf", f"leaf {index}", "nothing says which event this leaf is")
            elif row.id is None:
                self._findings.add("missing_event", f"leaf {index}", f"its event, number {row.seq}, is gone")
            hashed = leaf_hash(entry_of(octets(row.body))) if row and row.id is not None else None
            made.append(hashed)
            start = (index - first) * HASH_BYTES
            # What the leaf vouches for is the body. The columns beside it are for queries, and must say the same.
            if row and hashed is not None and hashed == stored[start : start + HASH_BYTES] and not _columns_fit(row):
                self._findings.add(
                    "changed_event", self.entry_name(index), "its columns do not say what its content says"
                )
        return made

    def entry_name(self, index: int) -> str:
        row = self._rows.get(index)
        if row is None or row.id is None:
            return f"leaf {index}"
        return f"event {row.seq} ({row.kind!s:.40}, {short(str(row.id))}), leaf {index}"

    def tile_name(self, level: int, number: int, width: int) -> str:
        return f"tile {number} of level {level}"


@contextlib.contextmanager
def whatever_it_holds(connection: Connection) -> Iterator[None]:
    """Read text as it is. One flipped bit can make SQLite's no UTF-8, and the check must name it and not end there."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    before = driver.text_factory
    driver.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        driver.text_factory = before


def _columns_fit(row: _Row) -> bool:
    try:
        content: Any = json.loads(row.body)
        said = (content["kind"], content["run"], float(content["at"]))
    except (ValueError, TypeError, KeyError):
        return False
    return said == (row.kind, row.run, row.at) and row.id == digest_bytes(octets(row.body))


def _check_end(head: log.Head, newest: log.Signed | None, findings: Findings) -> None:
    size = newest.size if newest else 0
    if size > head.size:
        says = f"it has {size:,} leaves, the log has {head.size:,}: the last {size - head.size:,} were removed"
        findings.add("removed_tail", "the newest checkpoint", says)
    if size < head.size:
        findings.add("missing", "log_checkpoints", f"there is no checkpoint of all {head.size:,} leaves")


def _compare(
    connection: Connection,
    head: log.Head,
    newest: log.Signed | None,
    signed: Iterator[_State],
    earlier: Sequence[Seen],
    findings: Findings,
) -> None:
    """Walk the log, and compare it with each state that the ledger says it had, and each that was kept elsewhere."""
    kept_elsewhere = sorted(earlier, key=_size)
    states: Iterator[_State | Seen] = heapq.merge(signed, kept_elsewhere, key=_size)
    reached = (state for state in states if state.size <= head.size)
    last, fits, different = None, False, []
    source = _LedgerSource(connection, findings)
    for state, found in walk(source, head.size, octets(newest.root) if newest else b"", reached, findings):
        if isinstance(state, _State) and newest and state.size == newest.size:
            last, fits = Checkpoint(head.origin, state.size, state.root), found == state.root
        if found is None or found == state.root:
            continue
        if isinstance(state, Seen):
            different.append(state)
        else:
            says = f"its root is not that of the log's first {state.size:,} leaves"
            findings.add("wrong_root", state.where, says)
    for state in different:
        told_different(state, last, fits, findings)


def _size(state: _State | Seen) -> int:
    return state.size


def _signed_states(connection: Connection, own: VerifierKey, findings: Findings) -> Iterator[_State]:
    after = -1
    while page := _CHECKPOINTS.all(connection, after=after):
        for row in page:
            where = f"checkpoint of {row.size:,} leaves"
            try:
                note = parse_note(octets(row.note))
                if own not in check_note(note, [own]):
                    raise TrustError(f"It bears no signature of {own}.")
                if parse_checkpoint(note.text) != Checkpoint(own.name, row.size, octets(row.root)):
                    raise TrustError("What it signs is not what its row says.")
            except TrustError as error:
                findings.add("bad_signature", where, str(error))
                continue
            yield _State(row.size, octets(row.root), where)
        after = page[-1].size


def _cosigned(
    connection: Connection, own: VerifierKey, trusted: Sequence[VerifierKey], findings: Findings
) -> list[Seen]:
    """The newest checkpoint that each of the witnesses has co-signed, as the ledger holds it.

    That the tree has its root is seen from the checkpoint's own row, which is compared like every other.
    """
    found = []
    for witness in trusted:
        newest = select(log_cosignatures.c.size, log_cosignatures.c.line).order_by(log_cosignatures.c.size.desc())
        row = connection.execute(newest.where(log_cosignatures.c.witness == str(witness)).limit(1)).first()
        checkpoint = log.checkpoint_at(connection, row.size) if row else None
        if row is None or checkpoint is None:
            continue  # it is missed where witnesses are counted
        where = f"co-signature of {witness.name} to {row.size:,} leaves"
        state = checked_note(octets(checkpoint.note) + octets(row.line), where, own, [witness], findings)
        found += [state] if state else []
    return found


def _check_leafless(connection: Connection, head: log.Head, findings: Findings) -> None:
    without = select(events.c.seq, events.c.id, events.c.kind).select_from(
        events.outerjoin(log_leaves, log_leaves.c.seq == events.c.seq)
    )
    missed = without.where(log_leaves.c.seq.is_(None), events.c.seq <= head.floor).order_by(events.c.seq)
    for seq, event, kind in connection.execute(missed.limit(LISTED)):
        says = "it has no leaf and will get none: it was put behind the log's back"
        findings.add("never_sequenced", f"event {seq} ({kind!s:.40}, {short(str(event))})", says)
    beyond = connection.scalar(select(func.count()).select_from(log_leaves).where(log_leaves.c.leaf >= head.size))
    if beyond:
        findings.add("missing_leaf", "log_leaves", f"{beyond:,} leaves lie beyond the log's end")


def _check_waiting(connection: Connection, floor: int, findings: Findings) -> int:
    """How many events wait for their leaf. Each must be what its id says: soon the log vouches for it."""
    count = 0
    after = floor
    while page := _WAITING.all(connection, after=after):
        for row in page:
            if not _columns_fit(row):
                where = f"event {row.seq} ({row.kind!s:.40}, {short(str(row.id))}), which waits for its leaf"
                says = "its id and columns do not say what its content says: it was not written by commonfleet so"
                findings.add("changed_event", where, says)
        count += len(page)
        after = page[-1].seq
    return count
