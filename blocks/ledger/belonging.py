"""Which store a ledger's files stand in, and whose a bucket is: both are noted once and never guessed.

With another store than before, everything would look lost, and what stands in the state folder would be taken for
copies of a bucket that never had them. Two ledgers in one bucket would sweep away each other's files as garbage.
"""

from __future__ import annotations

from sqlalchemy import Connection, exists, select

from blocks.bucket import Bucket
from blocks.errors import LedgerError
from blocks.ledger.database import Ledger
from blocks.ledger.revisions import note, noted
from blocks.ledger.schema import bundles, segments

STORE, MARK = "store", "ledger-identity"
"""The line of `meta` with the bucket's URL; the object in the bucket with the identity of the ledger it belongs to."""


def check_store(ledger: Ledger) -> None:
    """Raises LedgerError where the ledger's files do not stand in the store that it was opened with."""
    bucket = ledger.store.bucket
    with ledger.read() as connection:
        known = noted(connection, STORE)
        if known == (bucket.url if bucket else None):
            return
        if known is None and bucket is not None and not _has_files(connection):
            return  # a new ledger, whose first writer takes the bucket
    asked = bucket.url if bucket else "the state folder"
    raise LedgerError(
        f"The files of this ledger stand in {known or 'its state folder'}, and it was opened with {asked}.",
        kept="Nothing was changed.",
        do=f"Set COMMONFLEET_STORE to {known}."
        if known
        else "Unset COMMONFLEET_STORE: only a new ledger takes a bucket.",
    )


def take_bucket(ledger: Ledger) -> None:
    """Have a new ledger keep its files in its bucket from now on. Raises LedgerError for one that is another's."""
    bucket = ledger.store.bucket
    if bucket is None:
        return
    with ledger.read() as connection:
        if noted(connection, STORE) is not None:
            return
        identity = noted(connection, "identity") or ""
    _mark(bucket, identity)
    with ledger.write() as connection:
        note(connection, STORE, bucket.url)


def _mark(bucket: Bucket, identity: str) -> None:
    try:
        owner = bucket.get(MARK).decode("utf-8", "replace")
    except FileNotFoundError:
        if next(iter(bucket.names("results/")), None) is None:
            bucket.put(MARK, identity.encode())
            return
        owner = ""
    if owner != identity or not identity:
        raise LedgerError(
            f"{bucket.url} holds the files of another ledger.",
            kept="Nothing was changed.",
            do="Name a prefix of its own for each ledger.",
        )


def _has_files(connection: Connection) -> bool:
    return bool(connection.scalar(select(exists(select(bundles.c.digest)) | exists(select(segments.c.digest)))))
