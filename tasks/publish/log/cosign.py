"""Witnesses: parties that look at the published log, remember it, and co-sign what continues what they saw.

A vendor runs `witness` over the log's folder every few minutes and sends back what it returns; we keep its line with
`accept_cosignature`, and the next export publishes it. A log that showed two histories would need each witness that a
verifier asks for to lie with it (https://c2sp.org/tlog-cosignature).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from blocks.errors import TrustError
from blocks.ledger import Ledger, clock, log
from blocks.ledger.log_schema import log_cosignatures
from blocks.ledger.notes import COSIGNATURE, Note, check_note, cosigned, parse_checkpoint, parse_note, verifier_key
from blocks.signing import Key
from tasks.publish.log.verify_log import verify_log


def witness(folder: Path, key: str, *, remembered: Path, name: str, own: Key, at: int) -> Note:
    """Check a published log against what this witness remembers, and co-sign its checkpoint.

    `name` is the witness's, `at` the time in seconds since the epoch. Raises TrustError, signing nothing, where
    anything is wrong.
    """
    checked = verify_log(folder, key, remembered=remembered)
    if not checked.good:
        raise TrustError(f"The log is not what it was: {checked.findings[0]}", kept="It was not co-signed.")
    if checked.not_kept:
        raise TrustError(
            f"The log was checked, but {checked.not_kept}.",
            kept="It was not co-signed: a witness that forgets could vouch for two histories.",
            do="Free some space, or name a file that can be written.",
        )
    # What was remembered is what was checked: the folder may have a newer checkpoint by now.
    note = parse_note(remembered.read_bytes())
    return cosigned(note, name, own, at)


def accept_cosignature(ledger: Ledger, data: bytes, witnesses: Sequence[str]) -> int:
    """Keep the co-signatures of the `witnesses` that a checkpoint bears; returns how many are new.

    Raises TrustError where it is no checkpoint of this log, or a signature of one of them is wrong.
    """
    note = parse_note(data)
    keys = [key for key in map(verifier_key, witnesses) if key.type == COSIGNATURE]
    signers = check_note(note, keys)
    size = parse_checkpoint(note.text).size
    new = 0
    with ledger.write() as connection:
        known = log.checkpoint_at(connection, size)
        if known is None or parse_note(known.note.encode()).text != note.text:
            raise TrustError(f"This is no checkpoint that this log has signed ({size:,} entries).")
        for key, witnessed in signers.items():
            own = (s for s in note.signatures if (s.name, s.key) == (key.name, key.id))
            line = str(max(own, key=lambda signature: signature.data[:8]))
            values = {"size": size, "witness": str(key), "line": line, "witnessed": witnessed, "at": clock(connection)}
            new += _insert_once(connection, values)
    return new


def newest_cosigned(connection: Connection) -> log.Signed | None:
    """The largest checkpoint that a witness has co-signed."""
    size = connection.scalar(select(log_cosignatures.c.size).order_by(log_cosignatures.c.size.desc()).limit(1))
    return None if size is None else log.checkpoint_at(connection, size)


def with_cosignatures(connection: Connection, signed: log.Signed) -> str:
    """The checkpoint's note with the lines of its witnesses."""
    lines = select(log_cosignatures.c.line).where(log_cosignatures.c.size == signed.size)
    return signed.note + "".join(connection.scalars(lines.order_by(log_cosignatures.c.witness)))


def _insert_once(connection: Connection, values: dict[str, Any]) -> int:
    insert = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    return connection.execute(insert(log_cosignatures).values(**values).on_conflict_do_nothing()).rowcount
