"""Events: one row per change that matters outside, in the same transaction as the change.

An event is a leaf of the Merkle log, so its body is canonical JSON and its id is the hash of its content. Readers
outside (dashboards, vendors, auditors) see the world through these rows and nothing else.
"""

from __future__ import annotations

import uuid
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from blocks.canonical import canonical_json, digest_bytes
from blocks.ledger.prepared import Change, Query
from blocks.ledger.schema import events, now


class _Clock(NamedTuple):
    seconds: float


_CLOCK = Query(select(now()), _Clock)
_EVENT = Change(insert(events), ("id", "kind", "run", "at", "body"))


def clock(connection: Connection) -> float:
    """What the database's clock says, in seconds since the epoch, UTC."""
    return _CLOCK.one(connection).seconds


def record(connection: Connection, kind: str, *, run: str | None = None, at: float | None = None, **body: Any) -> str:
    """Write one event; returns its content id. `kind` is `noun.verb`, such as `lease.granted`.

    `at` is the database's clock, where the caller has just read it.
    """
    if at is None:
        at = clock(connection)
    # The nonce keeps two equal changes in the same millisecond apart (ids are unique).
    content = canonical_json({"kind": kind, "run": run, "at": at, "body": body, "nonce": uuid.uuid4().hex[:12]})
    identity = digest_bytes(content)
    _EVENT.run(connection, id=identity, kind=kind, run=run, at=at, body=content.decode())
    return identity
