"""The sequencer: gives the events that have no leaf yet their place in the Merkle log, batch by batch.

Whoever writes an event never waits for the tree: reading and hashing need no lock, and the transaction that appends a
thousand leaves takes some milliseconds. Any number of sequencers may run. Each appends behind the size that it saw,
and the one that finds another size there has lost its batch and looks again. A batch, its tiles and its signed
checkpoint are one transaction, so that a sequencer that is killed leaves either all of them or none.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from sqlalchemy import Connection

from blocks.canonical import short
from blocks.errors import LedgerError, StaleSequencer, TrustError
from blocks.ledger import Ledger, clock, log
from blocks.ledger.merkle import EMPTY_ROOT
from blocks.ledger.notes import ED25519, Checkpoint, VerifierKey, check_note, parse_note, signed
from blocks.ledger.tiles import edge_of, edge_root, grow, hashes_of
from blocks.signing import Key

BATCH = 1000
"""Leaves in a transaction: enough to make its cost small, few enough for writers not to notice it."""


@dataclass(frozen=True)
class Signer:
    """Who signs the log: its name (the checkpoints' origin, and the key's name in its signatures) and its key."""

    name: str
    key: Key

    @property
    def verifier(self) -> VerifierKey:
        """What others check the log with."""
        return VerifierKey(self.name, ED25519, self.key.public)


def signer_of(ledger: Ledger, key: Key, origin: str = "") -> Signer:
    """The signer of this ledger's log: named as the log is, or, before its first leaf, as `origin` says.

    Without either the log is named after its key. Raises LedgerError where the log has another name already.
    """
    with ledger.read() as connection:
        head = log.head_of(connection)
    if head and origin not in ("", head.origin):
        raise LedgerError(
            f"The log is called {head.origin!r} and not {origin!r}.",
            kept="Nothing was changed.",
            do="A log keeps its name: those who check it know it by that.",
        )
    return Signer(head.origin if head else origin or f"commonfleet/{key.id.removeprefix('sha256:')[:16]}", key)


def sequence(ledger: Ledger, signer: Signer, batch: int = BATCH) -> int:
    """Give the next events their leaves, at most `batch`, and sign a checkpoint; returns how many there were.

    Raises StaleSequencer where another sequencer was faster: nothing was changed, and a next call goes on. Raises
    TrustError where the stored tree was changed, and at an event that is not what its id says: those before it have
    their leaves then.
    """
    before: list[str] = []
    if ledger.engine.dialect.name != "sqlite":
        with ledger.read() as connection:  # a look of its own: it must be over before the next one begins
            before = log.writers(connection)
    with ledger.read() as connection:
        known = log.head_of(connection) or log.Head(signer.name)
        found = log.waiting(connection, known.floor, batch)
        if not found:
            return 0
        edge = _edge(connection, known, signer)
        sound = list(itertools.takewhile(lambda event: log.is_what_it_says(connection, event), found))
    if not sound:
        raise strange(found[0])
    growth = grow(known.size, edge, [event.leaf for event in sound])
    with ledger.write() as connection:
        after = log.writers(connection)
        moved = known.moved(growth.size, sound[-1].seq, len(sound) < batch and sound == found, before, after)
        log.append(connection, known, moved, [event.seq for event in sound], growth)
        # Signed only now: a sequencer that lost has never signed a log that nobody will see.
        note = signed(str(Checkpoint(signer.name, growth.size, growth.root)), signer.name, signer.key)
        log.store_checkpoint(connection, log.Signed(growth.size, growth.root, str(note), clock(connection)))
    if sound != found:
        raise strange(found[len(sound)])
    return len(sound)


def strange(event: log.Waiting) -> TrustError:
    """Why the log stops before an event that is not what its id says.

    Signed, it could never be taken back, and everybody who checks the log would find it.
    """
    return TrustError(
        f"Event {event.seq} ({short(str(event.id))}) is not what its id says: somebody wrote it past commonfleet, "
        "or the disk damaged it.",
        kept="It was not signed. It and the events after it wait; those before it are in the log, and runs go on.",
        do="`commonfleet verify` names each such event. Copy the ledger away, find out where it came from, then "
        "restore a backup or take the row out, as docs/keeping.md says: the log then goes on by itself.",
    )


def _edge(connection: Connection, known: log.Head, signer: Signer) -> list[bytes]:
    """The tree's right edge. Raises TrustError where it is not that of the tree that was signed last.

    A log must never sign what does not continue what it signed before; a tile that was changed would make it do so.
    Nor may it change its key: to those who know the old one it would end here.
    """
    edge = edge_of(known.size, log.tiles_in(connection))
    newest = log.latest_checkpoint(connection)
    was = (newest.size, newest.root) if newest else (0, EMPTY_ROOT)
    if (known.size, edge_root([hashes_of(tile) for tile in edge])) != was:
        raise TrustError(
            "The tree in the ledger is not the one that was signed last.",
            kept="Nothing was signed. Events are still written, and wait.",
            do="`commonfleet verify` says what was changed.",
        )
    if newest and signer.verifier not in check_note(parse_note(log.octets(newest.note)), [signer.verifier]):
        raise TrustError(
            f"The log was signed with another key than {signer.verifier} until now.",
            kept="Nothing was signed. Events are still written, and wait.",
            do="Put the log's own key back from a backup.",
        )
    return edge


def sequence_all(ledger: Ledger, signer: Signer, batch: int = BATCH) -> int:
    """Sequence until nothing waits; returns how many events got their leaves here."""
    total = 0
    while True:
        try:
            done = sequence(ledger, signer, batch)
        except StaleSequencer:
            continue  # the other one has appended meanwhile, so this ends as well
        total += done
        if done < batch:
            return total
